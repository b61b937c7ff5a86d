"""Published weights of MMDetection → a run's ``released/model.safetensors``, every tensor's name and shape checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from workbench.data.coco import read_coco
from workbench.detectors import build_detector
from workbench.runs.folders import Training
from workbench.settings.data import COCO_IDS, COCO_NAMES
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_bytes_atomically, write_json_atomically
from workbench.support.provenance import provenance
from workbench.weights.mmdet_file import Checkpoint, read_checkpoint
from workbench.weights.mmdet_names import CONSTANTS, Place, renamer


@dataclass(frozen=True)
class Fit:
    """Weights in a detector's own names, and what keeps them from being that detector's."""

    state: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    other: list[str]
    """Of another shape or kind, not finite, or there twice."""
    said: list[str]

    @property
    def differences(self) -> list[str]:
        """A line each."""
        return [
            *(f"missing: {name}" for name in self.missing),
            *(f"unexpected: {name}" for name in self.unexpected),
            *self.other,
        ]


def fit_weights(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], place: Callable[[str], Place | None]
) -> Fit:
    """Put every tensor in its place, in single precision, checking names and shapes.

    Args:
        weights: by their names.
        wanted: a detector's state; it is not changed.
        place: their name → our name, or our name and element; None for a name that the detector does not have.
    """
    state = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
    source: dict[Place, str] = {}
    unexpected, other, said = [], [], []
    for name, tensor in weights.items():
        if name in CONSTANTS:
            said.append(f"{name}: left out, no weight")
            continue
        at = place(name)
        ours, element = at if isinstance(at, tuple) else (at, None)
        if ours not in state or (element is not None and element >= len(state[ours])):
            unexpected.append(name)
            continue
        slot = state[ours] if element is None else state[ours][element]
        if problem := _problem(name, tensor, slot, source.get(at)):
            other.append(problem)
        else:
            slot.copy_(tensor)
        source.setdefault(at, name)
    half = sum(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in weights.values())
    said += [f"{half} tensors of half precision: converted to single"] if half else []
    return Fit(state, list(_places_without(source, wanted)), unexpected, other, said)


def _problem(name: str, tensor: Tensor, slot: Tensor, first: str | None) -> str | None:
    if first is not None:
        return f"twice: {name} and {first}"
    if tensor.shape != slot.shape:
        return f"shape: {name} is {list(tensor.shape)}, not {list(slot.shape)}"
    if tensor.is_floating_point() != slot.is_floating_point():
        return f"kind: {name} is {tensor.dtype}, not {slot.dtype}"
    if not torch.isfinite(tensor).all():
        return f"not finite: {name}"
    return None


def _places_without(source: Mapping[Place, str], wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """Our names that nothing was put into; BatchNorm's counter, which nothing reads, may be absent."""
    for name, tensor in wanted.items():
        if name in source or name.endswith("num_batches_tracked"):
            continue
        rows = len(tensor) if tensor.ndim else 1
        without = [i for i in range(rows) if (name, i) not in source]
        yield from [name] if len(without) == rows else [f"{name}[{i}]" for i in without]


def import_checkpoint(file: Path, training: Training, data_root: Path | None, say: Callable[[str], None]) -> Path:
    """Write a checkpoint's weights as ``released/model.safetensors`` of a run, with ``train.json`` beside it.

    Args:
        file: as published.
        training: folder of the run's published weights; the run has its ``experiment.json``.
        data_root: a data set whose categories the classes are, if the file does not name them or they are not COCO's.
        say: called with each line of what was done, and with each difference before the error.

    Raises:
        WorkbenchError: an unreadable or foreign file, other weights than the run's detector has, unknown classes.
    """
    experiment = training.run.read_experiment()
    found = read_checkpoint(file)
    fit = fit_weights(found.weights, build_detector(experiment).state_dict(), renamer(experiment))
    for line in (*found.said, *fit.said, *fit.differences):
        say(line)
    if fit.differences:
        raise WorkbenchError(
            f"{file}: not weights of {training.run.name} ({fit.differences[0]}; in all {len(fit.missing)} missing, "
            f"{len(fit.unexpected)} unexpected, {len(fit.other)} that differ); choose another file, or the run of this "
            "detector"
        )
    category_ids, class_names = _classes(found, experiment, data_root, file)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    facts = {
        "seed": "released",
        "file": file.name,
        "sha256": digest,
        "published": found.facts,
        "category_ids": list(category_ids),
        "class_names": list(class_names),
        **provenance(),
    }
    target = training.weights
    write_json_atomically(training.facts, facts)
    write_bytes_atomically(target, save(fit.state))  # the last, since with it the import counts as done
    say(f"{len(found.weights)} tensors of {file.name} -> {target}")
    return target


def _classes(
    found: Checkpoint, experiment: Experiment, data_root: Path | None, file: Path
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category ids and names of the classes, in the order of the detector's outputs."""
    names = found.class_names
    if names is not None and len(names) != experiment.data.classes:
        raise WorkbenchError(
            f"{file}: it names {len(names)} classes and scores {experiment.data.classes}; fetch it again"
        )
    if data_root is None:
        if names != COCO_NAMES:
            fault = "does not name its classes" if names is None else "has other classes than COCO"
            raise WorkbenchError(f"{file}: it {fault}; add --data with the data set that it was trained on")
        return COCO_IDS, COCO_NAMES
    data = read_coco(data_root, "val2017", training=False, limit=1)
    if len(data.class_names) != experiment.data.classes:
        raise WorkbenchError(
            f"{data_root}: {len(data.class_names)} categories, the weights have {experiment.data.classes}; "
            "give the data set that they were trained on"
        )
    for i, (theirs, ours) in enumerate(zip(names or data.class_names, data.class_names, strict=True)):
        if theirs != ours:
            raise WorkbenchError(
                f"{file}: its class {i} is '{theirs}', that of {data_root} '{ours}'; give the data set of its training"
            )
    return data.category_ids, data.class_names
