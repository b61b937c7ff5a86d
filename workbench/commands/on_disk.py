"""Trainings on disk, finished or in progress: their speed, time and memory, read from their files."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from workbench.runs.folders import Run, Training
from workbench.runs.results import ScaleFolder
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_csv, read_json
from workbench.support.strict_yaml import validated


@dataclass(frozen=True)
class TrainingOnDisk:
    """Training on disk, finished or in progress.

    Attributes:
        run: name of the run.
        seed: name of the seed's folder, e.g. "seed0".
        finished: False if the training is in progress.
        experiment: settings; None if another version of the workbench wrote them.
        images_per_second: speed of one device, the median over the log; None if nothing was logged.
        device: name of the device; None in progress.
        seconds: time of training steps, summed over devices; None in progress.
        memory_mb: peak memory of a device, in MiB; None in progress.
        epoch: epoch of the last line of the log, counted from 0; the count continues in cycles of weight averaging.
    """

    run: str
    seed: str
    finished: bool
    experiment: Experiment | None
    images_per_second: float | None
    device: str | None
    seconds: float | None
    memory_mb: int | None
    epoch: int | None

    @property
    def place(self) -> str:
        """Seed and device, as text."""
        return f"{self.seed} on {self.device}" if self.finished else f"{self.seed} in progress, one device assumed"


def read_trainings(folder: ScaleFolder) -> list[TrainingOnDisk]:
    """Read all trainings of a scale that were started, sorted by run and seed.

    Raises:
        WorkbenchError: a file of a training cannot be read.
    """
    trainings = (training for run in folder.runs() for training in run.trainings())
    return [_on_disk(t) for t in trainings if t.weights.is_file() or t.growing_curves.is_file()]


def _on_disk(training: Training) -> TrainingOnDisk:
    finished = training.weights.is_file()
    curves = training.curves if finished else training.growing_curves
    facts = _Facts()
    if finished:
        facts = validated(_Facts, read_json(training.facts, "facts of the training"), str(training.facts))
    rate, epoch = _read_log(curves) if curves.is_file() else (None, None)
    return TrainingOnDisk(
        run=training.run.name,
        seed=training.name,
        finished=finished,
        experiment=_experiment(training.run),
        images_per_second=rate and rate / facts.ranks,
        device=facts.device if finished else None,
        seconds=None if facts.seconds is None else facts.seconds * facts.ranks,
        memory_mb=facts.peak_memory_mb,
        epoch=epoch,
    )


class _Facts(BaseModel):
    """Facts in ``train.json`` on which costs depend. Results of earlier versions, and published weights, lack some."""

    model_config = ConfigDict(strict=True)
    device: str = "an unknown device"
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)
    peak_memory_mb: int | None = Field(None, ge=0)
    devices: int | None = Field(None, ge=1, le=1000)
    layout: str = Field("1 x 1 x 1", alias="micro_batch x ranks x accumulation", pattern=r"^\d+ x [1-9]\d{0,3} x \d+$")
    """In place of ``devices`` in results of earlier versions."""

    @property
    def ranks(self) -> int:
        """Number of devices."""
        return self.devices or int(self.layout.split(" x ")[1])


def _read_log(path: Path) -> tuple[float | None, int | None]:
    """Read a ``train.csv``: median of the images per second of all devices together, and the last epoch."""
    columns = ("images_per_second", "epoch")
    rows = read_csv(path, "loss curves", columns, columns)
    rates = [row["images_per_second"] for row in rows if row["images_per_second"] is not None]
    if not rates:
        return None, None
    return statistics.median(rates), int(rows[-1]["epoch"] or 0)


def _experiment(run: Run) -> Experiment | None:
    with contextlib.suppress(WorkbenchError):
        return run.read_experiment()
    return None
