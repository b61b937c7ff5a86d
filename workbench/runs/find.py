"""Search for the training and the data that the options of a command name."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from workbench.runs.folders import Run, Training, seed_of
from workbench.runs.results import drawn_data, scale_folder
from workbench.settings.catalog import Row, embedded_settings, find_row
from workbench.settings.config import PipelineConfig
from workbench.settings.digest import VAL, SplitDigest, drawn_digest, evaluated_digest
from workbench.settings.experiment import Experiment
from workbench.settings.files import read_scale
from workbench.support.errors import WorkbenchError


def data_folder(scale: str, results: Path, data_root: Path | None = None, seed: int | str = 0) -> Path:
    """Folder of a scale's data set: ``data_root``, else the root in the scale's file, else the drawn data set.

    Args:
        seed: seed of the training that reads a drawn data set, or ``released``.

    Raises:
        WorkbenchError: the scale has no data set, or ``data_root`` is given although the scale draws its own data set.
    """
    spec = read_scale(scale)
    if spec.data.get("kind") == "embedded":
        if data_root is not None:
            refuse_data(scale)
        data = embedded_settings(scale)
        return drawn_data(results, data, data.world_of(seed))
    root = data_root or spec.root
    if root is None:
        raise WorkbenchError(
            f"scale {scale} needs a data set: add data_root=FOLDER (a folder with annotations in COCO's format)"
        )
    return Path(root)


def refuse_data(scale: str) -> NoReturn:
    """Raise a WorkbenchError about a data set that is named at a scale that draws its own."""
    raise WorkbenchError(f"scale {scale} draws its own data set: leave data_root out, or choose another scale")


def find_training(run: str, seed: str | None, settings: PipelineConfig, results: Path) -> tuple[Training, Row | None]:
    """Find the training that ``--run`` and ``--seed`` name, and the row if ``--run`` names a row.

    Args:
        run: name of a row, folder of a run, or folder of a training.
        seed: seed, or ``released``. None means the seed of a training's folder, else seed 0.
        settings: scale, data set, start and rehearsal; used only for the name of a row.
        results: folder ``results``; used only for the name of a row.

    Raises:
        WorkbenchError: ``run`` is neither a row nor a folder, or the folder is a training with another seed.
    """
    folder = Path(run)
    if not folder.is_dir():
        if "/" in run:
            raise WorkbenchError(f"{run}: no such folder; name a row, a run's folder or a training's folder")
        row = find_row(run, settings.scale, settings.data_root, settings.rehearsal, init=settings.init)
        data_folder(settings.scale, results, settings.data_root)  # without data, the run's name would lack their digest
        return scale_folder(results, settings.scale, settings.rehearsal).training(row, seed or "0"), row
    folder = folder.resolve() if folder.parent == Path() or ".." in folder.parts else folder
    own = seed_of(folder.name)
    if own is None:
        return Run(folder).training(seed or "0"), None
    if seed not in (None, own):
        raise WorkbenchError(f"{folder}: this is the training of seed {own}, not of {seed}; leave --seed out")
    return Run(folder.parent).training(own), None


def find_data(experiment: Experiment, training: Training, data_root: Path | None) -> Path:
    """Folder of the data set on which a training is evaluated: ``data_root``, or the data set that the workbench drew.

    Raises:
        WorkbenchError: ``data_root`` is None, and the run was not trained on a drawn data set.
    """
    if data_root is not None:
        return data_root
    if experiment.data.kind == "embedded":
        return drawn_data(training.run.results, experiment.data, experiment.data.world_of(training.seed))
    raise WorkbenchError(f"{training.run.name}: its data set is not drawn by the workbench; add --data-root FOLDER")


def refuse_missing_world(root: Path, world: int, scale: str) -> None:
    """Raise a WorkbenchError, with the command that draws the data set, unless the folder of a world exists."""
    if not root.is_dir():
        command = shlex.join(["workbench", "dataset", str(root), f"--scale={scale}", f"--world={world}"])
        raise WorkbenchError(f"{root}: this world is not drawn yet; draw it ({command})")


def find_split(experiment: Experiment, training: Training, data_root: Path | None, name: str = "val") -> SplitDigest:
    """Digest of the split on which a training is evaluated, of the data set that ``find_data`` finds.

    Args:
        name: ``val`` or ``test``. A drawn data set has no test split.
    """
    if data_root is None and experiment.data.kind == "embedded":
        return drawn_digest(experiment.data, VAL, training.seed)
    return evaluated_digest(find_data(experiment, training, data_root), name)


def on_test(rows: Iterable[Row], root: Path) -> list[Row]:
    """Return rows that are evaluated on the test split of a data set on disk, in place of val.

    Args:
        root: folder of the data set in COCO's own folders.

    Raises:
        WorkbenchError: the data set has no test split.
    """
    digest = evaluated_digest(root, "test")
    return [replace(row, on_disk=digest, evaluated="test") for row in rows]
