"""Published weights: whose they are, which rows they stand for and what their publishers report. Nothing heavy here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from workbench.settings.base import Settings
from workbench.settings.catalog import Row
from workbench.settings.config import PipelineConfig
from workbench.settings.files import catalogue
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place, choose, validated


class Released(Settings):
    """A checkpoint that somebody published. What is not known is None."""

    publisher: Literal["authors", "mmdetection"]
    """The authors of the paper, or MMDetection, which trained the detectors again by its own configuration."""
    config: str | None = None
    """Of MMDetection 3.3.0, without ``.py``: the same detector, by its own training settings."""
    rows: dict[str, float | None] = Field(min_length=1)
    """Rows of tables that the weights stand for; AP in percent on val2017 that the publisher reports, at that row."""
    file: str | None = None
    url: str | None = Field(None, pattern=r"^https://")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    """Of the file, or how it begins."""


class _File(Settings):
    checkpoints: dict[str, Released]


def read_released() -> dict[str, Released]:
    """Return the published weights of all papers by name.

    Raises:
        WorkbenchError: a mistake in a file, with its place.
    """
    rows = catalogue().rows
    released: dict[str, Released] = {}
    places: dict[str, Place] = {}
    owners: dict[str, str] = {}
    for content, file in catalogue().files("released.yaml"):
        for name, weights in validated(_File, content, file).checkpoints.items():
            place = file.at("checkpoints", name)
            if name in released:
                raise WorkbenchError(f"{place}: duplicate name of weights, also in {places[name].file}; rename one")
            for row in weights.rows:
                choose(row, rows, "row", place.at("rows"))
                if row in owners:
                    raise WorkbenchError(f"{place.at('rows', row)}: this row has the weights {owners[row]}; keep one")
                owners[row] = name
            released[name], places[name] = weights, place
    return released


def published_on_val2017() -> dict[str, float]:
    """AP, in percent, that the authors' repository states of rows whose table states test-dev, or the same."""
    found = (weights.rows for weights in read_released().values() if weights.publisher == "authors")
    return {row: ap for rows in found for row, ap in rows.items() if ap is not None}


def released_runs(rows: Iterable[Row]) -> dict[str, str]:
    """The run of each published checkpoint → its name."""
    names = {row: name for name, weights in read_released().items() for row in weights.rows}
    return {row.run: names[row.id] for row in rows if row.id in names}


def trainings_of(rows: Iterable[Row], settings: PipelineConfig) -> dict[str, list[int | str]]:
    """For each run its trainings that are wanted: seeds, or ``released`` where published weights take their place."""
    rows = list(rows)
    published = released_runs(rows) if settings.weights == "released" else {}
    if published and rows[0].experiment.data.kind == "embedded":
        raise WorkbenchError(
            f"weights=released: scale {settings.scale} draws its own data set, published weights know COCO's classes; "
            "add scale=coco data_root=FOLDER"
        )
    return {row.run: ["released"] if row.run in published else list(range(settings.seeds)) for row in rows}
