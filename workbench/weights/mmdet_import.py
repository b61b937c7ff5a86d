"""Import of published weights of MMDetection into a run, with a check of the name and shape of every tensor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from workbench.detectors import build_detector
from workbench.runs.folders import Training
from workbench.settings.experiment import Experiment
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_bytes_atomically, write_json_atomically
from workbench.support.provenance import provenance
from workbench.weights.classes import match_classes, reorder
from workbench.weights.download import check_published
from workbench.weights.fit import CLASSIFIER, Fit, fit_weights
from workbench.weights.mmdet_file import Checkpoint, read_checkpoint
from workbench.weights.mmdet_names import renamer


def import_checkpoint(file: Path, training: Training, data_root: Path | None, say: Callable[[str], None]) -> Path:
    """Write the weights of a checkpoint as ``released/model.safetensors`` of a run, with ``train.json`` next to it.

    Args:
        file: published checkpoint.
        training: folder of the run's published weights; the run's folder contains ``experiment.json``.
        data_root: data set with the detector's classes; needed unless the file names COCO's classes.
        say: function that receives each note.

    Raises:
        WorkbenchError: the file is unreadable, its digest is not the one listed for the run, its weights do not fit
            the run's detector or have the geometry of MMDetection 1, or its classes are unknown.
    """
    experiment = training.run.read_experiment()
    checkpoint = read_checkpoint(file)
    notes = [*checkpoint.notes, *check_generation(checkpoint, experiment, file)]
    fit = fit_weights(checkpoint.weights, build_detector(experiment).state_dict(), renamer(experiment))
    for line in (*notes, *fit.notes):
        say(line)
    _refuse_differences(fit, training, experiment.data.classes, file)
    classes = match_classes(checkpoint.class_names, experiment.data.classes, data_root, file)
    for line in classes.notes:
        say(line)
    reorder(fit.state, classes)
    facts = {
        "run": run_id(experiment),
        "seed": "released",
        **check_published(file, experiment),
        "published": checkpoint.facts,
        "category_ids": list(classes.ids),
        "class_names": list(classes.names),
        **provenance(experiment),
    }
    target = training.weights
    write_json_atomically(training.facts, facts)
    write_bytes_atomically(target, save(fit.state))  # last, because an import with weights counts as done
    say(f"{len(checkpoint.weights)} tensors of {file.name} -> {target}")
    return target


def check_generation(checkpoint: Checkpoint, experiment: Experiment, file: Path) -> list[str]:
    """Return a note if the file may be of MMDetection 1; raise a WorkbenchError if it states this version.

    Version 1 has the same names of tensors, but its reference points are (s − 1) / 2 pixels from those of version 2.
    """
    version = str(checkpoint.facts.get("mmdet_version", ""))
    if re.match(r"[01]\.", version):
        raise WorkbenchError(
            f"{file}: weights of MMDetection {version}, whose reference points are (stride - 1) / 2 pixels from the "
            "points here, so that AP would be lower without an error; use weights of MMDetection 2 or 3"
        )
    if version or "mmengine_version" in checkpoint.facts or experiment.detector.family == "vfnet":
        return []  # MMDetection 1 has no VFNet
    return ["version of MMDetection: not stated, taken as 2 or 3; weights of version 1 would have a lower AP here"]


def _refuse_differences(fit: Fit, training: Training, classes: int, file: Path) -> None:
    """Raise a WorkbenchError if weights do not fit the detector of a run."""
    name = training.run.name
    if fit.has_other_classes:
        theirs = fit.outputs * classes / len(fit.state[CLASSIFIER[1]])
        raise WorkbenchError(
            f"{file}: its weights have {theirs:g} classes, but {name} has {classes}; name a row at a scale with "
            f"data.classes: {theirs:g}, or choose another file"
        )
    if fit.differences:
        raise WorkbenchError(
            f"{file}: not weights of {name} ({fit.differences}); choose another file, or a run of the detector that "
            "it belongs to"
        )
