"""Trained runs, loaded from their folders."""

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
    """A detector with the weights of a run, on the CPU and in evaluation mode."""

    detector: Detector
    experiment: Experiment
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    training: dict
    """What ``train.json`` says of how it was trained."""


def read_experiment(folder: Path) -> Experiment:
    """The experiment of a run's folder."""
    path = folder / "experiment.json"
    return validated(Experiment, read_json(path, "the run's settings"), str(path))


def load_run(folder: Path | str, seed: int | Literal["released"] = 0) -> TrainedRun:
    """The run in ``results/<scale>/runs/<run>``, as trained with ``seed``, or with the published weights.

    Raises:
        WorkbenchError: not a run's folder, not trained yet, or weights of another architecture.
    """
    folder = Path(folder)
    experiment = read_experiment(folder)
    weights = folder / seed_folder(seed) / "model.safetensors"
    published = seed == "released"
    if not weights.is_file():
        fault = f"this run has not been trained with seed {seed}"
        if published:
            fault = "import published weights first (workbench import-checkpoint)"
        raise WorkbenchError(f"{weights}: no such file; {fault}")
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
            f"{path}: it does not say category_ids and class_names; delete it and {weights.name} and {again}"
        ) from None
    return TrainedRun(detector.eval(), experiment, *classes, facts)


def load_run_for(
    folder: Path, seed: int | Literal["released"], data_root: Path, split: str, limit: int | None = None
) -> tuple[TrainedRun, CocoDetection]:
    """A trained run and a split of a data set to evaluate it on; ``limit`` keeps only so many images.

    Raises:
        WorkbenchError: not trained yet, a data set that cannot be read, or one of other categories.
    """
    data = read_coco(data_root, split, training=False, limit=limit)
    trained = load_run(folder, seed)
    if trained.category_ids != data.category_ids:
        raise WorkbenchError(
            f"{data_root}: its categories {data.category_ids} are not those that {folder.name} was trained on, "
            f"{trained.category_ids}"
        )
    return trained, data
