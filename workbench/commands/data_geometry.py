"""Geometry of a data set at a scale, beside COCO's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from workbench.data.coco import read_coco
from workbench.data.embedded import draw_scene
from workbench.data.transforms import resized_size
from workbench.evaluation.geometry import COCO, Geometry, ResizedImage, geometry
from workbench.settings.catalog import embedded_settings
from workbench.settings.data import EmbeddedData, ImageSize
from workbench.settings.digest import TRAIN, VAL
from workbench.settings.experiment import Head
from workbench.settings.files import read_scale
from workbench.support.errors import WorkbenchError

COLUMNS = ("this data set", "COCO", "ratio of the medians")


def describe_data(scale: str, root: Path | None, images: int) -> str:
    """Table of the geometry of a data set at a scale's image size, as text.

    Args:
        root: folder of a data set in COCO's layout; None for the data set of the scale.
        images: number of images to measure of a data set that the workbench draws; nothing needs to be on disk.

    Raises:
        WorkbenchError: the scale names no data set, or the data set cannot be read or has no objects.
    """
    spec = read_scale(scale)
    size = ImageSize.model_validate(spec.image)
    anchor_scale = spec.head.get("anchor_scale", Head().anchor_scale)
    root = root or (Path(spec.root) if spec.root else None)
    if root is not None:
        return geometry_table(read_images(root, size), anchor_scale, str(root))
    if spec.data.get("kind") != "embedded":
        raise WorkbenchError(
            f"scale {scale} draws no data set: name the folder of one (workbench data FOLDER --scale {scale})"
        )
    return geometry_table(drawn_images(embedded_settings(scale).drawn_for(0), size, images), anchor_scale, scale)


def drawn_images(data: EmbeddedData, image: ImageSize, images: int) -> Iterator[ResizedImage]:
    """Objects of the first training images of a drawn data set, without painting the images."""
    for index in range(images):
        _, (width, height), scene = draw_scene(data, 0, index)
        seen = [(thing, visible.box()) for thing, visible in scene if not thing.crowd]
        boxes = np.array([(x, y, x + w, y + h) for _, (x, y, w, h) in seen], dtype=np.float32)
        labels = np.array([thing.category.id for thing, _ in seen], dtype=np.int64)
        yield _resized((height, width), boxes, labels, image)


def read_images(root: Path, image: ImageSize) -> Iterator[ResizedImage]:
    """Objects of all images, of both splits, of a data set in COCO's layout."""
    for split in (TRAIN, VAL):
        for record in read_coco(root, split, training=False).images:
            yield _resized((record.height, record.width), record.boxes, record.labels, image)


def _resized(size: tuple[int, int], boxes: np.ndarray, labels: np.ndarray, image: ImageSize) -> ResizedImage:
    resized = resized_size(*size, image.long, image.short)
    factors = np.array([resized[1] / size[1], resized[0] / size[0]] * 2, dtype=np.float32)
    return ResizedImage(resized, boxes.reshape(-1, 4) * factors, labels)


def geometry_table(images: Iterable[ResizedImage], anchor_scale: float, place: str) -> str:
    """Table of a data set's geometry beside COCO's, as text.

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
    lines = [("", *COLUMNS)] + [
        (name, _cell(own, style), _cell(coco, style), _ratio(own, coco))
        for name, style, own, coco in zip(NAMES, STYLES, _values(measured), _values(COCO), strict=True)
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


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
