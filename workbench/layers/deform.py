"""Deformable convolution (Dai et al., ICCV 2017; not modulated), by one of several back ends.

Offsets hold ``(dy, dx)`` pairs, one for each kernel tap in row-major order, in units of the input's cells and relative
to the tap's regular position. Samples are bilinear, zero outside the map.
"""

from __future__ import annotations

from typing import Literal

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

BackEnd = Literal["auto", "torchvision", "sample"]


def deform_conv2d(x: Tensor, offset: Tensor, weight: Tensor, back_end: BackEnd = "auto") -> Tensor:
    """Deformable 3×3 convolution of stride 1 and padding 1, without bias.

    Args:
        x: ``[B, C, H, W]``.
        offset: ``[B, 18, H, W]``, ``dy, dx`` of the nine taps.
        weight: ``[O, C, 3, 3]``.
        back_end: ``torchvision``; ``sample``, built on ``grid_sample``; ``auto``, the faster one for x's device.

    Returns:
        ``[B, O, H, W]``.
    """
    if back_end == "auto":
        # On a CPU forward and backward of torchvision's kernel take several times as long as those of grid_sample.
        back_end = "sample" if x.device.type == "cpu" else "torchvision"
    if back_end == "torchvision":
        return torchvision.ops.deform_conv2d(x, offset.to(x.dtype), weight.to(x.dtype), padding=1)
    if back_end == "sample":
        return _by_grid_sample(x, offset, weight)
    raise ValueError(f"unknown back end {back_end!r} of deformable convolution: auto, torchvision or sample")


def regular_grid(device: torch.device | str) -> Tensor:
    """Positions ``[18]`` of a 3×3 kernel's taps about its centre: ``dy, dx`` of each, row-major."""
    tap = torch.arange(-1, 2, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(tap, tap, indexing="ij"), dim=-1).flatten()


def _by_grid_sample(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    batch, channels, rows, columns = x.shape
    position = offset.float() + regular_grid(x.device)[None, :, None, None]
    y = position[:, 0::2] + torch.arange(rows, device=x.device)[:, None]
    column = position[:, 1::2] + torch.arange(columns, device=x.device)
    # grid_sample with aligned corners puts cell 0 at -1 and the last one at +1; a map of one cell has no extent to
    # scale by, so it is given one more row or column of zeros: what lies outside is zero anyway.
    x = F.pad(x, (0, int(columns == 1), 0, int(rows == 1)))
    height, width = x.shape[-2:]
    grid = torch.stack([column * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    sampled = F.grid_sample(
        x.float(), grid.reshape(batch, 9 * rows, columns, 2), padding_mode="zeros", align_corners=True
    )
    # The sampled columns make of the deformable convolution a 1×1 one, for which the fastest kernels are at hand.
    patches = sampled.view(batch, channels * 9, rows, columns).to(x.dtype)
    return F.conv2d(patches, weight.to(x.dtype).reshape(len(weight), -1, 1, 1))


class DeformConv(torch.nn.Module):
    """A deformable 3×3 convolution with its weight ``[out, in, 3, 3]``; offsets come from outside.

    Shapes: x ``[B, in, H, W]``, offset ``[B, 18, H, W]`` → ``[B, out, H, W]``.
    """

    def __init__(self, in_channels: int, out_channels: int, back_end: BackEnd = "auto"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        torch.nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.back_end = back_end

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return deform_conv2d(x, offset, self.weight, self.back_end)
