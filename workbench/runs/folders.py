"""Folders of runs, trainings and evaluations, below ``results/<scale>/runs``.

Layout::

    <run>/                                     experiment.json
        seed<k>/ or released/                  model.safetensors, train.csv, train.json, train.log, checkpoints/,
                                               start.json
            <variant>-<split digest>/          detections.json, detection.json, metrics.json, bootstrap.json,
                                               ranking.csv, ranking.json

This module alone names these files; `workbench.runs.results` names what else is below ``results/``. Making an object
reads nothing from disk. The Snakefile makes the same objects with ``{run}`` in place of a name, and uses their paths as
patterns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.settings.experiment import Experiment
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json, read_object, write_json_atomically
from workbench.support.strict_yaml import validated

RELEASED = "released"
"""Name in place of a seed, for published weights."""
FACTS = "train.json"
"""File with the facts of a finished training, beside its weights."""
REHEARSED = "-rehearsal"
"""End of the name of a rehearsal's folder."""


@dataclass(frozen=True)
class Evaluation:
    """Folder of one evaluation: a training, a variant and the content of a data split."""

    training: Training
    name: str

    @property
    def folder(self) -> Path:
        return self.training.folder / self.name

    @property
    def detections(self) -> Path:
        """Detections in COCO's results format."""
        return self.folder / "detections.json"

    @property
    def detection_facts(self) -> Path:
        """Variant, split, time and provenance of the detections."""
        return self.folder / "detection.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def bootstrap(self) -> Path:
        """AP on resampled images."""
        return self.folder / "bootstrap.json"

    @property
    def ranking(self) -> Path:
        """CSV with score and IoU of foreground locations; its figures have the same name with another suffix."""
        return self.folder / "ranking.csv"

    @property
    def ranking_facts(self) -> Path:
        """Spearman's correlation of score and IoU over all foreground locations, and their number."""
        return self.folder / "ranking.json"

    @property
    def oracles(self) -> Path:
        """CSV with the metrics of all oracles; its Markdown has the same name with another suffix."""
        return self.folder / "oracles.csv"

    def log(self, step: str) -> Path:
        """Log of ``detect``, ``evaluate`` or ``ranking``."""
        return self.folder / f"{step}.log"

    def identity(self) -> dict[str, int | str]:
        """Facts that each file of this folder states, so that files of other evaluations are refused."""
        return {"run": self.training.run.name, "seed": self.training.stated_seed, "evaluation": self.name}

    def check_belongs(self, stated: object, file: Path) -> None:
        """Raise a WorkbenchError, naming ``file``, unless it states the identity of this evaluation."""
        if stated == self.identity():
            return
        is_other = isinstance(stated, dict) and stated.keys() == self.identity().keys()
        other = f", but of {stated['run']}, seed {stated['seed']}, {stated['evaluation']}" if is_other else ""
        raise WorkbenchError(
            f"{file}: not a result of {self.training.title}, {self.name}{other}; delete this file, then evaluate again "
            "(snakemake with the same target)"
        )

    def read(self, file: Path, content: str) -> dict[str, Any]:
        """Content of a JSON file of this folder, which must belong to this evaluation; see ``read_json``."""
        facts = read_json(file, content)
        self.check_belongs(facts.get("of") if isinstance(facts, dict) else None, file)
        return facts


