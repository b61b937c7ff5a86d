"""Files in ``experiments/``: a catalogue that reads each of them once, and finds its tables, recipes and scales.

`workbench.settings.specs` states the keys of the files, `workbench.settings.catalog` makes experiments of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from workbench.settings.layers import Layers
from workbench.settings.specs import Paper, Recipe, ScaleSpec, TableSpec
from workbench.support.checkout import find_checkout
from workbench.support.errors import WorkbenchError
from workbench.support.plain_yaml import read_yaml
from workbench.support.strict_yaml import Place, choose, validated

TARGETS = ("all", "tables", "figures", "claims", "notebooks", "evidence")
"""Targets of the pipeline that are neither tables nor rows."""
STEPS = (
    *("dataset", "weights", "pretrain", "import_weights", "train", "detect", "evaluate", "rank"),
    *("table", "verdicts", "loss", "ap", "ranking", "notebook", "unknown_target"),
)
"""Other names of rules in the Snakefile, which no table and no row can have."""
ROOT_FILES = ("config.yaml", "recipes.yaml")
"""Files of ``experiments/`` outside a paper's folder."""
OWN = "own"
"""Scale for a data set that is named without a scale. At the scale ``own-<data set>`` its settings are used, too."""
NOT_TABLES = ("paper", "claims", "observations", "released", "preregistration")
"""Names of files in a paper's folder that are not tables."""


@dataclass(frozen=True)
class Table:
    """Checked content of a table's file. The rows are not resolved at a scale yet."""

    place: Place
    spec: TableSpec


