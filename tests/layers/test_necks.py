"""Necks agree with their equations on small maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.layers.deform import ModulatedDeformConv, OffsetPredictor
from workbench.layers.necks import FPN, PAFPN


def maps(height, width, channels=(3, 5, 7)):
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, (8, 16, 32), strict=True)]


@pytest.mark.parametrize("size", [(96, 96), (352, 96), (64, 416), (32, 32)])
def test_each_level_of_an_fpn_has_half_the_size_of_the_one_before(size):
    c3, c4, c5 = maps(*size)
    pyramid = FPN((3, 5, 7), 6)([c3, c4, c5])
    expected = [tuple(c.shape[-2:]) for c in (c3, c4, c5)]
    for _ in range(2):
        expected.append(tuple(-(-n // 2) for n in expected[-1]))
    assert [tuple(p.shape) for p in pyramid] == [(2, 6, *shape) for shape in expected]


def test_all_levels_of_an_fpn_in_a_worked_example():
    """One channel; every convolution multiplies each location by a factor."""
    fpn = FPN((1, 1, 1), 1)
    centre = torch.zeros(1, 1, 3, 3)
    centre[..., 1, 1] = 1
    with torch.no_grad():
        for conv, factor in zip(fpn.laterals, (2.0, 3.0, 5.0), strict=True):
            conv.weight.fill_(factor)
        for conv, factor in zip(fpn.outputs, (1.0, 1.0, -1.0), strict=True):
            conv.weight.copy_(factor * centre)
        fpn.extra[0].weight.copy_(centre)
        fpn.extra[1].weight.copy_(centre)
        fpn.extra[1].bias.fill_(0.5)
    c5 = torch.tensor([[1.0, -2, 4], [3, 5, -6], [7, -8, -9]])  # 3 × 3
    c4 = torch.full((6, 5), 10.0)  # an odd width, so that upsampling must use the exact size
    c3 = torch.full((12, 9), 100.0)
    p3, p4, p5, p6, p7 = (p[0, 0] for p in fpn([c[None, None] for c in (c3, c4, c5)]))

    n5 = 5 * c5
    n4 = torch.tensor([[30 + n5[i // 2, j * 3 // 5].item() for j in range(5)] for i in range(6)])
    n3 = torch.tensor([[200 + n4[i // 2, j * 5 // 9].item() for j in range(9)] for i in range(12)])
    assert torch.equal(p5, -n5)
    assert torch.equal(p4, n4)
    assert torch.equal(p3, n3)
    assert torch.equal(p6, p5[::2, ::2])  # without ReLU, and from P5, not C5
    assert (p6 < 0).any()
    assert (p6 > 0).any()
    assert torch.equal(p7, p6[::2, ::2].relu() + 0.5)
    assert (p6[::2, ::2] < 0).any()


def test_initial_weights_of_an_fpn():
    torch.manual_seed(0)
    fpn = FPN((64, 128, 256), 32)
    for conv in (m for m in fpn.modules() if isinstance(m, nn.Conv2d)):
        fan_in, fan_out = (n * conv.kernel_size[0] ** 2 for n in (conv.in_channels, conv.out_channels))
        bound = (6 / (fan_in + fan_out)) ** 0.5  # Xavier-uniform
        assert 0.99 * bound < conv.weight.abs().max() <= bound
        assert (conv.bias == 0).all()


# ---------------------------------------------------------------------------------------- the necks of the other families


def only_centre(conv, factor=1.0):
    """Let a convolution multiply each location by a factor."""
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = factor


@pytest.mark.parametrize("p6_from_input", [False, True])
@pytest.mark.parametrize("relu_before_p7", [False, True])
def test_the_settings_choose_the_inputs_of_p6_and_p7(p6_from_input, relu_before_p7):
    fpn = FPN((1, 1, 1), 1, p6_from_input=p6_from_input, relu_before_p7=relu_before_p7)
    for conv in (*fpn.laterals, *fpn.outputs, *fpn.extra):
        only_centre(conv)
    only_centre(fpn.laterals[2], 10.0)
    c5 = torch.tensor([[1.0, -2, 4], [3, 5, -6], [-7, -8, -9]])
    *_, p5, p6, p7 = (p[0, 0] for p in fpn([torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 6, 6), c5[None, None]]))
    assert torch.equal(p5, 10 * c5)
    expected = (c5 if p6_from_input else 10 * c5)[::2, ::2]
    assert torch.equal(p6, expected)
    assert expected[0, 0] > 0 > expected[1, 1]
    last = expected[::2, ::2]
    assert torch.equal(p7, last.relu() if relu_before_p7 else last)

    c5 = -c5  # the first location is negative, so that a ReLU sets it to zero
    *_, p6, p7 = (p[0, 0] for p in fpn([torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 6, 6), c5[None, None]]))
    assert p6[0, 0] < 0
    assert p7.item() == (0 if relu_before_p7 else p6[0, 0].item())


@pytest.mark.parametrize("size", [(352, 96), (64, 416)])
def test_p6_from_c5_has_half_the_size_of_c5(size):
    c = maps(*size)
    fpn = FPN((3, 5, 7), 6, p6_from_input=True, relu_before_p7=False)
    assert [e.in_channels for e in fpn.extra] == [7, 6]
    shapes = [tuple(p.shape) for p in fpn(c)]
    assert shapes == [tuple(p.shape) for p in FPN((3, 5, 7), 6)(c)]


def test_a_group_norm_follows_every_convolution():
    torch.manual_seed(0)
    fpn = FPN((3, 5, 7), 6, p6_from_input=True, relu_before_p7=False, norm_groups=3)
    convs = [m for m in fpn.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in fpn.modules() if isinstance(m, nn.GroupNorm)]
    assert len(convs) == len(norms) == 8
    assert all(conv.bias is None for conv in convs)
    assert {norm.num_groups for norm in norms} == {3}
    for conv in convs:
        fan_in, fan_out = (n * conv.kernel_size[0] ** 2 for n in (conv.in_channels, conv.out_channels))
        assert conv.weight.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5

    c3, c4, c5 = maps(96, 160)

    def normalised(conv, x):
        x = nn.functional.conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding)
        groups = x.double().unflatten(1, (3, 2))
        mean, variance = (groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), correction=0, keepdim=True))
        return ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2).float()

    def upsampled(x, size):
        return nn.functional.interpolate(x, size=size, mode="nearest")

    n5 = normalised(convs[2], c5)
    n4 = normalised(convs[1], c4) + upsampled(n5, c4.shape[2:])
    n3 = normalised(convs[0], c3) + upsampled(n4, c3.shape[2:])
    p6 = normalised(convs[6], c5)
    expected = [normalised(conv, n) for conv, n in zip(convs[3:6], (n3, n4, n5), strict=True)]
    for level, equation in zip(fpn([c3, c4, c5]), [*expected, p6, normalised(convs[7], p6)], strict=True):
        torch.testing.assert_close(level, equation, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- the neck of VFNet-X


def pointwise(conv):
    """1×1 convolution without norm and deformation that keeps each location."""
    out, inner = (conv.out_channels, conv.in_channels) if isinstance(conv, nn.Conv2d) else conv.weight.shape[:2]
    same = nn.Conv2d(inner, out, 1, getattr(conv, "stride", 1), bias=False)
    nn.init.ones_(same.weight)
    return same


@pytest.mark.parametrize("size", [(352, 96), (64, 416), (32, 32)])
def test_a_pafpn_has_the_shapes_of_an_fpn(size):
    pafpn = PAFPN((3, 5, 7), 6, norm_groups=2)
    assert [p.shape for p in pafpn(maps(*size))] == [p.shape for p in FPN((3, 5, 7), 6)(maps(*size))]


def test_all_levels_of_a_pafpn_in_a_worked_example():
    """One channel; every convolution multiplies each location by another factor, so that each step is visible."""
    pafpn = PAFPN((1, 1, 1), 1, norm_groups=1)
    factors = {"inner": (2.0, 3.0, 5.0), "down": (7.0, 11.0), "outputs": (1.0, -1.0, 1.0), "extra": (1.0, 1.0)}
    for name, values in factors.items():
        for block, factor in zip(getattr(pafpn, name), values, strict=True):
            block[1] = nn.Identity()
            block[0] = pointwise(block[0])
            nn.init.constant_(block[0].weight, factor)
    for lateral in pafpn.laterals:
        nn.init.ones_(lateral.weight)
    c5 = torch.tensor([[1.0, -2, 4], [3, 5, -6], [7, -8, -9]])  # 3 × 3
    c4 = torch.arange(30.0).view(6, 5)  # an odd width
    c3 = torch.arange(108.0).view(12, 9)
    p3, p4, p5, p6, p7 = (p[0, 0] for p in pafpn([c[None, None] for c in (c3, c4, c5)]))

    m4 = torch.tensor([[c4[i, j] + c5[i // 2, j * 3 // 5] for j in range(5)] for i in range(6)])
    m3 = torch.tensor([[c3[i, j] + m4[i // 2, j * 5 // 9] for j in range(9)] for i in range(12)])
    n3, n4, n5 = 2 * m3, 3 * m4, 5 * c5
    n4 = n4 + 7 * n3[::2, ::2]
    n5 = n5 + 11 * n4[::2, ::2]  # N4 after the bottom-up addition
    for level, expected in ((p3, n3), (p4, -n4), (p5, n5), (p6, n5[::2, ::2])):
        assert torch.equal(level, expected)
    assert torch.equal(p7, n5[::2, ::2][::2, ::2].relu())

    *_, p5, p6, p7 = (p[0, 0] for p in pafpn([-c[None, None] for c in (c3, c4, c5)]))
    assert torch.equal(p6, p5[::2, ::2])  # without ReLU
    assert p6[0, 0] < 0 == p7[0, 0]


def test_parts_and_initial_weights_of_a_pafpn():
    torch.manual_seed(0)
    pafpn = PAFPN((64, 128, 256), 48, norm_groups=8)
    convs = [m for m in pafpn.modules() if isinstance(m, nn.Conv2d)]
    with_bias = [conv for conv in convs if conv.bias is not None]
    assert {id(c) for c in with_bias} == {id(c) for c in (*pafpn.laterals, *(o[0].predictor for o in pafpn.outputs))}
    assert not any(conv.bias.any() for conv in with_bias)
    assert sum(isinstance(conv, OffsetPredictor) for conv in convs) == 3
    for conv in convs:  # with the offset predictors, as in the released code
        fan_in, fan_out = (n * conv.kernel_size[0] ** 2 for n in (conv.in_channels, conv.out_channels))
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.99 * bound < conv.weight.abs().max() <= bound
    norms = [m for m in pafpn.modules() if isinstance(m, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [8] * (3 + 2 + 3 + 2)
    for output in pafpn.outputs:
        assert isinstance(output[0], ModulatedDeformConv)
        bound = (9 * 48) ** -0.5
        assert 0.99 * bound < output[0].weight.abs().max() <= bound


def test_all_parameters_of_a_pafpn_have_gradients():
    torch.manual_seed(0)
    pafpn = PAFPN((3, 5, 7), 6, norm_groups=2)
    c3, c4, c5 = maps(96, 160)
    pyramid = pafpn([c3.requires_grad_(), c4, c5])
    assert torch.autograd.grad(pyramid[2].square().sum(), c3, retain_graph=True)[0].any()  # along the bottom-up path
    sum((p * torch.randn_like(p)).sum() for p in pyramid).backward()
    for name, parameter in pafpn.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
