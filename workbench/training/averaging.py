"""Stochastic weight averaging: the plain mean of a model's parameters at several moments of its training.

Izmailov et al., UAI 2018; for detectors Zhang et al., SWA Object Detection, arXiv:2012.12645.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class WeightAverage:
    """A running sum of parameters, in double precision, so that a mean of equal values is that value.

    Buffers, among them the running statistics of BatchNorm, are not averaged: a model keeps those it has.
    """

    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Take in the parameters as they are now."""
        for name, parameter in model.named_parameters():
            value = parameter.detach().double()
            self.sums[name] = self.sums[name] + value if self.count else value.clone()
        self.count += 1

    @torch.no_grad()
    def give_to(self, model: nn.Module) -> None:
        """Replace the model's parameters with the mean; it must have taken in at least one model."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.sums[name] / self.count)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; ``WeightAverage(**state)`` is the same average."""
        return {"count": self.count, "sums": self.sums}
