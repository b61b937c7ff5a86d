"""State of a training, and how its steps are spread over devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric

from workbench.detectors import Detector
from workbench.settings.experiment import Experiment
from workbench.training.averaging import WeightAverage
from workbench.training.log import TrainLog


@dataclass(frozen=True)
class Plan:
    """How the steps of an experiment are spread over devices and micro-batches."""

    ranks: int
    micro_batch: int
    accumulate: int
    learning_rate: float

    @property
    def batch(self) -> int:
        """Images a step, over all ranks."""
        return self.ranks * self.micro_batch * self.accumulate

    def __str__(self) -> str:
        return f"{self.micro_batch} x {self.ranks} x {self.accumulate}"


def plan_steps(experiment: Experiment, ranks: int, micro_batch: int | None) -> Plan:
    """Micro-batch × ranks × accumulation as near to the experiment's batch as they get, the learning rate scaled."""
    training = experiment.training
    micro = min(micro_batch or training.batch, max(1, training.batch // ranks))
    accumulate = max(1, round(training.batch / (ranks * micro)))
    batch = ranks * micro * accumulate
    return Plan(ranks, micro, accumulate, training.learning_rate * batch / training.reference_batch)


@dataclass
class Run:
    """What a training holds while it goes: all of it stands in a checkpoint."""

    fabric: Fabric
    experiment: Experiment
    folder: Path
    detector: Detector
    optimiser: torch.optim.Optimizer
    log: TrainLog
    steps_per_epoch: int
    step: int = 0
    seconds: float = 0.0
    best_ap: float | None = None
    """Of the validations during the epochs, and the step after which it was measured."""
    best_step: int | None = None
    average: WeightAverage = field(default_factory=WeightAverage)

    @property
    def epoch_steps(self) -> int:
        """Steps of the epochs, without the cycles of weight averaging that may follow."""
        steps = self.experiment.training.epochs * self.steps_per_epoch
        return min(steps, self.experiment.training.limit_steps or steps)

    @property
    def total_steps(self) -> int:
        return self.epoch_steps + self.cycles * self.steps_per_epoch

    @property
    def cycles(self) -> int:
        """Of weight averaging; a rehearsal has none."""
        training = self.experiment.training
        return training.swa.cycles if training.swa and not training.limit_steps else 0

    @property
    def stage(self) -> str | None:
        """That of the next step, where there are two."""
        return ("epochs" if self.step < self.epoch_steps else "swa") if self.cycles else None

    def note(self, ap: float) -> None:
        """Validation after the last step; of equals the first is the best."""
        if self.best_ap is None or ap > self.best_ap:
            self.best_ap, self.best_step = ap, self.step
