"""Feature pyramid (Lin et al., CVPR 2017) with the two further levels of RetinaNet and FCOS (both ICCV)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """P3..P7 from C3, C4, C5.

    1×1 laterals, top-down nearest upsampling and addition, 3×3 output convolutions; P6 and P7 by 3×3 convolutions of
    stride 2. No activation after any convolution.

    Args:
        in_channels: of C3, C4, C5.
        channels: of every output.
        p6_from_input: P6 is made of C5 (RetinaNet), not of P5 (FCOS).
        relu_before_p7: P6 is rectified on its way to P7 (FCOS).
        norm_groups: a GroupNorm of so many groups after every convolution (RepPoints); None for none.

    Shapes: ``[B, c_l, H_l, W_l]`` of three levels → ``[B, channels, H_l, W_l]`` of five.
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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        inner = [lateral(c) for lateral, c in zip(self.laterals, maps, strict=True)]
        for level in range(len(inner) - 1, 0, -1):
            lower = inner[level - 1]
            inner[level - 1] = lower + F.interpolate(inner[level], size=lower.shape[-2:], mode="nearest")
        pyramid = [output(x) for output, x in zip(self.outputs, inner, strict=True)]
        pyramid.append(self.extra[0](maps[-1] if self.p6_from_input else pyramid[-1]))
        pyramid.append(self.extra[1](pyramid[-1].relu() if self.relu_before_p7 else pyramid[-1]))
        return pyramid


def _conv(in_channels: int, channels: int, kernel: int, stride: int, norm_groups: int | None) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=norm_groups is None)
    return conv if norm_groups is None else nn.Sequential(conv, nn.GroupNorm(norm_groups, channels))
