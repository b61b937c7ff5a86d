"""The files in ``experiments/``: what a table, a row, a recipe and a scale may say, and how they are read.

What they mean together, `workbench.settings.catalog` works out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from workbench.settings.base import Settings
from workbench.settings.data import ImageSize
from workbench.support.strict_yaml import Origins, choose, merge, read_yaml, validated

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
Overrides = dict[str, Any]


class Recipe(Settings):
    """Differences from a scale, or from the recipe it ``extends``."""

    extends: str | None = None
    detector: Overrides = {}
    loss: Overrides = {}
    backbone: Overrides = {}
    head: Overrides = {}
    training: Overrides = {}
    evaluation: Overrides = {}
    schedule: str | None = None
    width: str | None = None
    """Of neck and head, where it is not the usual one."""
    test: str | None = None
    """A test size or the like, where it is not the usual one."""


class RowSpec(Recipe):
    """A table's row as its file states it; one without a base is from the literature, printed and not run."""

    extends: None = None
    labels: dict[str, str | bool | int | float]
    published: dict[Literal["AP", "AP50", "AP75", "APS", "APM", "APL"], float]
    fps: float | None = Field(None, gt=0)
    """Images a second that the paper states, on a V100."""
    base: str | None = None
    compared_with: str | None = None
    """The row, where it is not the table's."""
    note: str = ""

    @model_validator(mode="after")
    def _literature_is_not_run(self) -> RowSpec:
        said = self.model_fields_set & Recipe.model_fields.keys()
        if self.base is None and said:
            raise ValueError(f"{', '.join(sorted(said))} without a base; add the recipe that the row starts from")
        return self


class TableSpec(Settings):
    """A table's file."""

    title: str
    split: Literal["val2017", "test-dev"]
    """Of the published metrics."""
    compared_with: str | None = None
    """The row whose measured AP is subtracted from that of the others."""
    rows: dict[str, RowSpec] = Field(min_length=1)

    def reference(self, row: str) -> str | None:
        """The row that a row is compared with, if any."""
        named = self.rows[row].compared_with or self.compared_with
        return None if named == row or self.rows[row].base is None else named


class ScaleSpec(Settings):
    """A scale's file: the world in which experiments are run."""

    title: str
    data: Overrides
    root: str | None = None
    image: ImageSize
    backbones: dict[str, Overrides]
    head: Overrides = {}
    heads: dict[str, Overrides] = {}
    schedules: dict[str, Overrides]
    widths: dict[str, Overrides] = {}
    tests: dict[str, Overrides] = {}
    training: Overrides = {}
    evaluation: Overrides = {}


def table_names() -> list[str]:
    """Names of all tables, the paper's own first."""
    names = (path.stem for path in FOLDER.glob("*table*.yaml"))
    return sorted(names, key=lambda name: (not name.startswith("table"), name))


def read_table(name: str) -> TableSpec:
    """A table's file, checked, its rows not yet resolved."""
    choose(name, table_names(), "table", "tables")
    place = f"experiments/{name}.yaml"
    table = validated(TableSpec, read_yaml(FOLDER / f"{name}.yaml"), place)
    run = [id_ for id_, row in table.rows.items() if row.base]
    for where, spec in [("", table), *((f"rows.{id_}.", row) for id_, row in table.rows.items())]:
        if spec.compared_with is not None:
            choose(spec.compared_with, run, "row", f"{place}: {where}compared_with")
    return table


def scale_names() -> list[str]:
    """Names of all scales."""
    return sorted(path.stem for path in (FOLDER / "scales").glob("*.yaml"))


def read_scale(name: str) -> tuple[ScaleSpec, dict, Origins]:
    """A scale: its checked form, its merged content and where each key of it was written."""
    choose(name, scale_names(), "scale", "scales")
    content, origins = _read_scale_content(name, ())
    return validated(ScaleSpec, content, origins), content, origins


def _read_scale_content(name: str, above: tuple[str, ...]) -> tuple[dict, Origins]:
    place = f"experiments/scales/{name}.yaml"
    own = read_yaml(FOLDER / "scales" / f"{name}.yaml")
    base = own.pop("extends", None)
    content: dict = {}
    origins: Origins = {}
    if base is not None:
        choose(base, [s for s in scale_names() if s not in (*above, name)], "scale", f"{place}: extends")
        content, origins = _read_scale_content(base, (*above, name))
        if _data_kind(own) not in (None, _data_kind(content)):  # settings of another data set mean nothing to this one
            content.pop("data", None)
            origins = {path: where for path, where in origins.items() if path[:1] != ("data",)}
    origins[()] = f"{place}: "
    merge(content, own, origins, origins[()])
    return content, origins


def _data_kind(scale: dict) -> Any:
    data = scale.get("data")
    return data.get("kind") if isinstance(data, dict) else data


def read_recipes() -> dict[str, Recipe]:
    """All recipes, those that others extend among them."""
    content = read_yaml(FOLDER / "recipes.yaml")
    return {name: validated(Recipe, spec, f"experiments/recipes.yaml: {name}") for name, spec in content.items()}
