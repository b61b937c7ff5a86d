"""Deformable convolution (DCN: Dai et al., ICCV 2017; DCNv2, with masks: Zhu et al., CVPR 2019), by several back ends.

Offsets are ``(dy, dx)`` pairs in pixels of the input map, one for each kernel tap in row-major order. They are relative
to the tap's regular position. Samples are bilinear and zero outside the map. The back ends agree up to rounding. The
only exception is the gradient of an offset whose sample is exactly at a pixel, because this gradient is not defined.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Literal

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

from workbench.support.errors import WorkbenchError, one_line

BackEnd = Literal["auto", "torchvision", "mmcv", "sample"]


@cache
def mmcv_ops() -> ModuleType | None:
    """Module of mmcv's compiled operators; None if mmcv is not installed with operators, or if they do not load.

    Operators that were built for another PyTorch fail in many ways. Such a failure is reported once.
    """
    try:
        ops = import_module("mmcv.ops")
        for name in ("deform_conv2d", "modulated_deform_conv2d", "get_compiling_cuda_version"):
            getattr(ops, name)
        return ops
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("mmcv"):
            return None
        print(
            f"mmcv.ops: cannot be loaded ({type(error).__name__}: {one_line(error)}), torchvision's operators are used "
            "instead; install an mmcv that was built for this PyTorch",
            file=sys.stderr,
            flush=True,
        )
        return None


def back_ends(device: torch.device | str = "cpu") -> list[str]:
    """Names of the back ends that are available on a device; mmcv may be built for the CPU only."""
    ops = mmcv_ops()
    has_mmcv = ops and (torch.device(device).type == "cpu" or ops.get_compiling_cuda_version() != "not available")
    return ["sample", "torchvision", *(["mmcv"] if has_mmcv else [])]


def fastest_back_end(device: torch.device) -> str:
    """Name of the back end that ``auto`` selects for a device."""
    if device.type == "cpu":
        # On a CPU, forward and backward of torchvision and mmcv take several times as long as with grid_sample.
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
    """Deformable 3×3 convolution with padding 1 and without bias.

    Args:
        x: ``[B, C, H, W]``.
        offset: ``[B, 18, h, w]``, ``dy, dx`` of the nine taps, equal for all channels; h is H / stride, rounded up.
        weight: ``[O, C / G, 3, 3]``; its shape determines the number of groups G.
        mask: ``[B, 9, h, w]``, factor of each tap's sample (DCNv2).
        back_end: ``torchvision``, ``mmcv`` (if installed with its operators), ``sample`` (based on ``grid_sample``), or
            ``auto`` for the fastest back end on the device of x. Modules use ``auto``.
        stride: stride of the convolution in pixels of x.

    Returns:
        ``[B, O, h, w]``.

    Raises:
        WorkbenchError: the back end is not available.
    """
    name = fastest_back_end(x.device) if back_end == "auto" else back_end
    if name not in (names := back_ends(x.device)):
        raise WorkbenchError(f"back_end: '{name}' is not available; choose auto, {' or '.join(names)}")
    if name == "sample":
        return _by_grid_sample(x, offset, weight, mask, stride)
    # The libraries' kernels need one type for all tensors, and some kernels do not support bfloat16.
    single = [None if t is None else t.float() for t in (x, offset, weight, mask)]
    with torch.autocast(x.device.type, enabled=False):
        out = _by_torchvision(*single, stride) if name == "torchvision" else _by_mmcv(*single, stride)
    return out.to(x.dtype)


def _by_torchvision(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: int) -> Tensor:
    return torchvision.ops.deform_conv2d(x, offset, weight, stride=stride, padding=1, mask=mask)


def _by_mmcv(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: int) -> Tensor:
    ops, (rows, columns), groups = mmcv_ops(), offset.shape[-2:], x.shape[1] // weight.shape[1]
    # mmcv refuses maps that are smaller than the kernel; zeros outside the map do not change the result.
    x = _pad_to(x, max(3, x.shape[-2]), max(3, x.shape[-1]))
    size = [(n - 1) // stride + 1 for n in x.shape[-2:]]
    offset, weight = _pad_to(offset, *size), weight.contiguous()
    if mask is None:
        # The last argument, the number of images per step, must divide the batch size.
        out = ops.deform_conv2d(x, offset, weight, stride, 1, 1, groups, 1, False, len(x))
    else:
        out = ops.modulated_deform_conv2d(x, offset, _pad_to(mask, *size), weight, None, stride, 1, 1, groups, 1)
    return out[..., :rows, :columns]


def _pad_to(x: Tensor, rows: int, columns: int) -> Tensor:
    """Pad a map with zeros at the bottom and right to ``rows`` × ``columns``."""
    return F.pad(x, (0, columns - x.shape[-1], 0, rows - x.shape[-2])).contiguous()


def back_end_of(network: torch.nn.Module) -> str | None:
    """Name of the back end of a network's deformable convolutions on its present device; None if it has none."""
    if not any(isinstance(module, DeformConv | ModulatedDeformConv) for module in network.modules()):
        return None
    return fastest_back_end(next(network.parameters()).device)


