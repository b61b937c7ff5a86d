"""The catalogue of experiments: tables, recipes and scales in ``experiments/`` become the experiment of each row.

`workbench.settings.documents` lays what scale, recipe and row state over one another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from workbench.settings.data import EmbeddedData
from workbench.settings.digest import (
    EVALUATED,
    TRAIN,
    VAL,
    SplitDigest,
    annotation_digest,
    cache_file,
    drawn_digest,
    split_digest,
)
from workbench.settings.documents import named_settings, row_document
from workbench.settings.experiment import Experiment
from workbench.settings.files import Catalogue, catalogue, read_scale, read_table
from workbench.settings.ids import evaluation_id, run_id, variant_id
from workbench.settings.initial import COMMAND_LINE, Start, find_start, stated_start
from workbench.settings.layers import Layers
from workbench.settings.layout_files import read_categories
from workbench.settings.released import published_names, read_released
from workbench.settings.specs import DataSpec, InitSpec, TableSpec
from workbench.settings.variant import Variant, check_evaluation, published_variant
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place, choose

DATA_PARTS = (
    f"annotations/instances_{TRAIN}.json",
    f"annotations/instances_{VAL}.json",
    TRAIN,
    VAL,
)
"""Files and folders of a data set in COCO's layout."""


@dataclass(frozen=True)
class Row:
    """Row that is run, resolved at a scale: labels, published metrics, experiment and variant."""

    id: str
    table: str
    labels: dict[str, Any]
    published: dict[str, float]
    note: str
    experiment: Experiment
    variant: Variant
    on_disk: SplitDigest | None
    """Digest of the evaluated split of a data set on disk; None if no data set was named, or if it is drawn."""
    start: Start | None = None
    """Trained detector from which the training starts; None for random weights or a pretrained backbone."""
    evaluated: str = "val"
    """Split on which the row is evaluated: ``val`` or ``test``."""

    @cached_property
    def run(self) -> str:
        """Folder name of the run."""
        return run_id(self.experiment)

    @cached_property
    def variant_id(self) -> str:
        """Id of the variant, the first part of the folder name of the evaluation."""
        return variant_id(self.variant)

    def split(self, seed: int | str) -> SplitDigest | None:
        """Digest of the split on which a training is evaluated; None if no data set was named.

        Args:
            seed: number, also as text, or ``released``. It matters only where each seed has a world of its own.
        """
        data = self.experiment.data
        return drawn_digest(data, EVALUATED[self.evaluated], seed) if data.kind == "embedded" else self.on_disk

    def evaluation_folder(self, seed: int | str) -> str:
        """Folder name of the evaluation within the training of a seed."""
        return evaluation_id(self.variant, self.split(seed), self.evaluated)

    def ranking_folder(self, seed: int | str) -> str:
        """Folder name of the evaluation whose scores are ranked: the published variant on the same number of images."""
        limit = {"limit_images": self.variant.limit_images}
        return evaluation_id(published_variant(self.experiment).model_copy(update=limit), self.split(seed))


@dataclass(frozen=True)
class Rehearsal:
    """Limits of a rehearsal, which only shows that everything works: a few one-image steps, a few test images."""

    steps: int | None = None
    images: int | None = None

    def __bool__(self) -> bool:
        return self.steps is not None or self.images is not None


def load_table(
    name: str,
    scale: str = "mini",
    data_root: Path | None = None,
    rehearsal: Rehearsal | None = None,
    init: str | None = None,
) -> tuple[TableSpec, list[Row]]:
    """Return a table, and its rows resolved at a scale, without the rows from the literature.

    Args:
        name: e.g. ``table3``.
        scale: e.g. ``mini`` or ``coco``.
        data_root: data set in COCO's format. A run's id depends on the annotations; without a data set, ids are
            provisional.
        rehearsal: limits of trainings and evaluations.
        init: weights of a trained detector from which all rows start; see ``InitSpec.weights``.

    Raises:
        WorkbenchError: an unknown table, scale or key, or a value of the wrong type. The message names file and key.
    """
    table = read_table(name)
    digests = _digests(scale, data_root)
    start = None if init is None else stated_start(init)
    return table, list(_rows(catalogue(), name, scale, digests, rehearsal or Rehearsal(), start))


def load_row(table: str, row: str, scale: str = "mini", data_root: Path | None = None) -> Row:
    """Return one row of a table, resolved at a scale; see ``load_table``."""
    spec, rows = load_table(table, scale, data_root)
    place = catalogue().tables[table].place
    if row in spec.rows and spec.rows[row].base is None:
        raise WorkbenchError(f"{place.at('rows', row)}: from the literature and not run; name a row with a base")
    choose(row, [r.id for r in rows], "row", place)
    return next(r for r in rows if r.id == row)


def find_row(
    id_: str,
    scale: str = "mini",
    data_root: Path | None = None,
    rehearsal: Rehearsal | None = None,
    place: str = "--run",
    init: str | None = None,
) -> Row:
    """Return a row of any table, resolved at a scale; see ``load_table``.

    Args:
        place: what named the row, the start of the message if there is no such row.
    """
    tables = {row: table for row, table in catalogue().rows.items() if read_table(table).rows[row].base}
    choose(id_, tables, "row", place)
    return next(row for row in load_table(tables[id_], scale, data_root, rehearsal, init)[1] if row.id == id_)


def load_experiment(table: str, row: str, scale: str = "mini", data_root: Path | None = None) -> Experiment:
    """Return the experiment of a row of a table; see ``load_table``."""
    return load_row(table, row, scale, data_root).experiment


