"""Settings of an evaluation: test size, oracle and post-processing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from workbench.settings.base import Settings
from workbench.settings.data import ImageSize
from workbench.settings.detectors import AnyDetector
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError


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
