"""State of a training, and the plan that spreads the canvases of a step over devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric

from workbench.detectors import Detector
from workbench.runs.folders import Training
from workbench.settings.experiment import Experiment
from workbench.settings.experiment import Training as TrainingSettings
from workbench.support.devices import available
from workbench.training.averaging import WeightAverage
from workbench.training.log import TrainLog


@dataclass(frozen=True)
class Machine:
    """Resources that a training may use.

    Attributes:
        devices: largest number of GPUs, or of CPU processes where no GPU is available.
        micro_batch: canvases that a device computes at a time; None for the device's whole share of a step.
        workers: processes that decode images; with 0 the training's own process decodes them.
    """

    devices: int = 1
    micro_batch: int | None = None
    workers: int = 0


@dataclass(frozen=True)
class Plan:
    """Spread of a step's canvases over the machine, which does not change what is learnt, and the learning rate.

    Attributes:
        ranks: number of processes, one per device.
        canvases: number of canvases of a step on each device.
        at_a_time: number of canvases whose graphs a device keeps in memory.
        learning_rate: for the experiment's number of images per step.
    """

    ranks: int
    canvases: int
    at_a_time: int
    learning_rate: float


def plan_steps(training: TrainingSettings, machine: Machine) -> Plan:
    """Spread the canvases of a step over the largest possible number of devices, each with equally many.

    The learning rate is scaled linearly with the number of images per step.
    """
    ranks = training.devices(available(machine.devices))
    canvases = training.canvases // ranks
    rate = training.learning_rate * training.batch / training.reference_batch
    return Plan(ranks, canvases, min(machine.micro_batch or canvases, canvases), rate)


@dataclass
class TrainingState:
    """Training in progress: fixed parts, and parts that change from step to step and are saved in a checkpoint.

    Attributes:
        training: folder of the training for checkpoints and results, and the seed.
        identity: facts that decide what is learnt; see ``workbench.training.identity``.
        classes: ids and names of the categories, in the order of the detector's outputs.
        detector: the detector itself; ``module`` computes its loss and is wrapped for several processes.
        steps_per_epoch: steps of one epoch, or of one cycle of weight averaging.
        step: steps done.
        seconds: time spent in steps, without validations and checkpoints.
        best_ap: best validation AP of the epochs so far, a fraction; None before the first validation.
        best_step: step after which ``best_ap`` was measured.
        average: mean of the weights at the ends of the cycles so far.
        validation_due: whether the weights after the last step still need their validation.
        versions: versions of the code that made the steps; see ``workbench.training.versions``.
        final_facts: content of ``train.json``; None before the end of the training.
    """

    fabric: Fabric
    experiment: Experiment
    training: Training
    identity: dict[str, Any]
    classes: dict[str, list]
    plan: Plan
    detector: Detector
    module: torch.nn.Module
    optimiser: torch.optim.Optimizer
    log: TrainLog
    steps_per_epoch: int
    step: int = 0
    seconds: float = 0.0
    best_ap: float | None = None
    best_step: int | None = None
    average: WeightAverage = field(default_factory=WeightAverage)
    validation_due: bool = False
    versions: list[dict[str, Any]] = field(default_factory=list)
    final_facts: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps and their validations are done."""
        return self.step == self.total_steps and not self.validation_due

    @property
    def epoch_steps(self) -> int:
        """Steps of all epochs, without the cycles of weight averaging that may follow."""
        steps = self.experiment.training.epochs * self.steps_per_epoch
        return min(steps, self.experiment.training.limit_steps or steps)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs and cycles."""
        return self.epoch_steps + self.cycles * self.steps_per_epoch

    @property
    def cycles(self) -> int:
        """Number of cycles of weight averaging; 0 in a rehearsal."""
        training = self.experiment.training
        return training.swa.cycles if training.swa and not training.limit_steps else 0

    @property
    def stage(self) -> str | None:
        """Stage of the next step, ``epochs`` or ``swa``; None for a training without weight averaging."""
        return ("epochs" if self.step < self.epoch_steps else "swa") if self.cycles else None

    def note_validation(self, ap: float | None) -> None:
        """Record the AP after the last step if it is the best so far. In a tie, the earlier step is kept.

        If the validation images have no objects, every AP is None, and the first step is kept.
        """
        if self.best_step is None or (ap is not None and (self.best_ap is None or ap > self.best_ap)):
            self.best_ap, self.best_step = ap, self.step
