"""One picture with its objects, for a notebook: drawn by the workbench, or read from a data set in COCO's format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from workbench.boxes import area
from workbench.data.batch import Batch
from workbench.data.coco import ImageRecord, read_coco
from workbench.data.embedded import draw_image
from workbench.data.transforms import Sample, collate, decode_image, resize_boxes, resize_image, resized_size
from workbench.report.figures.fonts import drawable
from workbench.settings.catalog import embedded_settings
from workbench.settings.data import ImageSize
from workbench.settings.digest import VAL
from workbench.settings.files import read_scale
from workbench.support.errors import WorkbenchError

SPLIT = 1  # number of val2017 in the embedded data set
NAME_LETTERS = 24  # most letters of a class name in a title
PALE = 0.65  # share of white in a picture under a drawing


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture as the input of a detector, as the only picture of its batch.

    Attributes:
        pixels: ``[h, w, 3]`` uint8, resized, without padding.
        batch: batch that contains only this picture.
        class_names: names of the classes, by label.
    """

    pixels: NDArray[np.uint8]
    batch: Batch
    class_names: tuple[str, ...]

    @property
    def boxes(self) -> Tensor:
        """Ground truth, ``[G, 4]`` in pixels."""
        return self.batch.boxes[0]

    @property
    def names(self) -> list[str]:
        """Class of each object as figures can draw it, with the size of its box in pixels."""
        sizes = (self.boxes[:, 2:] - self.boxes[:, :2]).round().int().tolist()
        labels = self.batch.labels[0].tolist()
        return [
            f"{drawable(self.class_names[label], NAME_LETTERS)} {w}×{h}"
            for label, (w, h) in zip(labels, sizes, strict=True)
        ]

    def largest(self, most: int) -> list[int]:
        """Return the numbers of the objects with the largest boxes, in ascending order."""
        return sorted(area(self.boxes).topk(min(most, len(self.boxes))).indices.tolist())


def load_picture(scale: str, size: ImageSize, data: str | None = None, number: int = 0) -> Picture:
    """Return a validation picture with objects, at the size at which a detector is tested.

    Args:
        scale: scale whose embedded data set is drawn, unless the scale or `data` names a folder.
        size: size into which the picture is fitted.
        data: folder of a data set in COCO's layout.
        number: number of the picture, counted from 0. The count starts again after the last picture.

    Raises:
        WorkbenchError: no picture has an object, or the folder is missing for a scale that does not draw its images.
    """
    world = read_scale(scale)
    root = data or world.root
    if root is None and world.data["kind"] != "embedded":
        raise WorkbenchError(f"scale {scale} draws no pictures; set DATA to a folder in COCO's layout")
    image, record, class_names = _read(Path(root), number) if root else _drawn(scale, number)
    height, width = resized_size(record.height, record.width, size.long, size.short)
    image = resize_image(image, height, width)
    batch = collate([Sample(image, *resize_boxes(record, height, width), record)]).to("cpu")
    return Picture(image.permute(1, 2, 0).contiguous().numpy(), batch, class_names)


def _drawn(scale: str, number: int) -> tuple[Tensor, ImageRecord, tuple[str, ...]]:
    """Draw the picture of the embedded data set; if it has no object, draw the next one that has."""
    settings, objects = embedded_settings(scale).drawn_for(0), []
    while not objects:
        picture, annotations = draw_image(settings, SPLIT, number)
        objects, number = [a for a in annotations if not a["iscrowd"]], number + 1
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float32)
    boxes[:, 2:] += boxes[:, :2]
    ids = [category.id for category in settings.categories]
    labels = [ids.index(a["category_id"]) for a in objects]
    record = ImageRecord(number, "", Path(), *picture.size, boxes, np.array(labels, dtype=np.int64))
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    return image, record, tuple(category.name for category in settings.categories)


def _read(data: Path, number: int) -> tuple[Tensor, ImageRecord, tuple[str, ...]]:
    """Read a picture of val2017, one with a large object if the data set has any."""
    data_set = read_coco(data, VAL, training=False)
    records = [record for record in data_set.images if _has_large_object(record)] or data_set.images
    records = [record for record in records if len(record.labels)]
    if not records:
        raise WorkbenchError(f"{data}: no picture of val2017 has an object; set DATA to another folder")
    record = records[number % len(records)]
    return decode_image(record.path, record.height, record.width), record, data_set.class_names


def _has_large_object(record: ImageRecord) -> bool:
    """Return whether an object fills at least 1 % of the picture; smaller objects may have no assigned location."""
    sides = record.boxes[:, 2:] - record.boxes[:, :2]
    return bool((sides.prod(axis=1) >= record.width * record.height / 100).any())


def show(axis: Axes, picture: Picture, unit: float = 1.0) -> None:
    """Show a pale copy of the picture under a drawing.

    Args:
        unit: length of the unit of the axes, in pixels.
    """
    height, width = picture.pixels.shape[:2]
    pale = picture.pixels * (1 - PALE) + 255 * PALE
    axis.imshow(pale.astype(np.uint8), extent=(0, width / unit, height / unit, 0), interpolation="nearest", zorder=0)
    axis.set_xlim(0, width / unit)
    axis.set_ylim(height / unit, 0)
