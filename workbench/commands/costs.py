"""What a training costs: images, hours, memory and disk, from what has been measured here or what is given.

Measurements are read from the files that trainings leave, finished or under way.
"""

from __future__ import annotations

import contextlib
import csv
import mmap
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.runs.folders import Run, ScaleFolder
from workbench.runs.folders import Training as TrainingFolder
from workbench.settings.data import AnyData, is_coco
from workbench.settings.experiment import Experiment, Training
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json

COCO_TRAIN, COCO_VAL = 117_266, 5_000
"""Images of train2017 with an annotation, which make an epoch, and of val2017."""
DETECTION_BYTES = 90
"""An entry of ``detections.json``, about."""
OPTIMISER_STATES = {"sgd": 1, "adamw": 2}
"""Tensors that an optimiser keeps of each parameter that it trains."""


@dataclass(frozen=True)
class TrainingOnDisk:
    """A training on disk, with one seed, finished or under way.

    Attributes:
        experiment: None where its file is of another version of the workbench.
        images_per_second: of one device, the median over its log; None where nothing was logged.
        device: of a finished one, as are all that follow.
        seconds: of training steps, summed over the devices.
        memory_mb: the most memory of a device, in MiB.
        epoch: of the last line of its log, from 0, cycles of weight averaging counted on.
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
        """Seed and device, in words."""
        return f"{self.seed} on {self.device}" if self.finished else f"{self.seed} under way, taken as one device's"


@dataclass(frozen=True)
class Speed:
    """Images that one device trains on in a second, and where that is known from."""

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Memory:
    """Peak memory of a training's process, in MiB, and where that is known from; of how many images at a time."""

    mb: int
    source: str
    whole_batch: bool


def epoch_images(data: AnyData, root: Path | None) -> int | None:
    """Training images of an epoch, about.

    Of a data set on disk those with an annotation of any kind; without one, 80 classes mean COCO. None where nothing
    is known.
    """
    if data.kind == "embedded":
        return data.train_images
    if root is None:
        return COCO_TRAIN if is_coco(data) else None
    return _annotated_images(root / "annotations" / "instances_train2017.json") or None


def val_images(data: AnyData, root: Path | None) -> int:
    """Images of val2017, about; 0 where nothing is known."""
    if data.kind == "embedded":
        return data.val_images
    if root is None:
        return COCO_VAL if is_coco(data) else 0
    return len(os.listdir(root / "val2017"))


def _annotated_images(path: Path) -> int:
    """Different ``image_id`` in an annotation file, found in its text: COCO's would take half a minute to parse."""
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return len({match[1] for match in re.finditer(rb'"image_id"\s*:\s*(-?\d+)', text)})


def read_trainings(folder: ScaleFolder) -> list[TrainingOnDisk]:
    """All trainings of a scale that were started, by run and seed.

    Raises:
        WorkbenchError: a file that cannot be read.
    """
    trainings = (training for run in folder.runs() for training in run.trainings())
    return [_on_disk(t) for t in trainings if t.weights.is_file() or t.growing_curves.is_file()]


def _on_disk(training: TrainingFolder) -> TrainingOnDisk:
    finished = training.weights.is_file()
    curves = training.curves if finished else training.growing_curves
    facts = read_json(training.facts, "facts of the training") if finished else {}
    rate, epoch = _read_log(curves) if curves.is_file() else (None, None)
    ranks, seconds = _ranks(facts), facts.get("seconds")
    return TrainingOnDisk(
        run=training.run.name,
        seed=training.name,
        finished=finished,
        experiment=_experiment(training.run),
        images_per_second=rate and rate / ranks,
        device=facts.get("device", "an unknown device") if finished else None,
        seconds=None if seconds is None else seconds * ranks,
        memory_mb=facts.get("peak_memory_mb"),
        epoch=epoch,
    )


