"""Cost of a training: images, hours, memory and disk, from measurements on this machine or from the user's numbers.

The measurements are those of `workbench.commands.on_disk`.
"""

from __future__ import annotations

import mmap
import os
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.commands.on_disk import TrainingOnDisk
from workbench.settings.data import COCO_VAL, AnyData, is_coco
from workbench.settings.digest import VAL
from workbench.settings.experiment import Experiment, Training
from workbench.settings.ids import run_id

COCO_TRAIN = 117_266
"""Number of images of train2017 with annotations, which make an epoch."""
DETECTION_BYTES = 90
"""Approximate size of an entry of ``detections.json``."""
OPTIMISER_STATES = {"sgd": 1, "adamw": 2}
"""Number of tensors that an optimiser keeps for each trained parameter."""


@dataclass(frozen=True)
class Speed:
    """Training speed of one device, in images per second, and the source of this number."""

    images_per_second: float
    source: str


@dataclass(frozen=True)
class Memory:
    """Peak memory of a training's process, in MiB, and the source of this number.

    Attributes:
        mb: peak memory in MiB.
        source: source of the number, as text.
        whole_batch: whether the steps of the source had all images of the batch.
    """

    mb: int
    source: str
    whole_batch: bool


def epoch_images(data: AnyData, root: Path | None) -> int | None:
    """Return the approximate number of training images per epoch, or None if it is unknown.

    For a data set on disk, images with an annotation of any kind are counted. Without a folder, a data set of 80
    classes is assumed to be COCO.
    """
    if data.kind == "embedded":
        return data.train_images
    if root is None:
        return COCO_TRAIN if is_coco(data) else None
    return _annotated_images(root / "annotations" / "instances_train2017.json") or None


def val_images(data: AnyData, root: Path | None) -> int:
    """Return the approximate number of images in val2017; 0 if it is unknown."""
    if data.kind == "embedded":
        return data.val_images
    if root is None:
        return COCO_VAL if is_coco(data) else 0
    return len(os.listdir(root / VAL))


def _annotated_images(path: Path) -> int:
    """Count the different ``image_id`` in the text of an annotation file; to parse COCO's file takes half a minute."""
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return len({match[1] for match in re.finditer(rb'"image_id"\s*:\s*(-?\d+)', text)})


def is_rehearsal(rehearsal: Experiment | None, experiment: Experiment) -> bool:
    """Return whether a training is a rehearsal of this experiment, with other batch, length and initial weights."""
    if rehearsal is None:
        return False
    whole_step = {"batch": experiment.training.batch, "canvas": experiment.training.canvas, "limit_steps": None}
    backbone = {"pretrained": experiment.backbone.pretrained}
    whole = {
        "training": rehearsal.training.model_copy(update=whole_step),
        "backbone": rehearsal.backbone.model_copy(update=backbone),
    }
    return run_id(rehearsal.model_copy(update=whole)) == run_id(experiment)


def find_speed(
    experiment: Experiment,
    trainings: Iterable[TrainingOnDisk],
    rehearsals: Iterable[TrainingOnDisk],
    images_per_second: float | None,
) -> Speed | None:
    """Return the training speed, or None if it is unknown.

    The sources, in this order: the user's number; a training of the same run; a rehearsal of the same run; a finished
    training of another run.

    Args:
        trainings: trainings at the scale of the experiment.
        rehearsals: rehearsals at the scale. A rehearsal counts if its steps have the whole batch, because steps of one
            image take more time per image on a GPU.
        images_per_second: the user's number, or None.
    """
    if images_per_second is not None:
        return Speed(images_per_second, "--images-per-second")
    measured = [training for training in trainings if training.images_per_second]
    if own := [t for t in measured if t.run == run_id(experiment)]:
        best = min(own, key=lambda t: not t.finished)
        return Speed(best.images_per_second, best.place)
    for t in rehearsals:
        whole = is_rehearsal(t.experiment, experiment) and t.experiment.training.batch == experiment.training.batch
        if whole and t.images_per_second:
            return Speed(t.images_per_second, f"its rehearsal, {t.place}")
    if others := [t for t in measured if t.finished and t.experiment]:
        best = min(others, key=lambda t: _dissimilarity(t.experiment, experiment))
        return Speed(best.images_per_second, f"another run, {best.run}, {best.place}")
    return None


def _dissimilarity(other: Experiment, experiment: Experiment) -> tuple[bool, ...]:
    """Return a sort key that is small for experiments of similar speed."""
    return other.backbone != experiment.backbone, other.detector != experiment.detector


def passes(experiment: Experiment) -> int:
    """Return passes over the training set: epochs, plus cycles of weight averaging, which have the same length."""
    settings = experiment.training
    return settings.epochs + (settings.swa.cycles if settings.swa else 0)


def find_hours(
    experiment: Experiment,
    epoch: int | None,
    trainings: Iterable[TrainingOnDisk],
    rehearsals: Iterable[TrainingOnDisk],
    images_per_second: float | None,
) -> float | None:
    """Return the hours of one training on one device: of a finished training of the run, else from a speed.

    Args:
        epoch: number of images per epoch; None if unknown.
        trainings, rehearsals, images_per_second: see `find_speed`.
    """
    done = [t.seconds for t in trainings if t.finished and t.run == run_id(experiment) and t.seconds is not None]
    if done:
        return statistics.median(done) / 3600
    speed = find_speed(experiment, trainings, rehearsals, images_per_second)
    return epoch * passes(experiment) / speed.images_per_second / 3600 if epoch and speed else None


def find_memory(
    experiment: Experiment, trainings: Iterable[TrainingOnDisk], rehearsals: Iterable[TrainingOnDisk]
) -> Memory | None:
    """Return the peak memory of the run, or of its rehearsal; None if neither was measured."""
    own = [t for t in trainings if t.run == run_id(experiment) and t.memory_mb]
    if own:
        largest = max(own, key=lambda t: t.memory_mb)
        return Memory(largest.memory_mb, largest.place, whole_batch=True)
    for training in rehearsals:
        if training.memory_mb and is_rehearsal(training.experiment, experiment):
            batch = training.experiment.training.batch
            images = f"{batch} images" if batch > 1 else "one image"
            source = f"rehearsal with {images} per step on {training.device}"
            return Memory(training.memory_mb, source, whole_batch=batch == experiment.training.batch)
    return None


def disk_bytes(experiment: Experiment, variants: int, images: int) -> int:
    """Return the size of a finished training with its evaluations: weights, two checkpoints and detections.

    Args:
        variants: number of evaluations.
        images: number of images in val2017; each image has at most 100 detections.
    """
    settings = experiment.training
    # Settings that do not change the network are replaced by fixed ones, so that each network is built once.
    weights, parameters, trained = _network_size(experiment.model_copy(update={"training": Training(epochs=1)}))
    checkpoint = weights + 4 * trained * OPTIMISER_STATES[settings.optimiser]
    sums = 8 * parameters if settings.swa else 0  # float64 sums for weight averaging, in the last checkpoint
    return weights + 2 * checkpoint + sums + 100 * DETECTION_BYTES * images * variants


@cache
def _network_size(experiment: Experiment) -> tuple[int, int, int]:
    """Return bytes of a detector's weights with buffers, number of parameters, and number of trained parameters."""
    import torch

    from workbench.detectors import build_detector

    with torch.device("meta"):  # shapes without values
        detector = build_detector(experiment)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in detector.parameters()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in detector.state_dict().values())
    return weights, sum(count for count, _ in counts), sum(count for count, trained in counts if trained)
