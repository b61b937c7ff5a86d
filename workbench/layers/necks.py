"""Feature pyramid (Lin et al., CVPR 2017) with the two further levels of FCOS (Tian et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """P3..P7 from C3, C4, C5.

    1×1 laterals, top-down nearest upsampling and addition, 3×3 output convolutions; P6 from P5 and P7 from the
    rectified P6 by 3×3 convolutions of stride 2. No norm, no activation after any convolution.

    Shapes: ``[B, c_l, H_l, W_l]`` of three levels → ``[B, channels, H_l, W_l]`` of five.
    """

    def __init__(self, in_channels: Sequence[int], channels: int):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        inner = [lateral(c) for lateral, c in zip(self.laterals, maps, strict=True)]
        for level in range(len(inner) - 1, 0, -1):
            lower = inner[level - 1]
            inner[level - 1] = lower + F.interpolate(inner[level], size=lower.shape[-2:], mode="nearest")
        pyramid = [output(x) for output, x in zip(self.outputs, inner, strict=True)]
        pyramid.append(self.extra[0](pyramid[-1]))
        pyramid.append(self.extra[1](pyramid[-1].relu()))
        return pyramid
