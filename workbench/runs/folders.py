"""Paths below ``results/``: the only module that builds and parses them.

Layout of one scale::

    results/<scale>/runs/<run>/                experiment.json
        seed<k>/ or released/                  model.safetensors, train.csv, train.json, train.log, checkpoints/
            <variant>/                         detections.json, detection.json, metrics.json, bootstrap.json
    results/<scale>/tables/, figures/, claims/, notebooks/, speed/

Every object here is a path with names for its files; nothing is read but what a method says. The same objects, made
with ``{run}`` in place of a name, give the Snakefile its patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.settings.catalog import Rehearsal, Row, embedded_settings, find_row
from workbench.settings.config import PipelineConfig
from workbench.settings.data import EmbeddedData
from workbench.settings.experiment import Experiment
from workbench.settings.files import read_scale
from workbench.settings.ids import hash8, run_id, variant_id
from workbench.settings.variant import Variant
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json, write_json_atomically
from workbench.support.strict_yaml import validated

RELEASED = "released"
"""Name that takes the place of a seed where the weights are published ones."""


@dataclass(frozen=True)
class Evaluation:
    """Folder of one evaluation: a training and a variant."""

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
        """Variant, time and provenance of the detections."""
        return self.folder / "detection.json"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def bootstrap(self) -> Path:
        """AP of resampled images."""
        return self.folder / "bootstrap.json"

    def log(self, step: str) -> Path:
        """Log of ``detect`` or ``evaluate``."""
        return self.folder / f"{step}.log"


@dataclass(frozen=True)
class Training:
    """Folder of one training: a run with one seed, or with published weights.

    Attributes:
        run: the run.
        seed: a number as text, or ``released``.
    """

    run: Run
    seed: str

    @property
    def name(self) -> str:
        """``seed0``, or ``released``."""
        return self.seed if self.seed in (RELEASED, "{training}") else f"seed{self.seed}"

    @property
    def title(self) -> str:
        """Words for progress lines and messages."""
        return f"{self.run.name} {self.name}"

    @property
    def stated_seed(self) -> int | str:
        """Seed as JSON files state it: a number, or ``released``."""
        return self.seed if self.seed == RELEASED else int(self.seed)

    @property
    def folder(self) -> Path:
        return self.run.folder / self.name

    @property
    def weights(self) -> Path:
        """Weights; a training that has them is finished."""
        return self.folder / "model.safetensors"

    @property
    def facts(self) -> Path:
        """Facts of the finished training: categories, time, provenance."""
        return self.folder / "train.json"

    @property
    def curves(self) -> Path:
        """Loss curves of the finished training."""
        return self.folder / "train.csv"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints and of the growing loss curves."""
        return self.folder / "checkpoints"

    @property
    def growing_curves(self) -> Path:
        """Loss curves of a training in progress."""
        return self.checkpoints / "train.csv"

    @property
    def ranking(self) -> Path:
        """Score and IoU of foreground locations; figures have the same name with another suffix."""
        return self.folder / "ranking.csv"

    @property
    def oracles(self) -> Path:
        """Table of all oracles; its Markdown has the same name with another suffix."""
        return self.folder / "oracles.csv"

    def log(self, step: str) -> Path:
        """Log of ``train``, ``import`` or ``ranking``."""
        return self.folder / f"{step}.log"

    def evaluation(self, variant: Variant | str) -> Evaluation:
        """Evaluation of a variant, or of a variant's id."""
        return Evaluation(self, variant if isinstance(variant, str) else variant_id(variant))


@dataclass(frozen=True)
class Run:
    """Folder of one run, ``results/<scale>/runs/<name>-<hash8>``."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> Path:
        """The run's experiment."""
        return self.folder / "experiment.json"

    @property
    def results(self) -> Path:
        """Folder ``results`` above the run's scale."""
        return self.folder.parents[2]

    def training(self, seed: int | str) -> Training:
        """Training with a seed, or with published weights for ``released``."""
        return Training(self, str(seed))

    def trainings(self) -> list[Training]:
        """Trainings with a seed that have a folder, by seed, finished or not."""
        names = (path.name for path in self.folder.glob("seed*") if re.fullmatch(r"seed\d+", path.name))
        return [self.training(seed) for seed in sorted(int(name.removeprefix("seed")) for name in names)]

    def finished_trainings(self) -> list[Training]:
        """Trainings that have weights: by seed, and after them the published weights."""
        return [t for t in (*self.trainings(), self.training(RELEASED)) if t.weights.is_file()]

    def read_experiment(self) -> Experiment:
        """Experiment of the run.

        Raises:
            WorkbenchError: no such file, not an experiment, or the experiment of another run.
        """
        experiment = validated(Experiment, read_json(self.settings, "settings of the run"), str(self.settings))
        if (content := run_id(experiment)) != self.name:
            raise WorkbenchError(
                f"{self.settings}: this is the experiment of {content}, not of {self.name}; delete the file, and train "
                "by the name of a row, which writes it again"
            )
        return experiment

    def write_experiment(self, experiment: Experiment) -> None:
        """Write the experiment; a file that is there must state the same one.

        Raises:
            WorkbenchError: the file that is there is the experiment of another run.
        """
        if self.settings.is_file():
            self.read_experiment()
        else:
            write_json_atomically(self.settings, experiment.model_dump(mode="json"))


