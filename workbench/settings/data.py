"""Settings of the data: an embedded data set or a data set on disk, and the sizes of images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from workbench.settings.base import Settings

OUTLINES = ("triangle", "box", "ellipse", "star", "crescent", "cross")
FILLINGS = ("plain", "striped", "checked", "mottled")


@dataclass(frozen=True)
class Category:
    """Category of the embedded data set.

    Attributes:
        id: in the annotation files. Ids have gaps as in COCO, so that code that takes ids for indices fails.
        outline: name of the objects' outline.
        filling: name of the objects' filling; None for any filling.
        hue: usual hue in 0..1; None for any hue.
    """

    id: int
    outline: str
    filling: str | None = None
    hue: float | None = None

    @property
    def name(self) -> str:
        return f"{self.filling} {self.outline}" if self.filling else self.outline


PLAIN = tuple(
    Category(id_, name, hue=index / len(OUTLINES))
    for index, (id_, name) in enumerate(zip((1, 3, 4, 8, 13, 21), OUTLINES, strict=True))
)
"""Categories whose colour mostly identifies them."""
VARIED = tuple(
    Category(1 + index + index // 5, outline, filling)
    for index, (outline, filling) in enumerate(product(OUTLINES, FILLINGS))
)
"""Categories that differ in outline and filling, whatever their colour."""


WORLDS = 100_000
"""Number of worlds. A seed's world is the seed modulo this number, so that 1003 and 101003 share world 1003."""


class EmbeddedData(Settings):
    """Settings of the embedded data set. With the number of a world and the drawing code they decide every byte of it.

    A world is one drawing of the data set: both splits, drawn from the random numbers of one start.
    """

    kind: Literal["embedded"] = "embedded"
    drawing: Literal[4] = Field(
        4, description="version of the drawing code; a new version means another data set and other runs"
    )
    varied: bool = Field(
        True,
        description="outlines are bent and may be long; outline and filling decide the category, and colour does not",
    )
    world: int | Literal["seed"] = 0
    """Number of the world, or ``seed``: the world of a training is its seed modulo ``WORLDS``, for every row."""
    train_images: int = Field(800, ge=1, le=1_000_000)
    val_images: int = Field(1000, ge=1, le=1_000_000)
    long_side: int = Field(192, ge=96, le=1024, description="pixels")
    short_side: int = Field(160, ge=96, le=1024, description="pixels")

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categories in the order of their ids."""
        return VARIED if self.varied else PLAIN

    @property
    def classes(self) -> int:
        """Number of categories."""
        return len(self.categories)

    @property
    def per_seed(self) -> bool:
        """Whether each seed has a world of its own, so that rows are compared within a world."""
        return self.world == "seed"

    def world_of(self, seed: int | str) -> int:
        """Number of the world of a training; published weights, which have no seed, are evaluated in world 0.

        Args:
            seed: number, also as text, or ``released``.
        """
        if self.world != "seed":
            return self.world
        return int(seed) % WORLDS if str(seed).isdecimal() else 0

    def drawn_for(self, seed: int | str) -> EmbeddedData:
        """Settings of the data set that a training reads: its world is a number; see ``world_of``."""
        return self.model_copy(update={"world": self.world_of(seed)})

    @field_validator("world", mode="before")
    @classmethod
    def _number_or_rule(cls, world: object) -> object:
        if world != "seed" and not (type(world) is int and 0 <= world < WORLDS):
            raise ValueError(f"expected seed, or the number of a world from 0 to {WORLDS - 1}")
        return world

    @model_validator(mode="after")
    def _sides_in_order(self) -> EmbeddedData:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side {self.short_side} is longer than long_side {self.long_side}: swap them")
        return self


class CocoData(Settings):
    """A data set on disk in COCO's layout. Its annotations decide what is learnt, its folder does not."""

    kind: Literal["coco"] = "coco"
    classes: int = Field(ge=1, le=100_000)
    digest: str | None = None
    """Digest of the training annotations; None if no data set was named."""

    @property
    def per_seed(self) -> bool:
        """Always False: all seeds share the data set."""
        return False


LONGEST = 20_000
"""Largest side of an image in pixels. A batch of larger images does not fit into any memory."""

AnyData = Annotated[CocoData | EmbeddedData, Field(discriminator="kind")]


class ImageSize(Settings):
    """Largest long side and short side in pixels. Images are scaled to fit, and keep their aspect ratio."""

    long: int = Field(ge=32, le=LONGEST, examples=[1333])
    short: int = Field(ge=32, le=LONGEST, examples=[800])

    @model_validator(mode="after")
    def _ordered(self) -> ImageSize:
        if self.short > self.long:
            raise ValueError(f"short ({self.short}) is larger than long ({self.long}): swap them")
        return self

    def __str__(self) -> str:
        return f"{self.long}x{self.short}"


Side = Annotated[int, Field(ge=32, le=LONGEST)]


class ImageRange(Settings):
    """Ranges from which long side and short side are drawn for each image, in whole pixels, both ends included."""

    long: tuple[Side, Side] = Field(strict=False, examples=[[1333, 1333]])
    short: tuple[Side, Side] = Field(strict=False, examples=[[480, 960]])

    @field_validator("long", "short")
    @classmethod
    def _ordered(cls, ends: tuple[int, int]) -> tuple[int, int]:
        if ends[0] > ends[1]:
            raise ValueError("the smaller end comes first: swap the two")
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


COCO_VAL = 5_000
"""Number of images of val2017."""


def is_coco(data: AnyData) -> bool:
    """Whether a data set is COCO, judged by its number of classes, the only sign of COCO in the settings."""
    return data.kind == "coco" and data.classes == len(COCO_NAMES)
