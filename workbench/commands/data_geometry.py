"""Geometry of a data set at a scale, beside COCO's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from workbench.commands.data_split import Split
from workbench.data.embedded import draw_scene
from workbench.data.transforms import resized_size
from workbench.evaluation.geometry import COCO, Geometry, ResizedImage, geometry
from workbench.settings.data import EmbeddedData, ImageSize
from workbench.support.errors import WorkbenchError

COLUMNS = ("this data set", "COCO", "ratio of the medians")


def drawn_images(data: EmbeddedData, image: ImageSize, images: int) -> Iterator[ResizedImage]:
    """Objects of the first training images of a drawn data set, without painting the images."""
    for index in range(images):
        _, (width, height), scene = draw_scene(data, 0, index)
        seen = [(thing, visible.box()) for thing, visible in scene if not thing.crowd]
        boxes = np.array([(x, y, x + w, y + h) for _, (x, y, w, h) in seen], dtype=np.float32)
        labels = np.array([thing.category.id for thing, _ in seen], dtype=np.int64)
        yield _resized((height, width), boxes, labels, image)


def split_images(splits: Sequence[Split], image: ImageSize, most: int) -> Iterator[ResizedImage]:
    """Objects of at most ``most`` images of a data set on disk, evenly spaced over all its splits."""
    places = [(split, index) for split in splits for index in split.sized.tolist()]
    kept = np.linspace(0, max(len(places) - 1, 0), min(most, len(places))).astype(int)
    for split, index in (places[i] for i in kept.tolist()):
        boxes, labels = split.ground_truth(index)
        yield _resized((int(split.columns.heights[index]), int(split.columns.widths[index])), boxes, labels, image)


def _resized(size: tuple[int, int], boxes: np.ndarray, labels: np.ndarray, image: ImageSize) -> ResizedImage:
    resized = resized_size(*size, image.long, image.short)
    factors = np.array([resized[1] / size[1], resized[0] / size[0]] * 2, dtype=np.float32)
    return ResizedImage(resized, boxes.reshape(-1, 4) * factors, labels)


def geometry_lines(images: Iterable[ResizedImage], anchor_scale: float, place: str) -> list[tuple[str, ...]]:
    """Table of a data set's geometry beside COCO's: the headings, then one line per number.

    Args:
        anchor_scale: side of the anchors in strides.
        place: name of the data set, for the message.

    Raises:
        WorkbenchError: the data set has no objects.
    """
    try:
        measured = geometry(images, anchor_scale)
    except ValueError as error:
        raise WorkbenchError(f"{place}: {error}; the geometry needs annotated images") from None
    return [("", *COLUMNS)] + [
        (name, _cell(own, style), _cell(coco, style), _ratio(own, coco))
        for name, style, own, coco in zip(NAMES, STYLES, _values(measured), _values(COCO), strict=True)
    ]


NAMES = (
    "distance from a positive to a side of its box, in strides (10, 50, 90 %)",
    "distances below 1 stride",
    "distances above 8 strides",
    "distances above 12 strides",
    "locations in an object on its level (10, 50, 90 %)",
    "positives of an object (10, 50, 90 %)",
    "locations of an image",
    "objects of an image",
    "share of the positives on P3, P4, P5, P6, P7",
    "longer side / shorter side of a box (50, 90 %)",
    "objects with an IoU above 0.1 with an object of their class",
)
STYLES = ("{:.1f}", "{:.1%}", "{:.1%}", "{:.1%}", "{:.0f}", "{:.0f}", "{:.0f}", "{:.1f}", "{:.2f}", "{:.1f}", "{:.0%}")


def _values(g: Geometry) -> tuple:
    return (
        g.reach,
        g.near,
        g.beyond_8,
        g.beyond_12,
        g.inside,
        g.positives,
        g.locations,
        g.objects,
        g.levels,
        g.aspect,
        g.overlapping,
    )


def _cell(value: float | tuple[float, ...], style: str) -> str:
    return ", ".join(style.format(part) for part in (value if isinstance(value, tuple) else (value,)))


def _ratio(own: float | tuple[float, ...], coco: float | tuple[float, ...]) -> str:
    """Ratio of two numbers, or of the medians of two distributions; empty for shares of levels."""
    if isinstance(own, tuple) and len(own) == len(COCO.levels):
        return ""
    medians = [v if not isinstance(v, tuple) else v[len(v) // 2 if len(v) == 3 else 0] for v in (own, coco)]
    return f"{medians[0] / medians[1]:.2f}" if medians[1] else ""
