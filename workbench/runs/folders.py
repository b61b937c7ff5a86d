"""Paths below ``results/<scale>``: the only module that builds and parses them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from workbench.settings.catalog import Rehearsal, Row
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically


def seed_folder(seed: int | str) -> str:
    """The folder of one training within a run's; of its published weights for ``released``."""
    return "released" if seed == "released" else f"seed{seed}"


def scale_folder(results: Path, scale: str, rehearsal: Rehearsal | None = None) -> Path:
    """``results/<scale>``, and apart from it what a rehearsal writes."""
    return results / (f"{scale}-rehearsal" if rehearsal else scale)


def metrics_file(folder: Path, row: Row, seed: int | str) -> Path:
    """Where a row's metrics of one training lie below ``results/<scale>``."""
    return folder / "runs" / row.run / seed_folder(seed) / row.variant_folder / "metrics.json"


def bootstrap_file(metrics: Path) -> Path:
    """Where the AP of resampled images lies, beside the metrics."""
    return metrics.with_name("bootstrap.json")


def trained_seeds(run: Path) -> list[int]:
    """Seeds with which the run in this folder has been trained, ascending."""
    found = (file.parent.name.removeprefix("seed") for file in run.glob("seed*/model.safetensors"))
    return sorted(int(seed) for seed in found if seed.isdecimal())


def check_folders(folders: Iterable[Path]) -> None:
    """Raise where a file stands in the place of a folder or of one above it."""
    for folder in folders:
        for place in (*reversed(folder.parents), folder):
            if place.exists() and not place.is_dir():
                raise WorkbenchError(f"{place}: a file stands where a folder is needed; remove it or move it away")


def write_settings(folder: Path, rows: Iterable[Row]) -> None:
    """Write each row's experiment and variant where the steps read them; their names are made of their content."""
    for row in rows:
        for path, settings in (
            (folder / "runs" / row.run / "experiment.json", row.experiment),
            (folder / "variants" / f"{row.variant_folder}.json", row.variant),
        ):
            if not path.is_file():
                write_json_atomically(path, settings.model_dump(mode="json"))
