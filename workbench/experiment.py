"""What is learnt and how it is evaluated, as immutable, validated objects, and the ids of runs.

An ``Experiment`` holds everything that decides the learning, a ``Variant`` how a trained run is evaluated. Equal
experiments are one run, whatever tables they stand in. Nothing heavy is imported: the pipeline reads this each time.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from workbench.data.embedded import EmbeddedData
from workbench.errors import WorkbenchError
from workbench.families import AnyDetector, Settings
from workbench.losses.classification import AnyClassificationLoss


class CocoData(Settings):
    """A data set on disk in COCO's layout. Where it lies is no part of what is learnt; its annotations are."""

    kind: Literal["coco"] = "coco"
    classes: int = Field(ge=1)
    digest: str | None = None
    """Of the content of the training annotations; None where no data set was named."""


AnyData = Annotated[CocoData | EmbeddedData, Field(discriminator="kind")]


class ImageSize(Settings):
    """Images are scaled, aspect kept, to fit: long side and short side at most these many pixels."""

    long: int = Field(ge=32)
    short: int = Field(ge=32)

    @model_validator(mode="after")
    def _ordered(self) -> ImageSize:
        if self.short > self.long:
            raise ValueError(f"short ({self.short}) is larger than long ({self.long})")
        return self

    def __str__(self) -> str:
        return f"{self.long}x{self.short}"


Side = Annotated[int, Field(ge=32)]


class ImageRange(Settings):
    """Bounds of the long and of the short side, each drawn anew for every image: whole pixels, both ends included."""

    long: tuple[Side, Side]
    short: tuple[Side, Side]

    @field_validator("long", "short")
    @classmethod
    def _ordered(cls, ends: tuple[int, int]) -> tuple[int, int]:
        if ends[0] > ends[1]:
            raise ValueError("the smaller end comes first")
        return ends


class CutOut(Settings):
    """Black rectangles in a training image (DeVries and Taylor, arXiv:1708.04552; VFNet-X)."""

    probability: float = Field(0.5, ge=0, le=1)
    unit: int = Field(4, ge=1)
    """Pixels; sides of holes are 1 to 12 units (the published 4 to 48 pixels are of images of 1333x800 and more)."""


