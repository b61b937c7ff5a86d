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
