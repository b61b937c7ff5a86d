"""The settings of an experiment: everything that decides what is learnt, frozen and validated.

Equal experiments are one run, whatever tables they are in. Nothing heavy is imported, since the pipeline imports this
module at each start.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from workbench.losses.classification import AnyClassificationLoss
from workbench.settings.base import Settings
from workbench.settings.data import AnyData, ImageRange, ImageSize
from workbench.settings.detectors import AnyDetector
from workbench.settings.postprocessing import PostProcessing

# Bounds far above any sensible training, so that a typo is reported at once and not when the memory is full.
MOST_EPOCHS, MOST_STEPS, MOST_IMAGES = 100_000, 100_000_000, 100_000
Epoch = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
Blocks = Annotated[int, Field(ge=1, le=1000)]
Channels = Annotated[int, Field(ge=1, le=100_000)]


class CutOut(Settings):
    """CutOut: black rectangles in a training image (DeVries and Taylor, arXiv:1708.04552; VFNet-X)."""

    probability: float = Field(0.5, ge=0, le=1)
    unit: int = Field(4, ge=1, le=1000)
    """Pixels. Sides of holes are 1 to 12 units; published are 4 to 48 pixels for images of 1333x800 and larger."""


class WeightAveraging(Settings):
    """Stochastic weight averaging after the epochs (Zhang et al., SWA Object Detection, arXiv:2012.12645).

    A cycle is one epoch, in which the learning rate falls along half a cosine from ``high`` to ``low``. The result is
    the mean of the weights at the ends of the cycles. The first cycle starts from the best validated weights with a new
    optimiser. The rates scale with the batch as ``learning_rate`` does.
    """

    cycles: int = Field(18, ge=1, le=MOST_EPOCHS)
    high: float = Field(0.01, gt=0)
    low: float = Field(1e-4, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> WeightAveraging:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is larger than high ({self.high:g}): swap them")
        return self


class DrawnPretraining(Settings):
    """Pretraining on drawn objects (``workbench.training.pretraining``), in place of ImageNet's."""

    pictures: int = Field(32_000, ge=1, le=10_000_000)
    side: int = Field(64, ge=64, le=1024)
    """Side of the square pictures in pixels."""
    epochs: int = Field(8, ge=1, le=MOST_EPOCHS)
    batch: int = Field(32, ge=2, le=MOST_IMAGES)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)


class Backbone(Settings):
    """A timm network. ``layers``, ``channels`` and ``stem`` make it shallower or narrower, with the same blocks."""

    name: str
    layers: tuple[Blocks, Blocks, Blocks, Blocks] | None = Field(None, strict=False)
    """Numbers of blocks in the four stages."""
    channels: tuple[Channels, Channels, Channels, Channels] | None = Field(None, strict=False)
    """Bottleneck widths of the four stages; the output of a stage has four times as many channels."""
    stem: Channels | None = None
    """Number of channels of the first convolution."""
    pretrained: bool | DrawnPretraining = False
    """True for ImageNet weights."""
    frozen_stages: int = Field(0, ge=0, le=4)
    """Number n of stages that get no gradient, and the stem with them; 0 if everything is trained."""
    norm: Literal["frozen", "trained"] = "trained"
    """BatchNorm. Frozen: its running statistics stay as they are, its weight and bias are trained nevertheless."""
    dcn: bool = False
    """DCNv2 in place of every 3×3 convolution from the second stage on, and in the towers of a VFNet."""

    @property
    def title(self) -> str:
        """Short name, part of a run's folder name."""
        return f"{self.name}_dcn" if self.dcn else self.name


class Head(Settings):
    """Width and depth of neck and head, and the object size that a pyramid level is for."""

    channels: Channels = 256
    stacked_convs: int = Field(3, ge=1, le=100)
    """Number of blocks in a tower before the last layer: a star convolution, a deformable one, or one more block."""
    norm_groups: Channels = 32
    anchor_scale: float = Field(8.0, gt=0, le=1000)
    """Side of ATSS's anchor in strides. Sizes of other detectors scale with it; 8 gives the published sizes."""
    init_std: Annotated[float, Field(gt=0, le=1000)] | Literal["unit"] = 0.01
    """Standard deviation of the head's initial weights. With "unit", hidden layers keep the variance of their inputs,
    whatever the number of channels (He et al., ICCV 2015), and the last layers have 0.01."""

    @model_validator(mode="after")
    def _divisible(self) -> Head:
        if self.channels % self.norm_groups:
            raise ValueError(
                f"channels ({self.channels}) are not a multiple of norm_groups ({self.norm_groups}): change one"
            )
        return self


