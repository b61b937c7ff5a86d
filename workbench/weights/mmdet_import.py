"""Import of published weights of MMDetection into a run, with a check of the name and shape of every tensor."""

from __future__ import annotations

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
from workbench.settings.digest import VAL
from workbench.settings.experiment import Experiment
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_bytes_atomically, write_json_atomically
from workbench.support.provenance import provenance
from workbench.weights.download import check_published
from workbench.weights.mmdet_file import Checkpoint, read_checkpoint
from workbench.weights.mmdet_names import CONSTANTS, Place, renamer


@dataclass(frozen=True)
class Fit:
    """Weights under our names of a detector, and the differences of the weights from the detector's state.

    Attributes:
        state: our name → tensor; zeros where the weights have no tensor for a name.
        missing: our names without a tensor.
        unexpected: their names that the detector does not have.
        other: lines about tensors of another shape or kind, not finite, or duplicate.
        notes: lines about what was left out or converted.
    """

    state: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    other: list[str]
    notes: list[str]

    @property
    def differences(self) -> list[str]:
        """One line per difference; no lines if the weights fit the detector."""
        return [
            *(f"missing: {name}" for name in self.missing),
            *(f"unexpected: {name}" for name in self.unexpected),
            *self.other,
        ]


def fit_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], place: Callable[[str], Place | None]
) -> Fit:
    """Copy every tensor to its place in a detector's state, in single precision, and check names and shapes.

    Args:
        weights: their name → tensor.
        expected: state of the detector; it is not changed.
        place: their name → our name, or our name and an element; None for a name that the detector does not have.
    """
    state = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    source: dict[Place, str] = {}
    unexpected, other, notes = [], [], []
    for name, tensor in weights.items():
        if name in CONSTANTS:
            notes.append(f"{name}: left out, not a weight")
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
    notes += [f"{half} tensors of half precision: converted to single"] if half else []
    return Fit(state, list(_places_without(source, expected)), unexpected, other, notes)


def _problem(name: str, tensor: Tensor, slot: Tensor, first: str | None) -> str | None:
    """Line about a tensor that does not fit a slot, or None; ``first`` is the name of a tensor already in this slot."""
    if first is not None:
        return f"duplicate: {name} and {first}"
    if tensor.shape != slot.shape:
        return f"shape: {name} is {list(tensor.shape)}, not {list(slot.shape)}"
    if tensor.is_floating_point() != slot.is_floating_point():
        return f"kind: {name} is {tensor.dtype}, not {slot.dtype}"
    if not torch.isfinite(tensor).all():
        return f"not finite: {name}"
    return None


def _places_without(source: Mapping[Place, str], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """Our names without a tensor. The counter of BatchNorm may be absent because nothing reads it."""
    for name, tensor in expected.items():
        if name in source or name.endswith("num_batches_tracked"):
            continue
        rows = len(tensor) if tensor.ndim else 1
        without = [i for i in range(rows) if (name, i) not in source]
        yield from [name] if len(without) == rows else [f"{name}[{i}]" for i in without]


def import_checkpoint(file: Path, training: Training, data_root: Path | None, say: Callable[[str], None]) -> Path:
    """Write the weights of a checkpoint as ``released/model.safetensors`` of a run, with ``train.json`` next to it.

    Args:
        file: published checkpoint.
        training: folder of the run's published weights; the run's folder contains ``experiment.json``.
        data_root: data set with the detector's classes; needed unless the file names COCO's classes.
        say: function that receives each note, and each difference before the error.

    Raises:
        WorkbenchError: the file is unreadable, its digest is not the one listed for the run, its weights do not fit
            the run's detector, or its classes are unknown.
    """
    experiment = training.run.read_experiment()
    checkpoint = read_checkpoint(file)
    fit = fit_weights(checkpoint.weights, build_detector(experiment).state_dict(), renamer(experiment))
    for line in (*checkpoint.notes, *fit.notes, *fit.differences):
        say(line)
    if fit.differences:
        raise WorkbenchError(
            f"{file}: not weights of {training.run.name} ({fit.differences[0]}; in total {len(fit.missing)} missing, "
            f"{len(fit.unexpected)} unexpected, {len(fit.other)} different); choose another file, or a run of the "
            "detector that it belongs to"
        )
    category_ids, class_names = _classes(checkpoint, experiment, data_root, file)
    facts = {
        "run": run_id(experiment),
        "seed": "released",
        **check_published(file, experiment),
        "published": checkpoint.facts,
        "category_ids": list(category_ids),
        "class_names": list(class_names),
        **provenance(experiment),
    }
    target = training.weights
    write_json_atomically(training.facts, facts)
    write_bytes_atomically(target, save(fit.state))  # last, because an import with weights counts as done
    say(f"{len(checkpoint.weights)} tensors of {file.name} -> {target}")
    return target


def _classes(
    checkpoint: Checkpoint, experiment: Experiment, data_root: Path | None, file: Path
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Category ids and names of the classes, in the order of the detector's outputs."""
    names = checkpoint.class_names
    if names is not None and len(names) != experiment.data.classes:
        raise WorkbenchError(
            f"{file}: names {len(names)} classes, but its weights have {experiment.data.classes}; download it again"
        )
    if data_root is None:
        if names != COCO_NAMES:
            fault = "does not name its classes" if names is None else "has other classes than COCO"
            raise WorkbenchError(f"{file}: {fault}; name the data set that it was trained on with --data-root")
        return COCO_IDS, COCO_NAMES
    data = read_coco(data_root, VAL, training=False, limit=1)
    if len(data.class_names) != experiment.data.classes:
        raise WorkbenchError(
            f"{data_root}: {len(data.class_names)} categories, but the weights have {experiment.data.classes}; "
            "name the data set that they were trained on"
        )
    for i, (theirs, ours) in enumerate(zip(names or data.class_names, data.class_names, strict=True)):
        if theirs != ours:
            raise WorkbenchError(
                f"{file}: class {i} is '{theirs}', but '{ours}' in {data_root}; name the data set of its training"
            )
    return data.category_ids, data.class_names