@dataclass(frozen=True)
class Scale:
    """Checked content of a scale's file, and its layers: the file, laid over the scales that the scale extends."""

    spec: ScaleSpec
    layers: Layers


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Files of a pattern, sorted, without the hidden files that editors and desktops leave (``.#table3.yaml``)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


class Catalogue:
    """Content of an ``experiments/`` folder. Each file is read when it is needed, and only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scales: dict[str, Scale] = {}
        self._contents: dict[str, dict[str, Any]] = {}

    def read(self, *path: str) -> tuple[dict[str, Any], Place]:
        """Return the content of a file, e.g. ``read("gfl", "table3.yaml")``, and the file as a place."""
        file = "/".join(path)
        if file not in self._contents:
            self._contents[file] = read_yaml(self.folder / file)
        return self._contents[file], Place(f"experiments/{file}")

    @cached_property
    def papers(self) -> dict[str, Paper]:
        """Papers by the name of their folder; first the one that config.yaml names, whose tables have short names."""
        config, place = self.read("config.yaml")
        folders = {file.parent.name for file in _visible(self.folder, "*/*.yaml")} - {"scales"}
        names = sorted(name for name in folders if not name.startswith("."))
        if "paper" not in config:
            raise WorkbenchError(f"{place.at('paper')}: missing; add the paper whose tables have short names")
        choose(config["paper"], names, "paper", place.at("paper"))
        names.sort(key=lambda name: name != config["paper"])
        for name in names:
            if not (self.folder / name / "paper.yaml").is_file():
                raise WorkbenchError(
                    f"experiments/{name}/paper.yaml: missing; add it ({', '.join(Paper.model_fields)})"
                )
        return {name: validated(Paper, *self.read(name, "paper.yaml")) for name in names}

    def files(self, name: str) -> list[tuple[dict[str, Any], Place]]:
        """Content and place of the files of one name, e.g. ``claims.yaml``, of all papers that have it."""
        return [self.read(paper, name) for paper in self.papers if (self.folder / paper / name).is_file()]

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Tables by name, papers in the order of ``papers``."""
        for path in _visible(self.folder, "*.yaml"):
            if path.name not in ROOT_FILES:
                raise WorkbenchError(f"experiments/{path.name}: a table outside a paper; move it to a paper's folder")
        tables: dict[str, Table] = {}
        for i, paper in enumerate(self.papers):
            for path in _visible(self.folder / paper, "*.yaml"):
                if path.stem in NOT_TABLES:
                    continue
                content, place = self.read(paper, path.name)
                name = f"{paper}_{path.stem}" if i else path.stem
                _check_name(name, place, "file")
                if name in tables:
                    other = tables[name].place
                    raise WorkbenchError(f"{place}: duplicate table name '{name}', also of {other}; rename one")
                tables[name] = Table(place, _checked_table(content, place))
        _check_rows(tables)
        return tables

    @cached_property
    def rows(self) -> dict[str, str]:
        """Id of every row, rows from the literature too, and the name of the row's table."""
        return {row: name for name, table in self.tables.items() for row in table.spec.rows}

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """Recipes by name, those that others extend among them."""
        content, place = self.read("recipes.yaml")
        return {name: validated(Recipe, recipe, place.at(name)) for name, recipe in content.items()}

    @cached_property
    def scale_names(self) -> list[str]:
        """Names of all scales."""
        return sorted(self._scale_files)

    @cached_property
    def _scale_files(self) -> dict[str, Path]:
        """Name of a scale → its file. A file may be in a subfolder, whose name is not part of the scale's name."""
        files: dict[str, Path] = {}
        for path in sorted((self.folder / "scales").rglob("*.yaml")):
            if (other := files.setdefault(path.stem, path)) is not path:
                places = [f"experiments/{file.relative_to(self.folder)}" for file in (path, other)]
                raise WorkbenchError(f"{places[0]}: duplicate scale, also in {places[1]}; rename one")
        return files

    def scale(self, name: str) -> Scale:
        """Return a scale by name, or by the path of its file; ``own-…`` has the settings of the scale ``own``."""
        if name not in self._scales:
            if is_scale_file(name):
                _check_scale(scale_name(name), Place(name))
                if scale_name(name) in self.scale_names:
                    raise WorkbenchError(f"{name}: experiments/scales has a scale of this name; rename the file")
            elif not is_own(name):
                choose(name, self.scale_names, "scale", "experiments/scales")
                _check_scale(name, Place(f"experiments/scales/{self._scale_files[name].name}"))
            layers = self._scale_layers(name, ())
            self._scales[name] = Scale(layers.validated(ScaleSpec), layers)
        return self._scales[name]

    def _scale_layers(self, name: str, above: tuple[str, ...]) -> Layers:
        if is_scale_file(name):
            content, place = read_yaml(Path(name)), Place(name)
        else:
            file = self._scale_files[OWN if is_own(name) else name]
            content, place = self.read(*file.relative_to(self.folder).parts)
        own = Layers({key: value for key, value in content.items() if key != "extends"}, place)
        if "extends" not in content:
            return own
        others = [other for other in self.scale_names if other not in (*above, name)]
        choose(content["extends"], others, "scale", place.at("extends"))
        layers = self._scale_layers(content["extends"], (*above, name))
        layers.lay(own)
        return layers


def is_scale_file(scale: str) -> bool:
    """Whether a scale is named by the path of its file."""
    return scale.endswith((".yaml", ".yml"))


def is_own(scale: str) -> bool:
    """Whether a scale is that of a user's data set: ``own-<folder>-<digest8>``."""
    return re.fullmatch(rf"{OWN}-[A-Za-z0-9_.]+-[0-9a-f]{{8}}", scale) is not None


def scale_name(scale: str) -> str:
    """Name of a scale that is named by its name or by the path of its file."""
    return Path(scale).stem if is_scale_file(scale) else scale


def _check_name(name: str, place: Place, kind: str) -> None:
    """Raise if a table or a row cannot have this name, a target of the pipeline."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise WorkbenchError(f"{place}: '{name}' cannot be a target of the pipeline; use letters, digits, _ and - only")
    if name in (*TARGETS, *STEPS):
        raise WorkbenchError(f"{place}: '{name}' is a target of the pipeline; rename the {kind}")


def _check_scale(name: str, place: Place) -> None:
    """Raise unless a scale's name can be the name of its folder in ``results/``, which is in patterns of Snakemake."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise WorkbenchError(f"{place}: '{name}' cannot be a folder of results; use letters, digits, _ . and - only")
    if name == "weights" or name.startswith(("dataset-", f"{OWN}-")) or name.endswith("-rehearsal"):
        raise WorkbenchError(f"{place}: results/{name} is the folder of something else; rename the file")


def _check_rows(tables: dict[str, Table]) -> None:
    """Raise unless row ids are unique over all papers and differ from all other targets."""
    targets = {target: table for name, table in tables.items() for target in (name, f"{name}_ranking")}
    rows: dict[str, Table] = {}
    for table in tables.values():
        for row in table.spec.rows:
            place = table.place.at("rows", row)
            _check_name(row, place, "row")
            if row in targets:
                raise WorkbenchError(f"{place}: '{row}' is a target of {targets[row].place}; rename the row")
            if row in rows:
                raise WorkbenchError(f"{place}: duplicate row id, also in {rows[row].place}; rename one")
            rows[row] = table


def _checked_table(content: dict[str, Any], place: Place) -> TableSpec:
    spec = validated(TableSpec, content, place)
    run = [id_ for id_, row in spec.rows.items() if row.base]
    named = {place.at("rows", id_, "compared_with"): row.compared_with for id_, row in spec.rows.items()}
    for where, row in ({place.at("compared_with"): spec.compared_with} | named).items():
        if row is not None:
            choose(row, run, "row", where)
    return spec


@cache
def catalogue() -> Catalogue:
    """Return the catalogue of the checkout's ``experiments/``, the same one throughout a process.

    A process that changes a file of ``experiments/`` (a test does) must call ``forget()`` to see the change.
    """
    return Catalogue(find_checkout() / "experiments")


def forget() -> None:
    """Make the next call of any function read ``experiments/`` again."""
    catalogue.cache_clear()


def table_names() -> list[str]:
    """Return the names of all tables. The tables of the paper with short names, such as ``table3``, come first."""
    return list(catalogue().tables)


def table_place(name: str) -> Place:
    """Return the file of a table, for messages."""
    read_table(name)
    return catalogue().tables[name].place


def read_table(name: str) -> TableSpec:
    """Return the checked content of a table's file. The rows are not resolved at a scale yet."""
    tables = catalogue().tables
    choose(name, tables, "table", "experiments")
    return tables[name].spec


def scale_names() -> list[str]:
    """Return the names of all scales."""
    return catalogue().scale_names


def read_scale(name: str) -> ScaleSpec:
    """Return the checked content of a scale's file, laid over the scales that the scale extends."""
    return catalogue().scale(name).spec
