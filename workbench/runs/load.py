"""Trained detectors, loaded from their folders."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from workbench.data.coco import CocoDetection, read_coco
from workbench.data.splits import refuse_other_categories
from workbench.detectors import Detector, build_detector
from workbench.runs.find import find_training
from workbench.runs.folders import RELEASED, Training
from workbench.runs.own_data import with_own_data
from workbench.runs.results import backbone_weights
from workbench.settings.config import read_config
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError, one_line


@dataclass(frozen=True)
class TrainedRun:
    """Detector with the weights of a training, on the CPU and in evaluation mode.

    Attributes:
        category_ids: class index → category id of the data set.
        class_names: class index → name.
        training: content of ``train.json``, facts about the training.
    """

    detector: Detector
    experiment: Experiment
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    training: dict


def load_run(
    run: str | Path,
    seed: int | str | None = None,
    scale: str = "mini",
    data_root: str | Path | None = None,
    results: str | Path = "results",
) -> TrainedRun:
    """Load a trained run.

    Args:
        run: name of a row such as ``t3_full_vfl``, folder of a run, or folder of a training.
        seed: seed of the training, or ``released`` for published weights. None means the seed of a training's folder,
            else seed 0.
        scale: scale of the row; not used for a folder.
        data_root: data set of the row, for a scale that does not draw its own; not used for a folder.
        results: folder ``results`` with the training of the row; not used for a folder.

    Raises:
        WorkbenchError: the run is unknown or not trained, or the weights are of another architecture.

    Example:
        >>> run = workbench.load_run("t3_full_vfl")
        >>> run.detector.detect(images, sizes)
    """
    text = None if seed is None else str(seed)
    settings = with_own_data(read_config({"scale": scale, "data_root": data_root}), Path(results))
    training, _ = find_training(str(run), text, settings, Path(results))
    return load_training(training)


def _train_command(training: Training, experiment: Experiment) -> str:
    """Command that trains a run, resumes its training, or writes its lost files again from the last checkpoint."""
    run = training.run
    words = ["workbench", "train", run.folder, "--seed", training.seed]
    words += ["--data-root", "FOLDER"] if experiment.data.kind == "coco" else []
    if experiment.backbone.pretrained is True:
        words += ["--pretrained", backbone_weights(run.results, experiment)]
    words += ["--init", "FILE"] if experiment.init else []
    return shlex.join(map(str, words))


def load_training(training: Training) -> TrainedRun:
    """Load the detector of a training.

    Raises:
        WorkbenchError: the run is not trained, or the weights are of another detector.
    """
    experiment = training.run.read_experiment()
    published = training.seed == RELEASED
    if not training.weights.is_file():
        command = _train_command(training, experiment)
        remedy = f"train this run with seed {training.seed} first ({command})"
        if training.last_checkpoint.is_file():
            remedy = f"resume this training first ({command}), which writes the file"
        if published:
            remedy = "import the published weights first (workbench import-checkpoint)"
        raise WorkbenchError(f"{training.weights}: not found; {remedy}")
    again = "import them again" if published else "train again"
    facts = training.read_facts()
    detector = build_detector(experiment)
    try:
        detector.load_state_dict(load_file(training.weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        problem = f"not the weights of this run ({one_line(error)})"
        raise WorkbenchError(f"{training.weights}: {problem}; delete the file and {again}") from None
    return TrainedRun(detector.eval(), experiment, *_classes(training, experiment, facts), facts)


def _classes(
    training: Training, experiment: Experiment, facts: dict[str, Any]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of the classes in ``train.json``; raise a WorkbenchError unless there is one of each per class."""
    number = experiment.data.classes
    ids, names = (facts.get(key) for key in ("category_ids", "class_names"))
    for values, kind in ((ids, int), (names, str)):
        if not isinstance(values, list) or len(values) != number or not all(type(value) is kind for value in values):
            way_out = "put back the file of this training"
            if training.last_checkpoint.is_file():
                way_out = f"delete it, then run {_train_command(training, experiment)}, which writes it again"
            raise WorkbenchError(
                f"{training.facts}: category_ids and class_names are not {number} ids and names; {way_out}"
            )
    return tuple(ids), tuple(names)


def load_training_for(
    training: Training, data_root: Path, split: str, limit: int | None = None
) -> tuple[TrainedRun, CocoDetection]:
    """Load a training and the split of a data set on which it is evaluated.

    Args:
        limit: number of images to read; None for all images.

    Raises:
        WorkbenchError: the run is not trained, or the data set is unreadable or has other categories.
    """
    trained = load_training(training)
    data = read_coco(data_root, split, training=False, limit=limit)
    owner = f"{training.run.name} was trained on"
    refuse_other_categories(data, trained.category_ids, trained.class_names, str(data_root), owner)
    return trained, data