def embedded_settings(scale: str) -> EmbeddedData:
    """Return the settings of a scale's embedded data sets; raise if the scale draws no data set."""
    layers = catalogue().scale(scale).layers
    if layers.content["data"].get("kind") != "embedded":
        raise WorkbenchError(f"scale {scale} has no embedded data set; choose a scale that draws its own, e.g. mini")
    return layers.part("data").validated(EmbeddedData)


@dataclass(frozen=True)
class _Digests:
    """Digests of a data set: its training annotations, part of a run's id, and the split that is evaluated.

    Attributes:
        classes: number of its categories.
    """

    training: str | None = None
    validation: SplitDigest | None = None
    classes: int | None = None


def _digests(scale: str, data_root: Path | None) -> _Digests:
    spec = read_scale(scale)
    if spec.data.get("kind") == "embedded":
        return _Digests()  # the settings of the experiment decide the data set
    root = data_root or (Path(spec.root) if spec.root else None)
    if root is None:
        return _Digests()
    for path in (root, *(root / part for part in DATA_PARTS)):
        if not os.path.exists(path):  # unlike Path.exists, no error for a name that is too long
            kind = "file" if path.suffix == ".json" else "folder"
            raise WorkbenchError(f"{path}: no such {kind}; data_root must contain {', '.join(DATA_PARTS)}")
    training = annotation_digest(root / DATA_PARTS[0], cache_file("digests.json"))
    return _Digests(training, split_digest(root, VAL), _number_of_categories(root / DATA_PARTS[0], training))


@cache
def _number_of_categories(annotations: Path, digest: str) -> int:
    """Number of categories in a file of this digest; 1 for a file without categories, whose objects are of one class.

    Faults of the file are reported by the training, which reads all of it.
    """
    return len(read_categories(annotations)) or 1


@cache
def _rows(
    catalogue: Catalogue, table: str, scale: str, digests: _Digests, rehearsal: Rehearsal, init: InitSpec | None
) -> tuple[Row, ...]:
    """Resolve the rows of a table, without the rows from the literature."""
    place, spec = catalogue.tables[table].place, catalogue.tables[table].spec
    rows = []
    for id_, row in spec.rows.items():
        if row.base:
            document = row_document(catalogue, row, place.at("rows", id_), catalogue.scale(scale))
            start = _start(catalogue, document, init)
            experiment, variant = _resolve(document, digests, rehearsal, start)
            stated = (id_, table, row.labels, row.published, row.note)
            rows.append(Row(*stated, experiment, variant, digests.validation, start))
    return tuple(rows)


def _start(catalogue: Catalogue, document: Layers, init: InitSpec | None) -> Start | None:
    """Trained detector from which a row starts; ``init`` is that of the command line, which wins over the row."""
    stated = document.part("init")
    if init is None and not stated.content:
        return None
    spec, place = (init, COMMAND_LINE) if init else (stated.validated(InitSpec), stated.place(()))

    def of_row() -> list[str]:
        own = _detector(document)
        return published_names({row for row, other in _published_detectors(catalogue).items() if other == own})

    return find_start(spec, str(place), of_row)


@cache
def _published_detectors(catalogue: Catalogue) -> dict[str, list[Any]]:
    """Row with published weights → its detector; see `_detector`."""
    listed = {row for weights in read_released().values() for row in weights.rows}
    specs = {row: catalogue.tables[catalogue.rows[row]].spec.rows[row] for row in listed}
    return {row: _detector(named_settings(catalogue, spec, Place(row))) for row, spec in specs.items() if spec.base}


def _detector(document: Layers) -> list[Any]:
    """Detector and schedule that a row and its recipe name, equal at all scales."""
    content, backbone = document.content, document.content.get("backbone", {})
    named = [content.get("schedule") or "1x", content.get("width"), backbone.get("name"), backbone.get("dcn", False)]
    return [content.get("detector"), content.get("loss"), *named]


def _resolve(
    document: Layers, digests: _Digests, rehearsal: Rehearsal, start: Start | None
) -> tuple[Experiment, Variant]:
    """Return the experiment and the variant that a row's document states."""
    settings, evaluation = document.pick(Experiment.model_fields), document.part("evaluation")
    settings.content["init"] = start and start.settings
    if start:
        settings.content["backbone"]["pretrained"] = False  # all weights of the backbone are replaced
    if document.content["data"].get("kind") == "coco":
        settings.content["data"] = _data_on_disk(document.part("data").validated(DataSpec), digests)
    if rehearsal:
        _shorten(settings.content, evaluation.content, rehearsal)
    experiment = settings.validated(Experiment)
    published = Layers(published_variant(experiment).model_dump(), evaluation.place(()))
    published.lay(evaluation)
    variant = published.validated(Variant)
    check_evaluation(experiment.detector, variant, evaluation.place(()))
    return experiment, variant


def _data_on_disk(spec: DataSpec, digests: _Digests) -> dict[str, Any]:
    """Settings of a data set on disk: the number of classes is that of its files, or the stated one without files."""
    stated = len(spec.classes) if isinstance(spec.classes, list) else spec.classes
    return {"kind": "coco", "classes": digests.classes or stated or 1, "digest": digests.training}


def _shorten(settings: dict, evaluation: dict, rehearsal: Rehearsal) -> None:
    """Shorten a document in place. A rehearsal has one-image steps and fetches no weights of a backbone."""
    settings["backbone"]["pretrained"] = False
    if rehearsal.steps is not None:
        settings["training"] |= {"batch": 1, "canvas": "batch", "limit_steps": rehearsal.steps}
    if rehearsal.images is not None:
        evaluation["limit_images"] = rehearsal.images
