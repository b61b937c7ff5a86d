"""Stochastic weight averaging: the plain mean of a model's parameters at several moments of its training.

Izmailov et al., UAI 2018; for detectors: Zhang et al., SWA Object Detection, arXiv:2012.12645.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.data.batch import Batch
from workbench.detectors import Detector
from workbench.training.agreement import mean_of_processes


@dataclass
class WeightAverage:
    """Running sum of parameters in double precision, so that the mean of equal values is exactly that value.

    Buffers are not averaged: a model keeps its own buffers, but the running statistics of trained BatchNorms.

    Attributes:
        statistics: running means and variances for the mean of the parameters, by name; see ``measure_statistics``.
    """

    count: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)

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
        for name, buffer in model.named_buffers():
            if name in self.statistics:
                buffer.copy_(self.statistics[name])

    @contextmanager
    def lent_to(self, model: nn.Module) -> Iterator[None]:
        """Give the mean to a model within a ``with`` block; afterwards the model has its own weights again."""
        own = {name: value.clone() for name, value in model.state_dict().items()}
        self.give_to(model)
        try:
            yield
        finally:
            model.load_state_dict(own)

    @torch.no_grad()
    def measure_statistics(self, detector: Detector, canvases: Iterable[Batch]) -> None:
        """Measure the running statistics of a detector's trained BatchNorms for the mean of the parameters.

        The running statistics of the last cycle belong to other weights. The new statistics are the means over the
        canvases of all processes (Izmailov et al., section 3.2; ``torch.optim.swa_utils.update_bn``). The detector
        stays as it is. Without a trained BatchNorm, no canvas is read.
        """
        detector.train()
        norms = {name: m for name, m in detector.named_modules() if isinstance(m, _BatchNorm) and m.training}
        if not norms:
            return
        momenta = {name: norm.momentum for name, norm in norms.items()}
        with self.lent_to(detector):
            for norm in norms.values():
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean
            for canvas in canvases:
                detector.canvas_loss(canvas)
            for name, norm in norms.items():
                norm.momentum = momenta[name]
                for part in ("running_mean", "running_var"):
                    self.statistics[f"{name}.{part}"] = mean_of_processes(getattr(norm, part).cpu().clone())

    def state(self) -> dict[str, Any]:
        """Content for a checkpoint; ``WeightAverage(**state)`` restores the average."""
        return {"count": self.count, "sums": self.sums, "statistics": self.statistics}
