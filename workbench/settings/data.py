"""Settings of the data: a data set on disk or an embedded one, and the sizes of images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from workbench.settings.base import Settings

# Ids with gaps, as COCO's: a reader that takes ids for indices must fail here too.
CATEGORIES: tuple[tuple[int, str], ...] = (
    (1, "triangle"),
    (3, "box"),
    (4, "ellipse"),
    (8, "star"),
    (13, "crescent"),
    (21, "cross"),
)


class EmbeddedData(BaseModel):
    """Settings of the embedded data set: together with this code they decide every byte of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["embedded"] = "embedded"
    drawing: Literal[2] = Field(2, description="raised when the code draws otherwise: another data set, other runs")
    seed: int = Field(0, ge=0, lt=2**32)
    train_images: int = Field(800, ge=1, le=1_000_000)
    val_images: int = Field(250, ge=1, le=1_000_000)
    long_side: int = Field(192, ge=96, le=1024, description="pixels")
    short_side: int = Field(144, ge=96, le=1024, description="pixels")

    @property
    def classes(self) -> int:
        """Number of categories."""
        return len(CATEGORIES)

    @model_validator(mode="after")
    def _sides_in_order(self) -> EmbeddedData:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side {self.short_side} is longer than long_side {self.long_side}: swap them")
        return self


class CocoData(Settings):
    """A data set on disk in COCO's layout. Where it lies is no part of what is learnt; its annotations are."""

    kind: Literal["coco"] = "coco"
    classes: int = Field(ge=1)
    digest: str | None = None
    """Of the content of the training annotations; None where no data set was named."""


AnyData = Annotated[CocoData | EmbeddedData, Field(discriminator="kind")]


class ImageSize(Settings):
    """Images are scaled, aspect kept, to fit: long side and short side at most these many pixels."""

    long: int = Field(ge=32, examples=[1333])
    short: int = Field(ge=32, examples=[800])

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

    long: tuple[Side, Side] = Field(examples=[[1333, 1333]])
    short: tuple[Side, Side] = Field(examples=[[480, 960]])

    @field_validator("long", "short")
    @classmethod
    def _ordered(cls, ends: tuple[int, int]) -> tuple[int, int]:
        if ends[0] > ends[1]:
            raise ValueError("the smaller end comes first")
        return ends


_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,"
    "fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO_NAMES = tuple(_COCO.split(","))
"""Names of COCO's categories, in the order of their ids."""
COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""Ids of COCO's categories."""


def is_coco(data: AnyData) -> bool:
    """Whether a data set on disk has as many classes as COCO, the only sign of COCO in the settings."""
    return data.kind == "coco" and data.classes == len(COCO_NAMES)
