"""Stochastic weight averaging: the plain mean of a model's parameters at several moments of its training.

Izmailov et al., UAI 2018; for detectors: Zhang et al., SWA Object Detection, arXiv:2012.12645.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class WeightAverage:
    """Running sum of parameters in double precision, so that the mean of equal values is exactly that value.

    Buffers, such as the running statistics of BatchNorm, are not averaged: a model keeps its own buffers.
    """

    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the current parameters of a model to the sum."""
        for name, parameter in model.named_parameters():
            value = parameter.detach().double()
            self.sums[name] = self.sums[name] + value if self.count else value.clone()
        self.count += 1

    @torch.no_grad()
    def give_to(self, model: nn.Module) -> None:
        """Replace the parameters of a model by the mean. ``add`` must have been called at least once."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.sums[name] / self.count)

    def state(self) -> dict[str, Any]:
        """Content for a checkpoint; ``WeightAverage(**state)`` restores the average."""
        return {"count": self.count, "sums": self.sums}
