"""Families of detectors as settings: the choices that distinguish detectors of one family.

A scale states widths, depths and anchor sizes, a row states the loss; all other choices are here. Nothing heavy is
imported.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from workbench.settings.base import Settings


class VFNet(Settings):
    """VarifocalNet and its ancestors: raw VFNet (without star and refine) and FCOS+ATSS (with centerness instead)."""

    nms_iou: ClassVar[float] = 0.6
    """Published threshold of non-maximum suppression."""
    family: Literal["vfnet"] = "vfnet"
    star: bool = True
    """Star-shaped deformable convolution on the features."""
    star_points: Literal["box", "grid"] = "box"
    """Points that the star convolution samples: nine points of the initial box, or the regular 3×3 grid as a control.
    The parameters and their initial values are the same."""
    refine: bool = True
    """Refinement of the box by a second regression on the star-shaped features."""
    centerness: bool = False
    neck: Literal["fpn", "pafpn"] = "fpn"
    """VFNet-X has the PAFPN."""

    @model_validator(mode="after")
    def _combination(self) -> VFNet:
        if self.refine and not self.star:
            raise ValueError("refine needs star: the box is refined on star-shaped features")
        if self.centerness and self.star:
            raise ValueError("centerness belongs to FCOS+ATSS: set star and refine to false")
        if self.star_points == "grid" and not self.star:
            raise ValueError("star_points: grid needs star: set star to true, or leave star_points out")
        return self

    @property
    def title(self) -> str:
        """Short name, part of a run's folder name."""
        if self.star:
            head = "vfnet" if self.refine else "vfnet_star"
            head = head if self.star_points == "box" else f"{head}_grid"
        else:
            head = "fcos_atss" if self.centerness else "vfnet_raw"
        return head if self.neck == "fpn" else f"{head}_{self.neck}"


class Distribution(Settings):
    """Distribution of a side's distance over ``intervals + 1`` values at steps of ``interval`` strides (GFL, eq. 3)."""

    intervals: int = Field(16, ge=1, le=1000)
    interval: float = Field(1.0, gt=0, le=1000)


class ATSS(Settings):
    """ATSS with one square anchor per location. Without centerness and with a distribution it is GFL."""

    nms_iou: ClassVar[float] = 0.6
    family: Literal["atss"] = "atss"
    centerness: bool = True
    """A separate branch for localisation quality, part of the loss and of the score."""
    distribution: Distribution | None = None
    """Distribution in place of the delta box code; the distribution focal loss is added."""

    @property
    def title(self) -> str:
        """Short name, part of a run's folder name."""
        if self.distribution is None:
            return "atss" if self.centerness else "atss_joint"
        n, delta = self.distribution.intervals, self.distribution.interval
        size = "" if (n, delta) == (16, 1) else f"_n{n}_d{delta:g}"
        return ("atss_dfl" if self.centerness else "gfl") + size


class NormalisedInGroups(Settings):
    """Detector whose losses are normalised in groups of images, as on each GPU of the published training."""

    normaliser_images: int = Field(4, ge=1, le=1000)
    """Number of images of a group. A canvas with fewer images is a group of its own."""


class RetinaNet(NormalisedInGroups):
    """RetinaNet: nine anchors per location, assigned by IoU."""

    nms_iou: ClassVar[float] = 0.5
    title: ClassVar[str] = "retinanet"
    centerness: ClassVar[bool] = False
    family: Literal["retinanet"] = "retinanet"


class FoveaBox(NormalisedInGroups):
    """FoveaBox without feature alignment."""

    nms_iou: ClassVar[float] = 0.5
    title: ClassVar[str] = "foveabox"
    centerness: ClassVar[bool] = False
    family: Literal["foveabox"] = "foveabox"


class RepPoints(NormalisedInGroups):
    """RepPoints with boxes from the moments of the points."""

    nms_iou: ClassVar[float] = 0.5
    title: ClassVar[str] = "reppoints"
    centerness: ClassVar[bool] = False
    family: Literal["reppoints"] = "reppoints"


AnyDetector = Annotated[VFNet | ATSS | RetinaNet | FoveaBox | RepPoints, Field(discriminator="family")]