class Training(Settings):
    """The optimisation. ``learning_rate`` applies to steps of ``reference_batch`` images and scales with ``batch``."""

    epochs: int = Field(ge=1, le=MOST_EPOCHS)
    batch: int = Field(16, ge=1, le=MOST_IMAGES)
    """Number of images per step."""
    canvas: Annotated[int, Field(ge=1, le=MOST_IMAGES)] | Literal["batch"] = "batch"
    """Number of images that share a canvas, and with it padding and statistics of BatchNorm; a whole batch if "batch".
    In the published trainings a canvas was the images of one GPU. With trained BatchNorm and several canvases, running
    statistics are those of the first device's canvases."""
    reference_batch: int = Field(16, ge=1, le=MOST_IMAGES)
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.01, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    bias_lr_factor: float = Field(1.0, gt=0)
    """Factor of the learning rate of biases outside norm layers."""
    bias_weight_decay: bool = True
    warmup_steps: int = Field(500, ge=0, le=MOST_STEPS)
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    """Share of the learning rate at the first step."""
    schedule: Literal["step", "cosine"] = "step"
    decay_epochs: tuple[Epoch, ...] = Field((), strict=False)
    """Step schedule: epochs, counted from 0, at whose start the learning rate is divided by ten."""
    clip_gradient: float | None = Field(None, gt=0)
    """Largest norm of the gradient over all weights."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    image_range: ImageRange | None = None
    """Multi-scale training. Default: the experiment's image size. The variant states the test size."""
    crop: float = Field(0.0, ge=0, le=1)
    """Probability of a random crop, which keeps at least three quarters of each side."""
    cutout: CutOut | None = None
    swa: WeightAveraging | None = None
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Precision of matrix products and convolutions: single precision without TF32, TF32 (on a GPU), or bfloat16 by
    autocast. The detections of a bf16 training are computed in fp32."""
    initialisation: int = Field(0, ge=0, le=9)
    """Number of the initial weights among those of a seed. Another number gives other weights, with the same data in
    the same order: a placebo of a treatment."""
    validate_every: int | None = Field(1, ge=1, le=MOST_EPOCHS)
    """Number of epochs between two validations; the last epoch is always validated. None: no validation. It does not
    affect what is learnt: with ``swa``, which starts from the best epoch, every epoch is validated."""
    limit_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    """Number of steps of a rehearsal, which averages no weights."""

    @property
    def canvas_images(self) -> int:
        """Number of images of a canvas."""
        return self.batch if self.canvas == "batch" else self.canvas

    @property
    def canvases(self) -> int:
        """Number of canvases of a step."""
        return self.batch // self.canvas_images

    def devices(self, most: int) -> int:
        """Number of devices of a training that may use ``most``: each device has equally many canvases of a step."""
        return max(number for number in range(1, min(most, self.canvases) + 1) if self.canvases % number == 0)

    @property
    def detection_precision(self) -> Literal["fp32", "tf32"]:
        """Precision in which detections are computed."""
        return "tf32" if self.precision == "tf32" else "fp32"

    @model_validator(mode="after")
    def _whole_canvases(self) -> Training:
        if self.batch % self.canvas_images:
            raise ValueError(
                f"training.batch: {self.batch} images are not a whole number of canvases of {self.canvas}; change "
                "training.batch or training.canvas (canvas: batch is one canvas)"
            )
        return self


class InitialWeights(Settings):
    """Weights of a trained detector with which a training starts, identified by their content.

    They replace the pretrained weights of the backbone. The classifier keeps its random weights for classes that the
    weights do not have.
    """

    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8}$")
    """First eight digits of the SHA-256 of the file. None if they are not known: such a run cannot be trained."""


class Experiment(Settings):
    """Everything that decides what is learnt."""

    data: AnyData
    image: ImageSize
    backbone: Backbone
    head: Head
    detector: AnyDetector
    loss: AnyClassificationLoss
    training: Training
    validation: PostProcessing = PostProcessing()
    """Post-processing of validation, which chooses the weights that ``training.swa`` starts from. Evaluations have the
    same post-processing unless they state another one."""
    init: InitialWeights | None = None
    """Trained detector from which the training starts. Default: random weights, or a pretrained backbone."""