def regular_grid(device: torch.device | str) -> Tensor:
    """Regular positions ``[18]`` of the taps of a 3×3 kernel relative to its centre, ``dy, dx`` of each, row-major."""
    tap = torch.arange(-1, 2, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(tap, tap, indexing="ij"), dim=-1).flatten()


def _by_grid_sample(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: int) -> Tensor:
    batch, channels, height, width = x.shape
    groups, (rows, columns) = channels // weight.shape[1], offset.shape[-2:]
    position = offset.float() + regular_grid(x.device)[None, :, None, None]
    y = position[:, 0::2] + torch.arange(0, height, stride, device=x.device)[:, None]
    column = position[:, 1::2] + torch.arange(0, width, stride, device=x.device)
    # With aligned corners, grid_sample places the first pixel at -1 and the last pixel at +1. A side of one pixel has
    # no extent, so one row or column of zeros is added, which does not change the samples.
    x = F.pad(x, (0, int(width == 1), 0, int(height == 1)))
    height, width = x.shape[-2:]
    grid = torch.stack([column * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    sampled = F.grid_sample(
        x.float(), grid.reshape(batch, 9 * rows, columns, 2), padding_mode="zeros", align_corners=True
    )
    if mask is not None:
        sampled = (sampled.view(batch, channels, 9, rows, columns) * mask.unsqueeze(1)).flatten(1, 2)
    # On the sampled patches, the deformable convolution is a 1×1 convolution, which has the fastest kernels. The nine
    # samples of a channel are consecutive, and so are the channels of a group.
    patches = sampled.view(batch, channels * 9, rows, columns).to(x.dtype)
    return F.conv2d(patches, weight.to(x.dtype).reshape(len(weight), -1, 1, 1), groups=groups)


class DeformConv(torch.nn.Module):
    """Deformable 3×3 convolution with weight ``[out, in, 3, 3]`` and without bias; the caller computes the offsets.

    Shapes: x ``[B, in, H, W]``, offset ``[B, 18, H, W]`` → ``[B, out, H, W]``.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        torch.nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return deform_conv2d(x, offset, self.weight)


class OffsetPredictor(torch.nn.Conv2d):
    """Ordinary 3×3 convolution that predicts DCNv2's 18 offsets and 9 mask logits, initialised with zeros.

    It is a separate class, because the rules for convolutions (initial weights of a head, learning rate of biases) do
    not apply to it.
    """

    def __init__(self, in_channels: int, stride: int):
        super().__init__(in_channels, 27, 3, stride, padding=1)
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)


class ModulatedDeformConv(torch.nn.Module):
    """DCNv2: deformable 3×3 convolution without bias that predicts offsets and masks from its input.

    The mask is the sigmoid of the prediction. An untrained layer therefore computes half of the ordinary convolution
    with the same weight.

    Args:
        in_channels, out_channels: numbers of channels.
        stride: stride of the convolution in pixels of the input map.
        groups: number of groups of the kernel. Offsets are predicted from all channels and are equal for all groups.

    Shapes: ``[B, in, H, W]`` → ``[B, out, h, w]``, h = H / stride, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(out_channels, in_channels // groups, 3, 3))
        bound = (9 * in_channels) ** -0.5  # as in mmcv: of all channels, not of the channels of a group
        torch.nn.init.uniform_(self.weight, -bound, bound)
        self.predictor = OffsetPredictor(in_channels, stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.predictor(x).split([18, 9], dim=1)
        return deform_conv2d(x, offset, self.weight, mask.sigmoid(), stride=self.stride)
