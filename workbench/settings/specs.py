"""Keys that each kind of file in ``experiments/`` may have: papers, recipes, tables with their rows, and scales."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from workbench.settings.base import Settings
from workbench.settings.data import ImageSize

Overrides = dict[str, Any]


class Paper(Settings):
    """A paper's ``paper.yaml``."""

    title: str
    authors: list[str] = Field(min_length=1)
    year: int = Field(ge=1900, le=2100)
    link: str = Field(pattern=r"^https://")


class InitSpec(Settings):
    """Trained detector from which a training starts."""

    weights: str = Field(min_length=1, examples=["released"])
    """``released`` for the published weights of the row's detector, a name in a ``released.yaml``, or a file."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    """SHA-256 of the file, or its first digits. With it, the run is known even where the file is not."""


class Differences(Settings):
    """Settings that differ from the layers below, which are the scale or another recipe."""

    detector: Overrides = Field({}, examples=[{"family": "vfnet"}])
    loss: Overrides = Field({}, examples=[{"name": "focal"}])
    backbone: Overrides = Field({}, examples=[{"name": "resnet50"}])
    head: Overrides = Field({}, examples=[{"channels": 256}])
    training: Overrides = Field({}, examples=[{"learning_rate": 0.01}])
    validation: Overrides = Field({}, examples=[{"nms": "soft"}])
    evaluation: Overrides = Field({}, examples=[{"nms_iou": 0.6}])
    init: Overrides = Field({}, examples=[{"weights": "released"}])
    """Keys of `InitSpec`; default: no trained detector."""
    schedule: str | None = None
    """One of the scale's schedules; default: 1x."""
    width: str | None = None
    """One of the scale's widths of neck and head; default: the scale's ``head``."""
    test: str | None = None
    """One of the scale's test settings, e.g. a larger test size; default: the scale's ``evaluation``."""


class Recipe(Differences):
    """A recipe: differences from the scale, or from the recipe that it ``extends``."""

    extends: str | None = None


Metric = Literal["AP", "AP50", "AP75", "APS", "APM", "APL"]


class RowSpec(Differences):
    """A row as its table's file states it. A row without a base is from the literature: printed, not run."""

    labels: dict[str, str | bool | int | float] = Field(examples=[{"loss": "focal"}])
    published: dict[Metric, float] = Field({}, examples=[{"AP": 41.6}])
    """Metrics in percent that the paper states."""
    fps: float | None = Field(None, gt=0)
    """Images per second that the paper states, on a V100."""
    base: str | None = None
    """The recipe that the row starts from."""
    compared_with: str | None = None
    """A row of the same table; default: the table's ``compared_with``."""
    name: str = ""
    """The row in words, for figures; default: its labels."""
    note: str = ""

    @model_validator(mode="after")
    def _literature_is_not_run(self) -> RowSpec:
        differences = self.model_fields_set & Differences.model_fields.keys()
        if self.base is None and differences:
            keys = ", ".join(sorted(differences))
            raise ValueError(f"{keys} without a base; add the recipe that the row starts from")
        return self


class TableSpec(Settings):
    """A table's file."""

    title: str
    split: Literal["val2017", "test-dev"]
    """Data split of the published metrics."""
    compared_with: str | None = None
    """The row whose measured AP is subtracted from the AP of the other rows."""
    rows: dict[str, RowSpec] = Field(min_length=1)

    def reference(self, row: str) -> str | None:
        """Row that a row is compared with, or None."""
        named = self.rows[row].compared_with or self.compared_with
        return None if named == row or self.rows[row].base is None else named


class SplitSpec(Settings):
    """Files of a split, relative to the folder of the data set."""

    annotations: str
    images: str


class DataSpec(Settings):
    """Group ``data`` of a scale whose data set is on disk."""

    kind: Literal["coco"]
    classes: Annotated[int, Field(ge=1, le=100_000)] | Annotated[list[str], Field(min_length=1)] | None = None
    """Number of classes that is assumed without a data set, or names of the classes that are learnt, in their order."""
    drop_unused: bool = False
    """Whether categories without objects are no classes."""
    split: float | None = Field(None, gt=0, lt=1, examples=[0.2])
    """Share of the images to test on, for a data set without splits."""
    train: SplitSpec | None = None
    val: SplitSpec | None = None
    test: SplitSpec | None = None

    @model_validator(mode="after")
    def _files_of_both_splits(self) -> DataSpec:
        if (self.train is None) != (self.val is None) or (self.test and not self.train):
            raise ValueError("state annotations and images of both train and val, or of neither")
        if isinstance(self.classes, list) and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names a category twice; name each once")
        return self


class ScaleSpec(Settings):
    """A scale's file: the world in which experiments are run."""

    title: str
    data: Overrides = Field(examples=[{"kind": "coco", "classes": 80}])
    root: str | None = None
    """Folder of the data set, if the command line names none."""
    image: ImageSize
    backbones: dict[str, Overrides]
    head: Overrides = Field({}, examples=[{"channels": 256}])
    heads: dict[str, Overrides] = {}
    """Differences of ``head`` for some families of detectors."""
    schedules: dict[str, Overrides]
    widths: dict[str, Overrides] = {}
    tests: dict[str, Overrides] = {}
    training: Overrides = Field({}, examples=[{"learning_rate": 0.01}])
    evaluation: Overrides = Field({}, examples=[{"nms_iou": 0.6}])
