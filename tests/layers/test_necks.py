"""The feature pyramid against its equations on maps small enough to write out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.layers.necks import FPN


def maps(height, width, channels=(3, 5, 7)):
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, (8, 16, 32), strict=True)]


@pytest.mark.parametrize("size", [(96, 96), (352, 96), (64, 416), (32, 32)])
def test_shapes(size):
    c3, c4, c5 = maps(*size)
    pyramid = FPN((3, 5, 7), 6)([c3, c4, c5])
    expected = [tuple(c.shape[-2:]) for c in (c3, c4, c5)]
    for _ in range(2):
        expected.append(tuple(-(-n // 2) for n in expected[-1]))
    assert [tuple(p.shape) for p in pyramid] == [(2, 6, *shape) for shape in expected]


def test_all_levels_of_a_hand_made_case():
    """One channel; laterals multiply, output and extra convolutions take the cell itself times a factor."""
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
    c4 = torch.full((6, 5), 10.0)  # an odd width: upsampled to the exact size
    c3 = torch.full((12, 9), 100.0)
    p3, p4, p5, p6, p7 = (p[0, 0] for p in fpn([c[None, None] for c in (c3, c4, c5)]))

    n5 = 5 * c5
    n4 = torch.tensor([[30 + n5[i // 2, j * 3 // 5].item() for j in range(5)] for i in range(6)])
    n3 = torch.tensor([[200 + n4[i // 2, j * 5 // 9].item() for j in range(9)] for i in range(12)])
    assert torch.equal(p5, -n5)
    assert torch.equal(p4, n4)
    assert torch.equal(p3, n3)
    assert torch.equal(p6, p5[::2, ::2])  # not rectified, and of P5, not C5
    assert (p6 < 0).any()
    assert (p6 > 0).any()
    assert torch.equal(p7, p6[::2, ::2].relu() + 0.5)
    assert (p6[::2, ::2] < 0).any()


def test_start_values():
    torch.manual_seed(0)
    fpn = FPN((64, 128, 256), 32)
    for conv in (m for m in fpn.modules() if isinstance(m, nn.Conv2d)):
        fan_in, fan_out = (n * conv.kernel_size[0] ** 2 for n in (conv.in_channels, conv.out_channels))
        bound = (6 / (fan_in + fan_out)) ** 0.5  # Xavier, uniform
        assert 0.99 * bound < conv.weight.abs().max() <= bound
        assert (conv.bias == 0).all()


# ---------------------------------------------------------------------------------------- the other families' necks


def only_centre(conv, factor=1.0):
    """A convolution that takes the cell itself."""
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = factor


@pytest.mark.parametrize("p6_from_input", [False, True])
@pytest.mark.parametrize("relu_before_p7", [False, True])
def test_where_p6_and_p7_come_from(p6_from_input, relu_before_p7):
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

    c5 = -c5  # a first cell that a ReLU would take away
    *_, p6, p7 = (p[0, 0] for p in fpn([torch.zeros(1, 1, 12, 12), torch.zeros(1, 1, 6, 6), c5[None, None]]))
    assert p6[0, 0] < 0
    assert p7.item() == (0 if relu_before_p7 else p6[0, 0].item())


@pytest.mark.parametrize("size", [(352, 96), (64, 416)])
def test_p6_of_the_input_has_its_channels_and_half_its_size(size):
    c = maps(*size)
    fpn = FPN((3, 5, 7), 6, p6_from_input=True, relu_before_p7=False)
    assert [e.in_channels for e in fpn.extra] == [7, 6]
    shapes = [tuple(p.shape) for p in fpn(c)]
    assert shapes == [tuple(p.shape) for p in FPN((3, 5, 7), 6)(c)]


def test_norm_after_every_convolution():
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

    def above(x, size):
        return nn.functional.interpolate(x, size=size, mode="nearest")

    n5 = normalised(convs[2], c5)
    n4 = normalised(convs[1], c4) + above(n5, c4.shape[2:])
    n3 = normalised(convs[0], c3) + above(n4, c3.shape[2:])
    p6 = normalised(convs[6], c5)
    expected = [normalised(conv, n) for conv, n in zip(convs[3:6], (n3, n4, n5), strict=True)]
    for found, wanted in zip(fpn([c3, c4, c5]), [*expected, p6, normalised(convs[7], p6)], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
