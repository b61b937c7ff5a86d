"""Loading of trained runs from their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file

from workbench.data.coco import CocoDetection, read_coco
from workbench.detectors import Detector, build_detector
from workbench.runs.folders import seed_folder
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import read_json
from workbench.support.strict_yaml import validated


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


def read_experiment(folder: Path) -> Experiment:
    """Read the experiment of the run in this folder."""
    path = folder / "experiment.json"
    return validated(Experiment, read_json(path, "the run's settings"), str(path))


def load_run(folder: Path | str, seed: int | Literal["released"] = 0) -> TrainedRun:
    """Load the run in ``results/<scale>/runs/<run>``, as trained with ``seed``, or with its published weights.

    Raises:
        WorkbenchError: the folder is not a run's, the run is not trained, or the weights are of another detector.
    """
    folder = Path(folder)
    experiment = read_experiment(folder)
    weights = folder / seed_folder(seed) / "model.safetensors"
    published = seed == "released"
    if not weights.is_file():
        remedy = f"train this run with seed {seed} first"
        if published:
            remedy = "import the published weights first (workbench import-checkpoint)"
        raise WorkbenchError(f"{weights}: not found; {remedy}")
    again = "import them again" if published else "train again"
    facts = read_json(weights.with_name("train.json"), "facts of the training")
    detector = build_detector(experiment)
    try:
        detector.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        fault = f"not the weights of this run ({one_line(error)})"
        raise WorkbenchError(f"{weights}: {fault}; delete it and {again}") from None
    try:
        classes = tuple(facts["category_ids"]), tuple(facts["class_names"])
    except (KeyError, TypeError):
        path = weights.with_name("train.json")
        raise WorkbenchError(
            f"{path}: category_ids or class_names missing; delete this file and {weights.name}, and {again}"
        ) from None
    return TrainedRun(detector.eval(), experiment, *classes, facts)


def load_run_for(
    folder: Path, seed: int | Literal["released"], data_root: Path, split: str, limit: int | None = None
) -> tuple[TrainedRun, CocoDetection]:
    """Load a trained run and the split of a data set on which it is evaluated.

    Args:
        limit: number of images to read; None for all.

    Raises:
        WorkbenchError: the run is not trained, or the data set is unreadable or has other categories.
    """
    data = read_coco(data_root, split, training=False, limit=limit)
    trained = load_run(folder, seed)
    if trained.category_ids != data.category_ids:
        raise WorkbenchError(
            f"{data_root}: categories {data.category_ids}, but {folder.name} was trained on {trained.category_ids}; "
            "name the data set of its training"
        )
    return trained, data
