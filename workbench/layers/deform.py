"""Deformable convolution (DCN: Dai et al., ICCV 2017; DCNv2, with masks: Zhu et al., CVPR 2019), by several back ends.

Offsets hold ``(dy, dx)`` pairs, one for each kernel tap in row-major order, in units of the input's cells and relative
to the tap's regular position. Samples are bilinear, zero outside the map. The back ends agree but for rounding, and for
the gradient of offsets whose sample lies exactly on the lattice, where it is not defined.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Literal

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from workbench.support.errors import WorkbenchError

BackEnd = Literal["auto", "torchvision", "mmcv", "sample"]


@cache
def mmcv_ops() -> ModuleType | None:
    """mmcv's compiled operators, where mmcv was built with them."""
    try:
        return import_module("mmcv.ops")
    except ImportError:
        return None


def back_ends(device: torch.device | str = "cpu") -> list[str]:
    """Back ends at hand on a device; mmcv's operators may have been built for the CPU alone."""
    ops = mmcv_ops()
    has_mmcv = ops and (torch.device(device).type == "cpu" or ops.get_compiling_cuda_version() != "not available")
    return ["sample", "torchvision", *(["mmcv"] if has_mmcv else [])]


def fastest_back_end(device: torch.device) -> str:
    """What ``auto`` stands for on a device."""
    if device.type == "cpu":
        # Forward and backward of the two libraries' kernels take several times as long there as those of grid_sample.
        return "sample"
    return "mmcv" if "mmcv" in back_ends(device) else "torchvision"


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    back_end: BackEnd = "auto",
    stride: int = 1,
) -> Tensor:
    """Deformable 3×3 convolution of padding 1, without bias.

    Args:
        x: ``[B, C, H, W]``.
        offset: ``[B, 18, h, w]``, ``dy, dx`` of the nine taps, the same for all channels; h is H / stride, rounded up.
        weight: ``[O, C / G, 3, 3]``, by which the number of groups G is told.
        mask: ``[B, 9, h, w]``, what each tap's sample is multiplied by (DCNv2).
        back_end: ``torchvision``; ``mmcv``, where it is installed with its operators; ``sample``, built on
            ``grid_sample``; ``auto``, the fastest one for x's device.
        stride: cells of x a step.

    Returns:
        ``[B, O, h, w]``.

    Raises:
        WorkbenchError: a back end that is not at hand.
    """
    name = fastest_back_end(x.device) if back_end == "auto" else back_end
    if name not in (at_hand := back_ends(x.device)):
        raise WorkbenchError(f"deformable convolution: no back end '{name}' (at hand: auto, {', '.join(at_hand)})")
    if name == "sample":
        return _by_grid_sample(x, offset, weight, mask, stride)
    # The libraries' kernels want one type for all, and not every one of them knows bfloat16.
    single = [None if t is None else t.float() for t in (x, offset, weight, mask)]
    with torch.autocast(x.device.type, enabled=False):
        out = _by_torchvision(*single, stride) if name == "torchvision" else _by_mmcv(*single, stride)
    return out.to(x.dtype)


def _by_torchvision(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: int) -> Tensor:
    return torchvision.ops.deform_conv2d(x, offset, weight, stride=stride, padding=1, mask=mask)


def _by_mmcv(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: int) -> Tensor:
    ops, (rows, columns), groups = mmcv_ops(), offset.shape[-2:], x.shape[1] // weight.shape[1]
    # mmcv refuses maps smaller than the kernel; zeros outside a map change nothing.
    x = _grown(x, max(3, x.shape[-2]), max(3, x.shape[-1]))
    size = [(n - 1) // stride + 1 for n in x.shape[-2:]]
    offset, weight = _grown(offset, *size), weight.contiguous()
    if mask is None:
        # Samples of the whole batch are gathered at once: it must be a multiple of the last argument.
        out = ops.deform_conv2d(x, offset, weight, stride, 1, 1, groups, 1, False, len(x))
    else:
        out = ops.modulated_deform_conv2d(x, offset, _grown(mask, *size), weight, None, stride, 1, 1, groups, 1)
    return out[..., :rows, :columns]


def _grown(x: Tensor, rows: int, columns: int) -> Tensor:
    """A map with zeros at its bottom and right, of so many rows and columns."""
    return F.pad(x, (0, columns - x.shape[-1], 0, rows - x.shape[-2])).contiguous()


def regular_grid(device: torch.device | str) -> Tensor:
    """Positions ``[18]`` of a 3×3 kernel's taps about its centre: ``dy, dx`` of each, row-major."""
    tap = torch.arange(-1, 2, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(tap, tap, indexing="ij"), dim=-1).flatten()


def _by_grid_sample(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: int) -> Tensor:
    batch, channels, height, width = x.shape
    groups, (rows, columns) = channels // weight.shape[1], offset.shape[-2:]
    position = offset.float() + regular_grid(x.device)[None, :, None, None]
    y = position[:, 0::2] + torch.arange(0, height, stride, device=x.device)[:, None]
    column = position[:, 1::2] + torch.arange(0, width, stride, device=x.device)
    # grid_sample with aligned corners puts cell 0 at -1 and the last one at +1; a map of one cell has no extent to
    # scale by, so it is given one more row or column of zeros: what lies outside is zero anyway.
    x = F.pad(x, (0, int(width == 1), 0, int(height == 1)))
    height, width = x.shape[-2:]
    grid = torch.stack([column * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    sampled = F.grid_sample(
        x.float(), grid.reshape(batch, 9 * rows, columns, 2), padding_mode="zeros", align_corners=True
    )
    if mask is not None:
        sampled = (sampled.view(batch, channels, 9, rows, columns) * mask.unsqueeze(1)).flatten(1, 2)
    # The sampled columns make of the deformable convolution a 1×1 one, for which the fastest kernels are at hand; a
    # channel's nine stand together, and so do those of a group.
    patches = sampled.view(batch, channels * 9, rows, columns).to(x.dtype)
    return F.conv2d(patches, weight.to(x.dtype).reshape(len(weight), -1, 1, 1), groups=groups)


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
        return deform_conv2d(x, offset, self.weight, back_end=self.back_end)


class OffsetPredictor(torch.nn.Conv2d):
    """The ordinary 3×3 convolution that predicts DCNv2's 18 offsets and 9 mask logits; it starts at zero.

    A class of its own, since the rules for convolutions (start values of a head, learning rate of biases) pass it over.
    """

    def __init__(self, in_channels: int, stride: int):
        super().__init__(in_channels, 27, 3, stride, padding=1)
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)


class ModulatedDeformConv(torch.nn.Module):
    """DCNv2: a deformable 3×3 convolution without bias that predicts its own offsets and masks from its input.

    The mask is a plain sigmoid: untrained it halves what an ordinary convolution with this weight would give.

    Args:
        in_channels, out_channels: of the maps.
        stride: cells of the input a step.
        groups: of the kernel; the predictor sees all channels, and its offsets serve all groups.
        back_end: see ``deform_conv2d``.

    Shapes: ``[B, in, H, W]`` → ``[B, out, h, w]``, h = H / stride, rounded up.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1, back_end: BackEnd = "auto"
    ):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(out_channels, in_channels // groups, 3, 3))
        bound = (9 * in_channels) ** -0.5  # mmcv's: of all channels, not of those of a group
        torch.nn.init.uniform_(self.weight, -bound, bound)
        self.predictor = OffsetPredictor(in_channels, stride)
        self.stride, self.back_end = stride, back_end

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.predictor(x).split([18, 9], dim=1)
        return deform_conv2d(x, offset, self.weight, mask.sigmoid(), self.back_end, self.stride)
