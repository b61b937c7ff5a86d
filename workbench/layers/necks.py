"""Necks: feature pyramid (FPN: Lin et al., CVPR 2017) with two additional levels, and the neck of VFNet-X.

RetinaNet (ICCV 2017) and FCOS (ICCV 2019) introduced the additional levels. The neck of VFNet-X also has a bottom-up
path (PANet: Liu et al., CVPR 2018) and deformable convolutions at its outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from workbench.layers.convolution import Conv2d
from workbench.layers.deform import ModulatedDeformConv


class FPN(nn.Module):
    """Feature pyramid P3..P7 from C3, C4 and C5.

    P3 to P5 result from 1×1 laterals, top-down nearest upsampling and addition, and 3×3 output convolutions. P6 and P7
    result from 3×3 convolutions of stride 2. No activation follows a convolution.

    Args:
        in_channels: channels of C3, C4 and C5.
        channels: channels of every output.
        p6_from_input: compute P6 from C5 (RetinaNet), not from P5 (FCOS).
        relu_before_p7: apply a ReLU to P6 before the convolution of P7 (FCOS).
        norm_groups: number of groups of a GroupNorm after every convolution (RepPoints); None for no GroupNorm.

    Shapes: ``[B, c_l, H_l, W_l]`` of three levels → ``[B, channels, H_l, W_l]`` of five levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        p6_from_input: bool = False,
        relu_before_p7: bool = True,
        norm_groups: int | None = None,
    ):
        super().__init__()
        self.p6_from_input, self.relu_before_p7 = p6_from_input, relu_before_p7
        self.laterals = nn.ModuleList(_conv(c, channels, 1, 1, norm_groups) for c in in_channels)
        self.outputs = nn.ModuleList(_conv(channels, channels, 3, 1, norm_groups) for _ in in_channels)
        p6_channels = in_channels[-1] if p6_from_input else channels
        self.extra = nn.ModuleList(_conv(c, channels, 3, 2, norm_groups) for c in (p6_channels, channels))
        _initialise(self)

    def output_strides(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Strides of the outputs, from those of C3, C4, C5."""
        return _output_strides(strides, len(self.extra))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        inner = _top_down(self.laterals, maps)
        pyramid = [output(x) for output, x in zip(self.outputs, inner, strict=True)]
        pyramid.append(self.extra[0](maps[-1] if self.p6_from_input else pyramid[-1]))
        pyramid.append(self.extra[1](pyramid[-1].relu() if self.relu_before_p7 else pyramid[-1]))
        return pyramid


class PAFPN(nn.Module):
    """Feature pyramid P3..P7 from C3, C4 and C5 with a bottom-up path after the top-down path: the neck of VFNet-X.

    The steps are:

    1. 1×1 laterals and a top-down path as in ``FPN``.
    2. A 3×3 convolution on each level.
    3. Bottom-up path: a 3×3 convolution of stride 2 on each map, added to the next coarser map.
    4. DCNv2 on all three levels (MMDetection's PAFPN has no convolution on P3 here).
    5. P6 from P5, and P7 from the ReLU of P6, by 3×3 convolutions of stride 2.

    A GroupNorm follows every convolution except the laterals. No activation follows a convolution.

    Args:
        in_channels: channels of C3, C4 and C5.
        channels: channels of every output.
        norm_groups: number of groups of every GroupNorm.

    Shapes: ``[B, c_l, H_l, W_l]`` of three levels → ``[B, channels, H_l, W_l]`` of five levels.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, norm_groups: int):
        super().__init__()
        self.laterals = nn.ModuleList(_conv(c, channels, 1, 1, None) for c in in_channels)
        self.inner = nn.ModuleList(_conv(channels, channels, 3, 1, norm_groups) for _ in in_channels)
        self.down = nn.ModuleList(_conv(channels, channels, 3, 2, norm_groups) for _ in in_channels[1:])
        self.outputs = nn.ModuleList(
            nn.Sequential(ModulatedDeformConv(channels, channels), nn.GroupNorm(norm_groups, channels))
            for _ in in_channels
        )
        self.extra = nn.ModuleList(_conv(channels, channels, 3, 2, norm_groups) for _ in range(2))
        # As in the released code, this also initialises the offset predictors, so the initial offsets are not 0.
        _initialise(self)

    def output_strides(self, strides: Sequence[int]) -> tuple[int, ...]:
        """Strides of the outputs, from those of C3, C4, C5."""
        return _output_strides(strides, len(self.extra))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        inner = [conv(x) for conv, x in zip(self.inner, _top_down(self.laterals, maps), strict=True)]
        for level, down in enumerate(self.down):
            inner[level + 1] = inner[level + 1] + down(inner[level])
        pyramid = [output(x) for output, x in zip(self.outputs, inner, strict=True)]
        pyramid.append(self.extra[0](pyramid[-1]))
        pyramid.append(self.extra[1](pyramid[-1].relu()))
        return pyramid


def _output_strides(strides: Sequence[int], extra: int) -> tuple[int, ...]:
    """Strides of a pyramid with ``extra`` more levels; each of these levels doubles the stride of the level before."""
    return (*strides, *(strides[-1] * 2**level for level in range(1, extra + 1)))


def _top_down(laterals: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    """Laterals of all maps, each plus the upsampled sum of the next coarser level."""
    inner = [lateral(c) for lateral, c in zip(laterals, maps, strict=True)]
    for level in range(len(inner) - 1, 0, -1):
        lower = inner[level - 1]
        inner[level - 1] = lower + F.interpolate(inner[level], size=lower.shape[-2:], mode="nearest")
    return inner


def _initialise(neck: nn.Module) -> None:
    """Initialise ordinary convolutions with Xavier-uniform weights and zero biases."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _conv(in_channels: int, channels: int, kernel: int, stride: int, norm_groups: int | None) -> nn.Module:
    conv = Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=norm_groups is None)
    return conv if norm_groups is None else nn.Sequential(conv, nn.GroupNorm(norm_groups, channels))
