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
    """Running sum of parameters. It is in double precision, so that the mean of equal values is exactly that value.

    Buffers are not averaged, and neither are the running statistics of BatchNorm: a model keeps its own.
    """

    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Add the present parameters of a model."""
        for name, parameter in model.named_parameters():
            value = parameter.detach().double()
            self.sums[name] = self.sums[name] + value if self.count else value.clone()
        self.count += 1

    @torch.no_grad()
    def give_to(self, model: nn.Module) -> None:
        """Replace the parameters of a model by the mean. At least one model must have been added before."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.sums[name] / self.count)

    def state(self) -> dict[str, Any]:
        """Content for a checkpoint; ``WeightAverage(**state)`` restores the average."""
        return {"count": self.count, "sums": self.sums}