class WeightAveraging(Settings):
    """A stage after the epochs: cycles of an epoch, each with half a cosine from ``high`` down to ``low``; the result
    is the mean of the weights at the cycles' ends (Zhang et al., SWA Object Detection, arXiv:2012.12645).

    It starts from the best validated weights with an optimiser that remembers nothing. The rates scale with the batch
    as ``learning_rate`` does.
    """

    cycles: int = Field(18, ge=1)
    high: float = Field(0.01, gt=0)
    low: float = Field(1e-4, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> WeightAveraging:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is larger than high ({self.high:g})")
        return self


class Backbone(Settings):
    """A timm network; ``layers``, ``channels`` and ``stem`` make it shallower or narrower, its blocks stay the same."""

    name: str
    layers: tuple[int, int, int, int] | None = None
    """Blocks in each of the four stages."""
    channels: tuple[int, int, int, int] | None = None
    """Bottleneck width of each stage (a stage puts out four times as many)."""
    stem: int | None = Field(None, ge=1)
    """Channels of the first convolution."""
    pretrained: bool = False
    frozen_stages: int = Field(0, ge=0, le=4)
    """0: all is trained; n: the stem and the first n stages get no gradient."""
    norm: Literal["frozen", "trained"] = "trained"
    """Frozen: BatchNorm keeps its running statistics; its weight and bias are trained all the same."""
    dcn: bool = False
    """DCNv2 instead of every 3×3 convolution from the second stage on (and in the towers of a VFNet)."""

    @property
    def title(self) -> str:
        """Short name, part of a run's folder name."""
        return f"{self.name}_dcn" if self.dcn else self.name


class Head(Settings):
    """Widths and depth of neck and head, and the size of what a pyramid level is for."""

    channels: int = Field(256, ge=1)
    stacked_convs: int = Field(3, ge=1)
    """Blocks of a tower before its last one: a star convolution, a deformable one, or one more block."""
    norm_groups: int = Field(32, ge=1)
    anchor_scale: float = Field(8.0, gt=0)
    """Side of ATSS's anchor in strides; other detectors' sizes follow it and are the published ones at 8."""
    init_std: float = Field(0.01, gt=0)
    """Of the head's convolutions; a narrow head needs more than the paper's for signals of the same size."""

    @model_validator(mode="after")
    def _divisible(self) -> Head:
        if self.channels % self.norm_groups:
            raise ValueError(f"channels ({self.channels}) are not a multiple of norm_groups ({self.norm_groups})")
        return self


class Training(Settings):
    """The optimisation. ``learning_rate`` holds for ``reference_batch`` images a step and scales with the batch."""

    epochs: int = Field(ge=1)
    batch: int = Field(16, ge=1)
    reference_batch: int = Field(16, ge=1)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.01, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    bias_lr_factor: float = Field(1.0, gt=0)
    """Of biases outside norm layers."""
    bias_weight_decay: bool = True
    warmup_steps: int = Field(500, ge=0)
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    schedule: Literal["step", "cosine"] = "step"
    decay_epochs: tuple[int, ...] = ()
    """Step schedule: epochs, counted from 0, from which the rate is a tenth of what it was."""
    clip_gradient: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient."""
    flip: float = Field(0.5, ge=0, le=1)
    image_range: ImageRange | None = None
    """Multi-scale training; without it images are scaled to the experiment's size. Tests keep the variant's."""
    crop: float = Field(0.0, ge=0, le=1)
    """Probability of a random crop, of three quarters of each side or more."""
    cutout: CutOut | None = None
    swa: WeightAveraging | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = Field(1, ge=1)
    """Epochs between two looks at the validation AP; decides nothing that is learnt, since with ``swa``, which starts
    from the best epoch, all are looked at."""
    limit_steps: int | None = Field(None, ge=1)
    """A rehearsal's length; it averages no weights."""


class Experiment(Settings):
    """Everything that decides what is learnt."""

    data: AnyData
    image: ImageSize
    backbone: Backbone
    head: Head
    detector: AnyDetector
    loss: AnyClassificationLoss
    training: Training


class Oracle(Settings):
    """Ground truth in place of what foreground cells predict, before post-processing (Table 1; section 3)."""

    centerness: Literal["truth", "iou"] | None = None
    """What it is trained towards, or the IoU of the cell's box with its object."""
    boxes: bool = False
    """The object's."""
    score: Literal["one", "iou"] | None = None
    """Of the object's class: 1, or the IoU of the cell's box with the object; other classes keep theirs."""

    @property
    def title(self) -> str:
        """Short name, part of an evaluation's folder name."""
        said = {"centerness": self.centerness, "boxes": "truth" if self.boxes else None, "score": self.score}
        return "_".join(["oracle", *(f"{what}_{value}" for what, value in said.items() if value)])


class Variant(Settings):
    """How a trained run is evaluated: test size, oracle, post-processing. Changing it never retrains."""

    image: ImageSize
    score_threshold: float = Field(0.05, ge=0, lt=1)
    nms: Literal["hard", "soft"] = "hard"
    """Soft: scores of overlapping boxes fall instead of the boxes (Bodla et al., ICCV 2017, the linear rule)."""
    nms_iou: float = Field(0.6, gt=0, le=1)
    candidates: int = Field(1000, ge=1)
    """Cells kept of each pyramid level."""
    max_detections: int = Field(100, ge=1)
    centerness: bool = True
    """Whether a detector's centerness, where it has one, takes part in the score."""
    oracle: Oracle | None = None
    limit_images: int | None = Field(None, ge=1)
    """A rehearsal's number of images."""

    @model_validator(mode="after")
    def _combination(self) -> Variant:
        if self.oracle == Oracle():
            raise ValueError("an oracle that replaces nothing; leave it out")
        if self.oracle and self.oracle.centerness and not self.centerness:
            raise ValueError("an oracle's centerness has no effect without centerness in the score; leave one out")
        return self


def check_evaluation(detector: AnyDetector, variant: Variant, place: str) -> None:
    """Raise, naming the place, where an evaluation speaks of a centerness that the detector does not have."""
    replaced = variant.oracle is not None and variant.oracle.centerness is not None
    if not detector.centerness and (replaced or not variant.centerness):
        fault = f"{detector.title} has no centerness to {'replace' if replaced else 'leave out'}"
        raise WorkbenchError(f"{place}: {fault}; remove it from the evaluation")


def published_variant(experiment: Experiment) -> Variant:
    """An evaluation at the training's image size, with the detector's published post-processing."""
    return Variant(image=experiment.image, nms_iou=experiment.detector.nms_iou)


ALWAYS_SAID = {"name", "kind", "family", "drawing"}
"""Fields that tell one kind of settings from another: part of an id though they are defaults."""
DECIDES_NOTHING = {"validate_every"}


def essence(settings: BaseModel) -> dict[str, Any]:
    """The settings that decide something, defaults left out, so that a new field with a default changes no id."""
    said = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if key in DECIDES_NOTHING or (value == field.get_default(call_default_factory=True) and key not in ALWAYS_SAID):
            continue
        said[key] = essence(value) if isinstance(value, BaseModel) else value
    return said


def hash8(settings: BaseModel) -> str:
    """Eight hex digits of a digest of the essence."""
    text = json.dumps(essence(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_id(experiment: Experiment) -> str:
    """``<name>-<hash8>``, the folder of a run; the name too is made of the experiment, so equal ones share it."""
    loss = experiment.loss
    changed = [f"{key}{value}" for key, value in essence(loss).items() if key != "name"]
    name = "-".join([experiment.detector.title, "_".join([loss.name, *changed]), experiment.backbone.title])
    return f"{name}-{hash8(experiment)}"


def variant_id(variant: Variant) -> str:
    """The folder of an evaluation within a run's seed."""
    nms = "nms" if variant.nms == "hard" else f"{variant.nms}_nms"
    said = [f"{nms}{variant.nms_iou:g}", str(variant.image)]
    if not variant.centerness:
        said.append("without_centerness")
    if variant.oracle:
        said.append(variant.oracle.title)
    return "-".join([*said, hash8(variant)])


def seed_folder(seed: int | str) -> str:
    """The folder of one training within a run's; of its published weights for ``released``."""
    return "released" if seed == "released" else f"seed{seed}"
