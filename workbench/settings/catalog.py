"""The catalogue of experiments: tables, recipes and scales in ``experiments/`` → the experiment of each row.

An experiment is put together of four layers, later ones over earlier ones: what the scale says of its world, the recipe
that a row starts from, what the scale says of the backbone, schedule, width and family of detectors that these name,
and the row's own differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.settings.data import EmbeddedData
from workbench.settings.digest import annotation_digest
from workbench.settings.experiment import Experiment
from workbench.settings.files import (
    Recipe,
    RowSpec,
    ScaleSpec,
    TableSpec,
    read_recipes,
    read_scale,
    read_table,
    table_names,
)
from workbench.settings.ids import run_id, variant_id
from workbench.settings.variant import Variant, check_evaluation, published_variant
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Origins, choose, merge, validated

DATA_PARTS = (
    "annotations/instances_train2017.json",
    "annotations/instances_val2017.json",
    "train2017",
    "val2017",
)
"""What a data set in COCO's layout holds."""

NAMED = {"schedule": ("training", "schedules"), "width": ("head", "widths"), "test": ("evaluation", "tests")}
"""What a recipe names for a scale to say what it is: the settings that it decides, and where the scale says so."""


@dataclass(frozen=True)
class Row:
    """A line of a table: what it says, what the paper published, and how it is made."""

    id: str
    table: str
    labels: dict[str, Any]
    published: dict[str, float]
    note: str
    experiment: Experiment
    variant: Variant

    @property
    def run(self) -> str:
        """Folder name of the run."""
        return run_id(self.experiment)

    @property
    def variant_folder(self) -> str:
        """Folder name of the evaluation within each seed."""
        return variant_id(self.variant)


@dataclass(frozen=True)
class Rehearsal:
    """A run that only shows that everything works: few steps of one image, few test images."""

    steps: int | None = None
    images: int | None = None

    def __bool__(self) -> bool:
        return self.steps is not None or self.images is not None


def load_table(
    name: str, scale: str = "mini", data_root: Path | None = None, rehearsal: Rehearsal | None = None
) -> tuple[TableSpec, list[Row]]:
    """A table, and those of its rows that are run, resolved at a scale.

    Args:
        name: e.g. ``table3``.
        scale: e.g. ``mini`` or ``coco``.
        data_root: a COCO-format data set; its annotations are part of a run's id. Without it the ids are provisional.
        rehearsal: shorten everything.

    Raises:
        WorkbenchError: an unknown table, scale or key, or a value that does not fit; names file and key.
    """
    table = read_table(name)
    world = read_scale(scale)
    digest = _data_digest(world[0], data_root)
    recipes = read_recipes()
    rows = [
        _resolve(name, row, spec, recipes, world, digest, rehearsal) for row, spec in table.rows.items() if spec.base
    ]
    return table, rows


def load_row(table: str, row: str, scale: str = "mini", data_root: Path | None = None) -> Row:
    """One row of a table, resolved at a scale; see ``load_table``."""
    _, rows = load_table(table, scale, data_root)
    choose(row, [r.id for r in rows], "row", f"experiments/{table}.yaml")
    return next(r for r in rows if r.id == row)


def find_row(id_: str, scale: str = "mini", data_root: Path | None = None, rehearsal: Rehearsal | None = None) -> Row:
    """Row of any table, resolved at a scale; see ``load_table``."""
    tables = {row: table for table in table_names() for row, spec in read_table(table).rows.items() if spec.base}
    choose(id_, tables, "row", "--run")
    return next(row for row in load_table(tables[id_], scale, data_root, rehearsal)[1] if row.id == id_)


def load_experiment(table: str, row: str, scale: str = "mini", data_root: Path | None = None) -> Experiment:
    """The experiment behind a row of a table; see ``load_table``."""
    return load_row(table, row, scale, data_root).experiment


def embedded_settings(scale: str) -> EmbeddedData:
    """How a scale's embedded data set is drawn; raises where its data are the user's own."""
    spec, _, origins = read_scale(scale)
    if spec.data.get("kind") != "embedded":
        raise WorkbenchError(f"scale {scale} has no embedded data set: its data are read from data_root")
    at_data = {path[1:]: where for path, where in origins.items() if path[:1] == ("data",)}
    return validated(EmbeddedData, spec.data, at_data)


