"""The families of detectors, as settings: what tells one detector of a family from another.

Widths, depths and anchor sizes are a scale's, losses a row's; what is left is listed here. Nothing heavy is imported.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from workbench.settings.base import Settings


class VFNet(Settings):
    """VarifocalNet and its ancestors: raw VFNet without star and refine, FCOS+ATSS with centerness instead."""

    nms_iou: ClassVar[float] = 0.6
    """Threshold of non-maximum suppression that the family is published with."""
    family: Literal["vfnet"] = "vfnet"
    star: bool = True
    refine: bool = True
    centerness: bool = False
    neck: Literal["fpn", "pafpn"] = "fpn"
    """The second is that of VFNet-X."""

    @model_validator(mode="after")
    def _combination(self) -> VFNet:
        if self.refine and not self.star:
            raise ValueError("refine needs star: the box is refined on star-shaped features")
        if self.centerness and self.star:
            raise ValueError("centerness belongs to FCOS+ATSS: set star and refine to false")
        return self

    @property
    def title(self) -> str:
        """Short name, part of a run's folder name."""
        if self.star:
            head = "vfnet" if self.refine else "vfnet_star"
        else:
            head = "fcos_atss" if self.centerness else "vfnet_raw"
        return head if self.neck == "fpn" else f"{head}_{self.neck}"


class Distribution(Settings):
    """A side's distance as a distribution over ``intervals + 1`` values, ``interval`` strides apart (GFL, eq. 3)."""

    intervals: int = Field(16, ge=1)
    interval: float = Field(1.0, gt=0)


class ATSS(Settings):
    """ATSS with a square anchor a cell; without centerness and with a distribution it is GFL."""

    nms_iou: ClassVar[float] = 0.6
    family: Literal["atss"] = "atss"
    centerness: bool = True
    """A branch of its own for localisation quality, in the loss and in the score."""
    distribution: Distribution | None = None
    """Instead of the delta code, and with the distribution focal loss."""

    @property
    def title(self) -> str:
        """Short name, part of a run's folder name."""
        if self.distribution is None:
            return "atss" if self.centerness else "atss_joint"
        n, delta = self.distribution.intervals, self.distribution.interval
        size = "" if (n, delta) == (16, 1) else f"_n{n}_d{delta:g}"
        return ("atss_dfl" if self.centerness else "gfl") + size


class RetinaNet(Settings):
    """RetinaNet: nine anchors a cell, assigned by IoU."""

    nms_iou: ClassVar[float] = 0.5
    title: ClassVar[str] = "retinanet"
    centerness: ClassVar[bool] = False
    family: Literal["retinanet"] = "retinanet"


class FoveaBox(Settings):
    """FoveaBox without feature alignment."""

    nms_iou: ClassVar[float] = 0.5
    title: ClassVar[str] = "foveabox"
    centerness: ClassVar[bool] = False
    family: Literal["foveabox"] = "foveabox"


class RepPoints(Settings):
    """RepPoints, boxes by the points' moments."""

    nms_iou: ClassVar[float] = 0.5
    title: ClassVar[str] = "reppoints"
    centerness: ClassVar[bool] = False
    family: Literal["reppoints"] = "reppoints"


AnyDetector = Annotated[VFNet | ATSS | RetinaNet | FoveaBox | RepPoints, Field(discriminator="family")]