def _read_log(path: Path) -> tuple[float | None, int | None]:
    """Median images a second, over all devices, and the last epoch of a ``train.csv``."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(float(row["images_per_second"]), int(row["epoch"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, csv.Error):
        raise WorkbenchError(f"{path}: not the log of a training; remove it") from None
    return (statistics.median(rate for rate, _ in rows), rows[-1][1]) if rows else (None, None)


def _ranks(facts: dict[str, Any]) -> int:
    """Devices of a finished training; 1 where that is not said."""
    parts = str(facts.get("micro_batch x ranks x accumulation")).split(" x ")
    return int(parts[1]) if len(parts) == 3 else 1


def _experiment(run: Run) -> Experiment | None:
    with contextlib.suppress(WorkbenchError):
        return run.read_experiment()
    return None


def is_rehearsal(rehearsal: Experiment | None, experiment: Experiment) -> bool:
    """Whether a rehearsal, which has another batch, length and start, is one of this experiment."""
    if rehearsal is None:
        return False
    training = {"batch": experiment.training.batch, "limit_steps": None}
    backbone = {"pretrained": experiment.backbone.pretrained}
    whole = {
        "training": rehearsal.training.model_copy(update=training),
        "backbone": rehearsal.backbone.model_copy(update=backbone),
    }
    return run_id(rehearsal.model_copy(update=whole)) == run_id(experiment)


def find_speed(
    experiment: Experiment,
    trainings: Iterable[TrainingOnDisk],
    rehearsals: Iterable[TrainingOnDisk],
    given: float | None,
) -> Speed | None:
    """Images a second: given, else of a training of the same run, of its rehearsal, of another run; None if none is.

    A rehearsal counts where its steps are of as many images: those of one image take a GPU more time an image.
    """
    if given is not None:
        return Speed(given, "given")
    known = [training for training in trainings if training.images_per_second]
    if own := [t for t in known if t.run == run_id(experiment)]:
        best = min(own, key=lambda t: not t.finished)
        return Speed(best.images_per_second, best.place)
    for t in rehearsals:
        whole = is_rehearsal(t.experiment, experiment) and t.experiment.training.batch == experiment.training.batch
        if whole and t.images_per_second:
            return Speed(t.images_per_second, f"its rehearsal, {t.place}")
    if others := [t for t in known if t.finished and t.experiment]:
        best = min(others, key=lambda t: _unlike(t.experiment, experiment))
        return Speed(best.images_per_second, f"another run's: {best.run}, {best.place}")
    return None


def _unlike(other: Experiment, experiment: Experiment) -> tuple[bool, ...]:
    """Smaller for what is more alike in speed."""
    return other.backbone != experiment.backbone, other.detector != experiment.detector


def find_memory(
    experiment: Experiment, trainings: Iterable[TrainingOnDisk], rehearsals: Iterable[TrainingOnDisk]
) -> Memory | None:
    """Peak memory of the run itself, the most of its seeds, else of its rehearsal; None where none was measured."""
    own = [t for t in trainings if t.run == run_id(experiment) and t.memory_mb]
    if own:
        most = max(own, key=lambda t: t.memory_mb)
        return Memory(most.memory_mb, most.place, whole_batch=True)
    for training in rehearsals:
        if training.memory_mb and is_rehearsal(training.experiment, experiment):
            batch = training.experiment.training.batch
            images = f"{batch} images" if batch > 1 else "one image"
            source = f"rehearsal of {images} a step on {training.device}"
            return Memory(training.memory_mb, source, whole_batch=batch == experiment.training.batch)
    return None


def disk_bytes(experiment: Experiment, variants: int, images: int) -> int:
    """What a finished training and its evaluations leave on the disk: weights, two checkpoints and detections.

    Args:
        variants: evaluations.
        images: of val2017, of each at most 100 detections.
    """
    settings = experiment.training
    # What is not the network's is made the same, so that each network is counted once.
    weights, parameters, trained = _network_size(experiment.model_copy(update={"training": Training(epochs=1)}))
    checkpoint = weights + 4 * trained * OPTIMISER_STATES[settings.optimiser]
    sums = 8 * parameters if settings.swa else 0  # of averaged weights, double precision, in the last checkpoint alone
    return weights + 2 * checkpoint + sums + 100 * DETECTION_BYTES * images * variants


@cache
def _network_size(experiment: Experiment) -> tuple[int, int, int]:
    """Bytes of a detector's weights, buffers included; how many parameters it has, and how many are trained."""
    import torch

    from workbench.detectors import build_detector

    with torch.device("meta"):  # shapes without numbers
        detector = build_detector(experiment)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in detector.parameters()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values())
    return weights, sum(count for count, _ in counts), sum(count for count, trained in counts if trained)