@dataclass(frozen=True)
class ScaleFolder:
    """Folder of one scale, ``results/<scale>``; a rehearsal writes to ``results/<scale>-rehearsal``."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def run(self, name: str) -> Run:
        """Run of a name such as ``vfnet-varifocal-resnet50-dabec4b1``."""
        return Run(self.path / "runs" / name)

    def runs(self) -> Iterator[Run]:
        """Runs that have a folder, by name."""
        return (Run(path) for path in sorted((self.path / "runs").glob("*")) if path.is_dir())

    def training(self, row: Row, seed: int | str) -> Training:
        """Training of a row's run."""
        return self.run(row.run).training(seed)

    def evaluation(self, row: Row, seed: int | str) -> Evaluation:
        """Evaluation behind a row."""
        return self.training(row, seed).evaluation(row.variant_folder)

    def table(self, name: str) -> Path:
        """CSV of a table; its Markdown and HTML have the same name with another suffix."""
        return self.path / "tables" / f"{name}.csv"

    def tables(self) -> list[Path]:
        """CSVs of all tables that were written."""
        return sorted((self.path / "tables").glob("*.csv"))

    def figure(self, table: str, kind: str) -> Path:
        """PNG of a table's figure. ``kind`` is loss, ap or ranking. Its PDF has the same name with another suffix."""
        return self.path / "figures" / f"{table}_{kind}.png"

    def verdicts(self, table: str) -> Path:
        """CSV of a table's verdicts; Markdown and HTML have the same name with another suffix."""
        return self.path / "claims" / f"{table}.csv"

    @property
    def claims(self) -> Path:
        """CSV of the verdicts of all tables; Markdown and HTML have the same name with another suffix."""
        return self.path / "claims.csv"

    def notebook(self, name: str) -> Path:
        return self.path / "notebooks" / f"{name}.ipynb"

    @property
    def speed(self) -> Path:
        """Folder of the measured speeds."""
        return self.path / "speed"


def scale_folder(results: Path, scale: str, rehearsal: Rehearsal | None = None) -> ScaleFolder:
    """Folder of a scale, or of its rehearsal."""
    return ScaleFolder(results / (f"{scale}-rehearsal" if rehearsal else scale))


def drawn_data(results: Path, data: EmbeddedData) -> Path:
    """Folder of an embedded data set."""
    return results / f"dataset-{hash8(data)}"


def pretrained_weights(results: Path, name: str) -> Path:
    """Weights that others have trained: of a backbone, or published ones of a detector."""
    return results / "weights" / f"{name}.pth"


def data_folder(scale: str, results: Path, data_root: Path | None = None) -> Path:
    """Folder of a scale's data set: given, named in the scale's file, or drawn by the workbench below ``results``.

    Raises:
        WorkbenchError: a data set that is missing, or one that is given where the scale draws its own.
    """
    spec = read_scale(scale)
    if spec.data.get("kind") == "embedded":
        if data_root is not None:
            raise WorkbenchError(f"scale {scale} draws its own data set: leave data_root out, or choose another scale")
        return drawn_data(results, embedded_settings(scale))
    root = data_root or spec.root
    if root is None:
        raise WorkbenchError(f"scale {scale} needs a data set: add data_root=FOLDER (a folder in COCO's layout)")
    return Path(root)


def find_training(run: str, seed: str | None, settings: PipelineConfig, results: Path) -> tuple[Training, Row | None]:
    """Find the training that ``--run`` and ``--seed`` name, and the row if ``--run`` names a row.

    Args:
        run: name of a row, folder of a run, or folder of a training.
        seed: seed, or ``released``. None means the seed of a training's folder, else seed 0.
        settings: scale, data set and rehearsal; used only for the name of a row.
        results: folder ``results``; used only for the name of a row.

    Raises:
        WorkbenchError: ``run`` is neither a row nor a folder, or the folder is a training with another seed.
    """
    folder = Path(run)
    if not folder.is_dir():
        if "/" in run:
            raise WorkbenchError(f"{run}: no such folder; name a row, a run's folder or a training's folder")
        row = find_row(run, settings.scale, settings.data_root, settings.rehearsal)
        return scale_folder(results, settings.scale, settings.rehearsal).training(row, seed or "0"), row
    folder = folder.absolute() if folder.parent == Path() else folder
    named = re.fullmatch(rf"seed(\d+)|({RELEASED})", folder.name)
    if not named:
        return Run(folder).training(seed or "0"), None
    own = named[1] or named[2]
    if seed not in (None, own):
        raise WorkbenchError(f"{folder}: this is the training of seed {own}, not of {seed}; leave --seed out")
    return Run(folder.parent).training(own), None


def find_data(experiment: Experiment, run: Run, data_root: Path | None) -> Path:
    """Folder of the data set that a run is evaluated on: given, or the one that the workbench has drawn.

    Raises:
        WorkbenchError: a data set on disk that was not given.
    """
    if data_root is not None:
        return data_root
    if experiment.data.kind == "embedded":
        return drawn_data(run.results, experiment.data)
    raise WorkbenchError(f"{run.name}: its data set is not drawn by the workbench; add --data-root FOLDER")


def check_folders(folders: Iterable[Path]) -> None:
    """Raise where a file is in the place of a folder or of one above it."""
    for folder in folders:
        for place in (*reversed(folder.parents), folder):
            if place.exists() and not place.is_dir():
                raise WorkbenchError(f"{place}: a file is in the place of a folder; remove it or move it away")


def seed_folder(seed: int | str) -> str:  # TEMPORARY until callers take a Training
    return Training(Run(Path()), str(seed)).name
