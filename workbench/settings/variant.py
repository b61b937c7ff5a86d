"""Variants: the settings of an evaluation, i.e. test size, post-processing and oracle."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from workbench.settings.base import Settings
from workbench.settings.data import ImageSize
from workbench.settings.detectors import AnyDetector
from workbench.settings.experiment import MOST_STEPS, Experiment
from workbench.settings.postprocessing import PostProcessing
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place


class Oracle(Settings):
    """Ground truth in place of predictions at foreground locations, before post-processing (Table 1; section 3)."""

    centerness: Literal["truth", "iou"] | None = None
    """Centerness from its training target, or the IoU of the location's box with its object."""
    boxes: bool = False
    """Whether the object's box replaces the predicted box."""
    score: Literal["one", "iou"] | None = None
    """Score of the object's class: 1, or the IoU of the location's box with the object. Other scores stay."""

    @property
    def title(self) -> str:
        """Short name, part of an evaluation's folder name."""
        replaced = {"centerness": self.centerness, "boxes": "truth" if self.boxes else None, "score": self.score}
        return "_".join(["oracle", *(f"{output}_{value}" for output, value in replaced.items() if value)])


class Variant(PostProcessing):
    """Settings of an evaluation: test size, post-processing and oracle. Changing them never retrains."""

    image: ImageSize
    nms_iou: float = Field(0.6, gt=0, le=1)
    centerness: bool = True
    """Whether the centerness of a detector that has one is part of the score."""
    oracle: Oracle | None = None
    limit_images: int | None = Field(None, ge=1, le=MOST_STEPS)
    """Number of images of a rehearsal."""

    @model_validator(mode="after")
    def _combination(self) -> Variant:
        if self.oracle == Oracle():
            raise ValueError("the oracle replaces nothing; remove it")
        if self.oracle and self.oracle.centerness and not self.centerness:
            raise ValueError("an oracle's centerness has no effect with centerness: false; remove one of the two")
        return self


def check_evaluation(detector: AnyDetector, variant: Variant, place: Place | str) -> None:
    """Raise, naming the place, if an evaluation changes the centerness of a detector that has none."""
    replaced = variant.oracle is not None and variant.oracle.centerness is not None
    if not detector.centerness and (replaced or not variant.centerness):
        fault = f"{detector.title} has no centerness to {'replace' if replaced else 'leave out'}"
        raise WorkbenchError(f"{place}: {fault}; remove it from the evaluation")


def published_variant(experiment: Experiment) -> Variant:
    """Return the variant of validation: the experiment's image size, and the published post-processing.

    The post-processing is the published one of the family, unless the experiment's ``validation`` states another one.
    """
    stated = experiment.validation.model_dump(exclude_none=True)
    return Variant(image=experiment.image, **{"nms_iou": experiment.detector.nms_iou} | stated)
