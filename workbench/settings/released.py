"""Published weights: their publishers, their rows, and the AP that the publishers report."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from workbench.settings.base import Settings
from workbench.settings.files import catalogue
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place, choose, validated

if TYPE_CHECKING:
    from workbench.settings.catalog import Row
    from workbench.settings.config import PipelineConfig


class Released(Settings):
    """Published checkpoint. Unknown facts are None."""

    publisher: Literal["authors", "mmdetection"]
    """The authors of the paper, or MMDetection, which trained the detectors again with its own configurations."""
    geometry: Literal["mmdetection 1"] | None = None
    """Older geometry of the training: reference points at ``j·s + (s − 1) / 2`` and widths ``x2 − x1 + 1``. The
    detectors here have the geometry of MMDetection 2 and 3, so such weights cannot be evaluated yet."""
    config: str | None = None
    """Configuration of the same detector in MMDetection 3.3.0, without ``.py``."""
    rows: dict[str, float | None] = Field(min_length=1)
    """Rows whose weights these are, each with the AP in percent on val2017 that the publisher reports."""
    file: str | None = None
    url: str | None = Field(None, pattern=r"^https://")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    """SHA-256 of the file, or its first digits."""


class _File(Settings):
    checkpoints: dict[str, Released]


def read_released() -> dict[str, Released]:
    """Return the published weights of all papers by name.

    Raises:
        WorkbenchError: a mistake in a file. The message names the place.
    """
    rows = catalogue().rows
    released: dict[str, Released] = {}
    places: dict[str, Place] = {}
    owners: dict[tuple[str, str], str] = {}
    for content, file in catalogue().files("released.yaml"):
        for name, weights in validated(_File, content, file).checkpoints.items():
            place = file.at("checkpoints", name)
            if name in released:
                raise WorkbenchError(f"{place}: duplicate name of weights, also in {places[name].file}; rename one")
            for row in weights.rows:
                choose(row, rows, "row", place.at("rows"))
                owner = owners.setdefault((row, weights.publisher), name)
                if owner != name:
                    raise WorkbenchError(f"{place.at('rows', row)}: this row has the weights {owner}; keep one")
            released[name], places[name] = weights, place
    return released


def published_on_val2017() -> dict[str, float]:
    """Return the AP in percent on val2017 that a paper's authors report, by row."""
    reported = (weights.rows for weights in read_released().values() if weights.publisher == "authors")
    return {row: ap for rows in reported for row, ap in rows.items() if ap is not None}


def reported_by(row: str) -> dict[str, float]:
    """Return publisher → AP in percent on val2017 that the publisher reports for a row."""
    stated = ((weights.publisher, weights.rows.get(row)) for weights in read_released().values())
    return {publisher: ap for publisher, ap in stated if ap is not None}


def published_names(rows: Collection[str]) -> list[str]:
    """Return the names of the published weights of any of these rows, the authors' before MMDetection's.

    Weights of an older geometry are left out.
    """
    ordered = sorted(read_released().items(), key=lambda item: item[1].publisher)  # "authors" is first
    return [name for name, weights in ordered if weights.geometry is None and any(row in rows for row in weights.rows)]


def released_runs(rows: Iterable[Row]) -> dict[str, tuple[str, ...]]:
    """Return name of a run → names of its published weights, the authors' before MMDetection's.

    Runs without published weights, and weights of an older geometry, are left out.
    """
    names: dict[str, list[str]] = {}
    usable = [(name, weights) for name, weights in read_released().items() if weights.geometry is None]
    for name, weights in sorted(usable, key=lambda item: item[1].publisher):  # "authors" is first
        for row in weights.rows:
            names.setdefault(row, []).append(name)
    runs: dict[str, tuple[str, ...]] = {}
    for row in rows:
        if row.id in names:
            runs[row.run] = tuple(dict.fromkeys((*runs.get(row.run, ()), *names[row.id])))
    return runs


def trainings_of(rows: Iterable[Row], settings: PipelineConfig) -> dict[str, list[str]]:
    """Return name of a run → its trainings: seeds, or ``released`` if published weights replace the seeds."""
    rows = list(rows)
    published = released_runs(rows) if settings.weights == "released" else {}
    if published and rows[0].experiment.data.kind == "embedded":
        raise WorkbenchError(
            f"weights=released: scale {settings.scale} draws its own data set, but published weights have COCO's "
            "classes; add scale=coco data_root=FOLDER"
        )
    seeds = [str(seed) for seed in settings.requested_seeds]
    return {row.run: ["released"] if row.run in published else seeds for row in rows}
