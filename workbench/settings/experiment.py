"""What is learnt and how it is evaluated, as immutable, validated objects, and the ids of runs.

An ``Experiment`` holds everything that decides the learning, a ``Variant`` how a trained run is evaluated. Equal
experiments are one run, whatever tables they stand in. Nothing heavy is imported: the pipeline reads this each time.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from workbench.losses.classification import AnyClassificationLoss
from workbench.settings.base import Settings
from workbench.settings.data import AnyData, ImageRange, ImageSize
from workbench.settings.detectors import AnyDetector


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