@dataclass(frozen=True)
class Training:
    """Folder of one training: a run with one seed, or with published weights.

    Attributes:
        run: folder of the run.
        seed: number as text, or ``released``.
    """

    run: Run
    seed: str

    @property
    def name(self) -> str:
        """Name of the folder, such as ``seed0``, or ``released``."""
        return self.seed if self.seed in (RELEASED, "{training}") else f"seed{self.seed}"

    @property
    def title(self) -> str:
        """Title in progress lines and messages."""
        return f"{self.run.name} {self.name}"

    @property
    def stated_seed(self) -> int | str:
        """Seed for JSON files: a number, or ``released``."""
        return self.seed if self.seed == RELEASED else int(self.seed)

    @property
    def folder(self) -> Path:
        return self.run.folder / self.name

    @property
    def weights(self) -> Path:
        """File of the weights. A training with this file is finished."""
        return self.folder / "model.safetensors"

    @property
    def facts(self) -> Path:
        """Facts of the finished training: categories, time, provenance."""
        return self.folder / FACTS

    def read_facts(self, *keys: str) -> dict[str, Any]:
        """Content of ``train.json``, which must have these keys.

        Raises:
            WorkbenchError: the file is missing or lacks a key, or it is of another training.
        """
        facts = read_object(self.facts, "facts of the training", keys)
        own = {"run": self.run.name, "seed": self.stated_seed}
        others = [f"{key} {facts[key]}, not {value}" for key, value in own.items() if facts.get(key, value) != value]
        if others:
            raise WorkbenchError(
                f"{self.facts}: facts of another training ({'; '.join(others)}); put back the files of this training"
            )
        return facts

    @property
    def start(self) -> Path:
        """Facts about the trained detector from which this training starts, with the source of each tensor."""
        return self.folder / "start.json"

    @property
    def curves(self) -> Path:
        """Loss curves of the finished training."""
        return self.folder / "train.csv"

    @property
    def results(self) -> list[Path]:
        """Files of the finished training. Published weights have no loss curves."""
        return [self.weights, self.facts] if self.seed == RELEASED else [self.weights, self.facts, self.curves]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints and of the growing loss curves."""
        return self.folder / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """Checkpoint from which a training is resumed, or from which the weights are written again."""
        return self.checkpoints / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        """Checkpoint after the epoch with the highest validation AP."""
        return self.checkpoints / "best.pt"

    @property
    def growing_curves(self) -> Path:
        """Loss curves of a training in progress."""
        return self.checkpoints / "train.csv"

    def log(self, step: str) -> Path:
        """Log of ``train`` or ``import``."""
        return self.folder / f"{step}.log"

    def evaluation(self, name: str) -> Evaluation:
        """Evaluation of this training in a folder with this name; see ``evaluation_id``."""
        return Evaluation(self, name)


@dataclass(frozen=True)
class Run:
    """Folder of one run, ``results/<scale>/runs/<name>-<hash8>``."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> Path:
        """File with the run's experiment."""
        return self.folder / "experiment.json"

    @property
    def scale(self) -> str:
        """Name of the run's scale, also of a rehearsal."""
        return self.folder.parents[1].name.removesuffix(REHEARSED)

    @property
    def results(self) -> Path:
        """Folder ``results`` above the run's scale."""
        return self.folder.parents[2]

    def training(self, seed: int | str) -> Training:
        """Training with a seed; ``released`` in place of a seed gives the published weights."""
        return Training(self, str(seed))

    def trainings(self) -> list[Training]:
        """Trainings that have a folder, finished or not, in the order of their seeds; without the published weights."""
        seeds = (seed_of(path.name) for path in self.folder.glob("seed*"))
        return [self.training(seed) for seed in sorted(int(seed) for seed in seeds if seed is not None)]

    def finished_trainings(self) -> list[Training]:
        """Finished trainings in the order of their seeds, then the published weights."""
        return [t for t in (*self.trainings(), self.training(RELEASED)) if all(map(Path.is_file, t.results))]

    def read_experiment(self) -> Experiment:
        """Experiment of the run.

        Raises:
            WorkbenchError: the file is missing, is not an experiment, or is the experiment of another run.
        """
        if not self.settings.is_file():
            raise WorkbenchError(f"{self.settings}: not found; train this run first, by the name of a row")
        content = read_json(self.settings, "settings of the run")
        try:
            experiment = validated(Experiment, content, str(self.settings))
        except WorkbenchError as error:
            remedy = "if an earlier version wrote this file, train the row by its name, which is another run now"
            raise WorkbenchError(f"{error}; {remedy}") from None
        if (content := run_id(experiment)) != self.name:
            raise WorkbenchError(
                f"{self.settings}: this is the experiment of {content}, not of {self.name}; if the folder was renamed, "
                "give it its name again; if the file was edited, delete it, then train the run with the name of its "
                "row, which writes the file again; if an earlier version wrote it, train the row by its name, which is "
                "another run now"
            )
        return experiment

    def write_experiment(self, experiment: Experiment) -> None:
        """Write the experiment. An existing file must contain the same experiment.

        Raises:
            WorkbenchError: the existing file is the experiment of another run.
        """
        if self.settings.is_file():
            self.read_experiment()
        else:
            write_json_atomically(self.settings, experiment.model_dump(mode="json"))


def seed_of(name: str) -> str | None:
    """Seed of a training's folder name: ``0`` for ``seed0``, ``released``; None for any other name."""
    named = re.fullmatch(rf"seed(\d+)|({RELEASED})", name)
    return (named[1] or named[2]) if named else None