def _data_digest(spec: ScaleSpec, data_root: Path | None) -> str | None:
    root = data_root or (Path(spec.root) if spec.root else None)
    if spec.data.get("kind") != "coco" or root is None:
        return None
    for place in (root, *(root / part for part in DATA_PARTS)):
        if not place.exists():
            kind = "file" if place.suffix == ".json" else "folder"
            raise WorkbenchError(f"{place}: no such {kind}; data_root must hold {', '.join(DATA_PARTS)}")
    return annotation_digest(root / DATA_PARTS[0], cache=Path.home() / ".cache" / "vfnet-workbench" / "digests.json")


def _lay_recipe(content: dict, name: str, recipes: dict[str, Recipe], origins: Origins, where: str) -> None:
    choose(name, recipes, "recipe", where)
    recipe, place = recipes[name], f"experiments/recipes.yaml: {name}"
    if recipe.extends:
        _lay_recipe(
            content, recipe.extends, {k: r for k, r in recipes.items() if k != name}, origins, f"{place}.extends"
        )
    merge(content, recipe.model_dump(exclude_unset=True, exclude={"extends"}), origins, place)


def _lay_counterpart(
    content: dict, group: str, at: tuple[str, str], scale: dict, origins: Origins, scale_origins: Origins
) -> None:
    """Lay what the scale says of a schedule, backbone, … (at ``schedules``, ``1x``) over a group of settings."""
    merge(content.setdefault(group, {}), scale[at[0]][at[1]], {}, "")
    origins.update({(group, *path[2:]): where for path, where in scale_origins.items() if path[:2] == at and path[2:]})


def _lay_scale(
    content: dict, scale: ScaleSpec, written: dict, origins: Origins, scale_origins: Origins, place: str
) -> None:
    """Lay over the settings what the scale says of the names in them."""
    backbone = content.get("backbone", {}).get("name")
    choose(backbone, scale.backbones, "backbone", origins.get(("backbone", "name"), place))
    named = [("backbone", "backbones", backbone)]
    family = content.get("detector", {}).get("family")
    if family in scale.heads:
        named.append(("head", "heads", family))
    for what, (group, section) in NAMED.items():
        name = content.pop(what, "1x" if what == "schedule" else None)
        if name is not None:
            choose(name, getattr(scale, section), what, origins.get((what,), place))
            named.append((group, section, name))
    for group, section, name in named:
        _lay_counterpart(content, group, (section, name), written, origins, scale_origins)


def _resolve(
    table: str,
    row: str,
    spec: RowSpec,
    recipes: dict[str, Recipe],
    world: tuple[ScaleSpec, dict, Origins],
    digest: str | None,
    rehearsal: Rehearsal | None,
) -> Row:
    scale, written, scale_origins = world
    content: dict = {}
    origins: Origins = {}
    place = f"experiments/{table}.yaml: rows.{row}"
    shared = {key: written[key] for key in ("data", "image", "head", "training", "evaluation") if key in written}
    merge(content, shared, origins, "")
    origins.update({path: where for path, where in scale_origins.items() if path in origins})
    _lay_recipe(content, spec.base, recipes, origins, f"{place}.base")
    own = spec.model_dump(exclude_unset=True, include=set(Recipe.model_fields))
    merge(content, own, origins, place)
    _lay_scale(content, scale, written, origins, scale_origins, place)
    own = {key: value for key, value in own.items() if key not in NAMED}
    merge(content, own, origins, place)  # again: the row has the last word
    if digest is not None:
        content["data"]["digest"] = digest
    evaluation = content.pop("evaluation", {})
    if rehearsal:
        _shorten(content, evaluation, rehearsal)
    experiment = validated(Experiment, content, origins)
    at_evaluation = {(): f"{place}.evaluation"} | {
        path[1:]: where for path, where in origins.items() if path[:1] == ("evaluation",)
    }
    variant = validated(Variant, published_variant(experiment).model_dump() | evaluation, at_evaluation)
    check_evaluation(experiment.detector, variant, at_evaluation[()])
    return Row(
        id=row,
        table=table,
        labels=spec.labels,
        published=spec.published,
        note=spec.note,
        experiment=experiment,
        variant=variant,
    )


def _shorten(content: dict, evaluation: dict, rehearsal: Rehearsal) -> None:
    """A rehearsal's step is one micro-batch of one image, and its weights are random ones."""
    content["backbone"]["pretrained"] = False
    if rehearsal.steps is not None:
        content["training"] |= {"batch": 1, "limit_steps": rehearsal.steps}
    if rehearsal.images is not None:
        evaluation["limit_images"] = rehearsal.images
