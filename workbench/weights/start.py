"""Start of a training from a trained detector: backbone, neck and head of a file, and its rows of shared classes.

The file is one that `workbench.weights.mmdet_import` accepts, or has the weights of a training of the workbench. The
last layer of the classification branch is copied row by row, for classes whose names agree. Other rows keep the values
with which the detector was built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.detectors import Detector
from workbench.runs.folders import FACTS
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_object
from workbench.weights.classes import shared_classes
from workbench.weights.fit import CLASSIFIER, fit_weights, part_of
from workbench.weights.mmdet_file import read_checkpoint
from workbench.weights.mmdet_import import check_generation
from workbench.weights.mmdet_names import Place, renamer
from workbench.weights.normalisation import check_normalisation

INITIAL = "initial values"
"""Source of a tensor, or of a part of it, that is not from the file."""


@dataclass(frozen=True)
class Account:
    """Account of a start.

    Attributes:
        lines: summary for the log.
        facts: source of each tensor of the detector, and notes about the file, as JSON values.
    """

    lines: list[str]
    facts: dict[str, Any]


def start_from(file: Path, detector: Detector, experiment: Experiment, class_names: Sequence[str]) -> Account:
    """Give a detector, in place, the weights of a trained detector.

    Args:
        file: checkpoint of MMDetection 2 or 3, or weights of the workbench with ``train.json`` beside them.
        detector: detector with its initial weights.
        class_names: names of the classes to learn, in the order of the detector's outputs.

    Raises:
        WorkbenchError: the file is unreadable or of another detector, or it needs another geometry or other images
            than the detectors here. The detector is then unchanged.
    """
    checkpoint = read_checkpoint(file)
    if CLASSIFIER[1] in checkpoint.weights:
        place, names, notes = _own_place, _names_beside(file), []
    else:
        place, names = renamer(experiment), checkpoint.class_names
        notes = [*check_generation(checkpoint, experiment, file), *check_normalisation(checkpoint, file)]
    initial, sources = detector.state_dict(), _sources(checkpoint.weights, place)
    outputs = _outputs(checkpoint.weights, sources) or len(initial[CLASSIFIER[1]])
    fit = fit_weights(checkpoint.weights, _with_outputs(initial, outputs), place)
    anchors = len(initial[CLASSIFIER[1]]) // len(class_names)
    differences = fit.differences or (f"{outputs} outputs for {anchors} anchors" if outputs % anchors else "")
    if differences:
        raise WorkbenchError(
            f"{file}: another detector than {experiment.detector.title} with {experiment.backbone.title} of this run: "
            f"{differences}; choose another file, or a row and a scale of the detector that it belongs to"
        )
    shared, note = shared_classes(names, outputs // anchors, class_names)
    classifier = {
        name: _with_rows(initial[name], fit.state[name], len(class_names), outputs // anchors, shared)
        for name in CLASSIFIER
    }
    detector.load_state_dict(fit.state | classifier)
    tensors = _tensors(initial, sources, len(shared), len(class_names))
    parts = Counter(part_of(name) for name, source in tensors.items() if source != INITIAL and name not in CLASSIFIER)
    counted = ", ".join(f"{part} {count}" for part, count in parts.items())
    lines = [f"start: tensors of {file.name}: {counted}", f"start: classifier: {note}"]
    notes = [*checkpoint.notes, *notes, *fit.notes, note]
    return Account(lines, {"published": checkpoint.facts, "notes": notes, "tensors": tensors})


def _own_place(name: str) -> Place:
    """Place of a tensor in a file of the workbench, which has our names."""
    return name


def _names_beside(file: Path) -> tuple[str, ...] | None:
    """Names of the classes of a training of the workbench, in ``train.json`` beside its weights."""
    facts = file.with_name(FACTS)
    if not facts.is_file():
        return None
    return tuple(map(str, read_object(facts, "facts of the training", ["class_names"])["class_names"]))


def _tensors(initial: Collection[str], sources: Mapping[str, list[str]], shared: int, classes: int) -> dict[str, str]:
    """Our name of each tensor → its names in the file, or `INITIAL`; rows of the classifier may be of both."""
    tensors = {name: ", ".join(sources.get(name, [INITIAL])) for name in initial}
    for name in CLASSIFIER:
        rest = f": {shared} of {classes} classes, {INITIAL} for the others" if shared < classes else ""
        tensors[name] = f"{tensors[name]}{rest}" if shared else INITIAL
    return tensors


def _sources(weights: Mapping[str, Tensor], place: Callable[[str], Place | None]) -> dict[str, list[str]]:
    """Our name → names of its tensors in the file; several where ours is a vector of scalars."""
    sources: dict[str, list[str]] = {}
    for name in weights:
        at = place(name)
        if at is not None:
            sources.setdefault(at if isinstance(at, str) else at[0], []).append(name)
    return sources


def _outputs(weights: Mapping[str, Tensor], sources: Mapping[str, Sequence[str]]) -> int | None:
    """Number of outputs of the file's classifier; None if the file has no classifier of this family."""
    biases = [weights[name] for name in sources.get(CLASSIFIER[1], ())]
    return len(biases[0]) if biases and biases[0].ndim == 1 else None


def _with_outputs(state: Mapping[str, Tensor], outputs: int) -> dict[str, Tensor]:
    """State of a detector whose classifier has another number of outputs; the values of the classifier mean nothing."""
    return dict(state) | {name: state[name].new_zeros(outputs, *state[name].shape[1:]) for name in CLASSIFIER}


def _with_rows(initial: Tensor, other: Tensor, classes: int, others: int, shared: Mapping[int, int]) -> Tensor:
    """Tensor of a classifier with the rows of shared classes of another one.

    Outputs of several anchors per location are stored anchor by anchor (RetinaNet).

    Args:
        initial, other: ``[anchors · classes, …]`` and ``[anchors · others, …]``.
        shared: class → class of ``other``.
    """
    rows = initial.clone().unflatten(0, (-1, classes))
    rows[:, list(shared)] = other.unflatten(0, (-1, others))[:, list(shared.values())]
    return rows.flatten(0, 1)
