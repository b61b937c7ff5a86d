"""Paths below ``results/``, down to the folder of a run.

The paths below a run's folder are in `workbench.runs.folders`. Layout::

    results/<scale>/runs/<run>/
    results/<scale>/tables/, figures/, claims/, notebooks/, speed/
    results/dataset-<hash8>/world<k>/          a drawn data set in COCO's layout
    results/weights/                           pretrained weights

Making an object reads nothing from disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.runs.folders import REHEARSED, Evaluation, Run, Training
from workbench.settings.catalog import Rehearsal, Row
from workbench.settings.data import EmbeddedData
from workbench.settings.experiment import DrawnPretraining, Experiment
from workbench.settings.files import scale_name
from workbench.settings.ids import hash8, pretraining_id
from workbench.settings.initial import Start
from workbench.support.checkout import find_checkout
from workbench.support.errors import WorkbenchError

PRETRAINED = Path("experiments/pretrained")
"""Folder of the checkout with backbones that were pretrained on drawn objects."""


@dataclass(frozen=True)
class ScaleFolder:
    """Folder of one scale, ``results/<scale>``; a rehearsal writes to ``results/<scale>-rehearsal``."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def run(self, name: str) -> Run:
        """Run with a name such as ``vfnet-varifocal-resnet50-be5ea12a``."""
        return Run(self.path / "runs" / name)

    def runs(self) -> Iterator[Run]:
        """Runs that have a folder, in the order of their names."""
        return (Run(path) for path in sorted((self.path / "runs").glob("*")) if path.is_dir())

    def training(self, row: Row, seed: int | str) -> Training:
        """Training of a row's run."""
        return self.run(row.run).training(seed)

    def evaluation(self, row: Row, seed: int | str) -> Evaluation:
        """Evaluation of a row: its run with a seed, in its variant."""
        return self.training(row, seed).evaluation(row.evaluation_folder(seed))

    def ranking(self, row: Row, seed: int | str) -> Evaluation:
        """Evaluation of a row's run with a seed whose scores are ranked; rows of one run share it."""
        return self.training(row, seed).evaluation(row.ranking_folder(seed))

    def table(self, name: str) -> Path:
        """CSV of a table; its Markdown and HTML have the same name with another suffix."""
        return self.path / "tables" / f"{name}.csv"

    def test_table(self, name: str) -> Path:
        """CSV of the block of a table that is measured on the test split; no table has a dot in its name."""
        return self.path / "tables" / f"{name}.test.csv"

    def tables(self) -> list[Path]:
        """CSVs of all tables that exist on disk, measured on the val split."""
        return sorted(file for file in (self.path / "tables").glob("*.csv") if "." not in file.stem)

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
    """Folder of a scale, or of its rehearsal.

    Args:
        scale: name of a scale, or path of a scale's file, whose stem is its name.
    """
    name = scale_name(scale)
    return ScaleFolder(results / (f"{name}{REHEARSED}" if rehearsal else name))


def drawn_data(results: Path, data: EmbeddedData, world: int | str) -> Path:
    """Folder below ``results`` of one world of an embedded data set. Scales with the same drawing share it.

    Args:
        world: number; ``{world}`` gives a pattern.
    """
    return results / f"dataset-{hash8(data.model_copy(update={'world': 0}))}" / f"world{world}"


def pretrained_weights(results: Path, name: str) -> Path:
    """File of downloaded weights: of a backbone, or of a published detector."""
    return results / "weights" / f"{name}.pth"


def start_file(results: Path, start: Start) -> Path:
    """File of the trained detector from which a run starts."""
    return pretrained_weights(results, start.weights) if start.is_published else Path(start.weights)


def backbone_weights(results: Path, experiment: Experiment) -> Path | None:
    """File of the pretrained weights with which a run's backbone starts; None if it starts from random weights.

    Weights that were pretrained on drawn objects are part of the checkout for the backbones of the scale ``mini``. The
    pipeline makes those of other backbones.
    """
    settings = experiment.backbone.pretrained
    if not settings:
        return None
    if settings is True:
        return pretrained_weights(results, experiment.backbone.name)
    kept = _kept_weights(experiment)
    return kept if kept.is_file() else results / "weights" / kept.name


def kept_weights_digest(experiment: Experiment) -> str | None:
    """SHA-256, 16 hex digits, of the pretrained weights in the checkout with which a run's backbone starts.

    None if it starts from random weights or from ImageNet's, or if the checkout does not have the weights.
    """
    if not isinstance(experiment.backbone.pretrained, DrawnPretraining):
        return None
    kept = _kept_weights(experiment)
    return hashlib.sha256(kept.read_bytes()).hexdigest()[:16] if kept.is_file() else None


def _kept_weights(experiment: Experiment) -> Path:
    return find_checkout() / PRETRAINED / f"{pretraining_id(experiment)}.safetensors"


def check_folders(folders: Iterable[Path]) -> None:
    """Raise a WorkbenchError if a file is in the place of a folder or of one of its parents."""
    for folder in folders:
        for place in (*reversed(folder.parents), folder):
            if place.exists() and not place.is_dir():
                raise WorkbenchError(f"{place}: is a file, but a folder is needed; remove it or move it away")
