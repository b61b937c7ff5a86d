"""Small parts of heads: convolution blocks, factors of the levels, initialisation, flattening."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from workbench.layers.convolution import Conv2d
from workbench.layers.deform import DeformConv, ModulatedDeformConv, OffsetPredictor

PRIOR = 0.01
"""Class probability that an untrained head predicts at every location (Lin et al., ICCV 2017)."""


def full_precision(x: Tensor) -> Tensor:
    """Single precision in place of half precision and of whole numbers; other tensors stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def conv_block(in_channels: int, channels: int, norm_groups: int | None) -> nn.Sequential:
    """3×3 convolution without bias, GroupNorm, ReLU; with a bias and no norm if ``norm_groups`` is None."""
    if norm_groups is None:
        return nn.Sequential(Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True))
    return nn.Sequential(
        Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(norm_groups, channels),
        nn.ReLU(inplace=True),
    )


def tower(
    depth: int, in_channels: int, channels: int, norm_groups: int | None, last_deformable: bool = False
) -> nn.Sequential:
    """Sequence of ``depth`` convolution blocks; ``last_deformable`` makes the last convolution a DCNv2."""
    blocks = [conv_block(in_channels if i == 0 else channels, channels, norm_groups) for i in range(depth)]
    if last_deformable:
        blocks[-1][0] = ModulatedDeformConv(blocks[-1][0].in_channels, channels)
    return nn.Sequential(*blocks)


class Scales(nn.Module):
    """One learnable factor per pyramid level, 1 at the start."""

    def __init__(self, levels: int):
        super().__init__()
        self.factors = nn.Parameter(torch.ones(levels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        return x * self.factors[level]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Same values as ``x``, with its gradient times ``factor``."""
    return (1 - factor) * x.detach() + factor * x


OUTPUT_STD = 0.01
"""Standard deviation of the initial weights of the last layers, with ``init_std: unit``."""


def initialise_head(head: nn.Module, classifier: nn.Conv2d, std: float | Literal["unit"]) -> None:
    """Initialise convolutions, star convolutions too: N(0, std), zero biases, the classifier's bias at the prior.

    DCNv2 keeps its own start values: its offset predictors start at zero.

    Args:
        std: standard deviation; ``unit`` for √(2 / number of inputs) in hidden layers, and `OUTPUT_STD` in last layers.
            The name of a head's last layer ends in ``_out``.
    """
    for name, part in head.named_modules():
        if isinstance(part, nn.Conv2d | DeformConv) and not isinstance(part, OffsetPredictor):
            hidden = math.sqrt(2 / part.weight[0].numel())
            unit = OUTPUT_STD if name.endswith("_out") else hidden
            nn.init.normal_(part.weight, std=unit if std == "unit" else std)
            if getattr(part, "bias", None) is not None:
                nn.init.zeros_(part.bias)
    nn.init.constant_(classifier.bias, -math.log((1 - PRIOR) / PRIOR))


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Flatten maps ``[B, K, H_l, W_l]`` of all levels to ``[B, P, K]``, locations row-major, fine levels first."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
