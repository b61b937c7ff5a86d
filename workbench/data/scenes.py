"""Arrangement of objects in a picture of the embedded data set: sizes, outlines, places, and what hides what.

The sizes of the objects, in strides of the detectors' pyramids, are COCO's: the treatments of the papers act on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from workbench.data import shapes
from workbench.data.shapes import Region
from workbench.settings.data import Category, EmbeddedData

SMALLEST, LARGEST = 30.0, 1.0
"""Square roots of the areas of the smallest and largest boxes: in pixels, and as a share of the image's longer side."""
SHORTEST = 14.0
"""Smallest shorter side of a box, in pixels, at which the category of an object is recognisable."""
COUNTS = (0.03, 0.06, 0.1, 0.14, 0.16, 0.16, 0.13, 0.1, 0.07, 0.05)
"""Shares of images with 1, 2, 3, … objects, before objects without a suitable place are left out."""
MIN_VISIBLE = 0.8
"""Share of an object that must stay visible."""
PLACES = 20
"""Number of random places that are tried for an object."""
EMPTY, CROWD = 0.03, 0.02
"""Shares of images without objects, and of images with a crowd."""
LONGEST_ASPECT = 5.0
"""Largest aspect ratio of the outlines of a varied data set, before they are rotated."""
TILT = np.pi / 16
"""Standard deviation of the rotation of outlines, in radians."""
LARGEST_BEND = 0.1
"""Largest bend of the outlines of a varied data set, as a share of their longer side."""
CATEGORIES = (2, 6)
"""Smallest and largest number of categories in a varied picture. As in COCO, objects of a category appear together."""


@dataclass(frozen=True)
class Thing:
    """Object or crowd of objects that one annotation describes.

    Attributes:
        outlines: ``[N, 2]`` each, in pixels.
        region: part of the picture that would be visible if nothing were in front.
    """

    category: Category
    outlines: tuple[np.ndarray, ...]
    region: Region

    @property
    def crowd(self) -> bool:
        return len(self.outlines) > 1

    @cached_property
    def full_area(self) -> float:
        """Sum of the areas of all outlines in square pixels, including overlaps and parts outside the image."""
        return sum(shapes.polygon_area(points) for points in self.outlines)


Scene = list[tuple[Thing, Region]]
"""Objects from back to front, each with its visible part."""


def arrange(rng: Generator, data: EmbeddedData, size: tuple[int, int]) -> Scene:
    """Draw the objects of a picture, without those that found no suitable place.

    Args:
        size: width and height of the picture in pixels.
    """
    if rng.random() < EMPTY:
        return []
    categories = list(data.categories)
    if data.varied:
        number = rng.integers(CATEGORIES[0], CATEGORIES[1] + 1)
        categories = [categories[index] for index in rng.choice(len(categories), number, replace=False)]
    scene: Scene = []
    if rng.random() < CROWD:
        category = categories[rng.integers(len(categories))]
        _add(rng, scene, category, _crowd(rng, data, category), size)
    for side in _sides(rng, max(size)):
        category = categories[rng.integers(len(categories))]
        _add(rng, scene, category, (_form(rng, data, category, side),), size)
    return scene


def _sides(rng: Generator, long_side: int) -> np.ndarray:
    """Draw the square roots of the areas of an image's boxes, in pixels; larger objects are mostly behind."""
    count = rng.choice(np.arange(1, len(COUNTS) + 1), p=COUNTS)
    sides = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST * long_side), count))
    return np.sort(sides)[::-1] if rng.random() < 0.7 else rng.permutation(sides)


def _form(rng: Generator, data: EmbeddedData, category: Category, side: float) -> np.ndarray:
    """Draw an outline around (0, 0) whose box has an area of ``side**2`` square pixels."""
    most = min(LONGEST_ASPECT if data.varied else 3.0, max(1.0, (side / SHORTEST) ** 2))
    aspect = most ** rng.beta(1, 2 if data.varied else 1.5)
    if rng.random() < 0.5:
        aspect = 1 / aspect
    bend = rng.uniform(-LARGEST_BEND, LARGEST_BEND) if data.varied else 0.0
    return shapes.outline(category.outline, rng, side**2, aspect, rng.normal(0, TILT), bend)


def single(rng: Generator, data: EmbeddedData, category: Category, side: int) -> np.ndarray:
    """Draw the outline of one object that is wholly inside a square picture of ``side`` pixels."""
    longest = 0.95 * side
    points = _form(rng, data, category, np.exp(rng.uniform(np.log(SMALLEST), np.log(longest))))
    extent = np.ptp(points, axis=0)
    points *= min(1.0, longest / extent.max())
    extent = np.ptp(points, axis=0)
    return points + rng.uniform(extent / 2, side - extent / 2)


def _crowd(rng: Generator, data: EmbeddedData, category: Category) -> tuple[np.ndarray, ...]:
    """Draw outlines around (0, 0) of many tiny objects on a jittered grid."""
    columns, rows, step = rng.integers(3, 7), rng.integers(3, 5), rng.uniform(9, 12)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * step
    grid = grid - grid.mean(axis=0) + rng.normal(0, 0.15 * step, grid.shape)
    return tuple(_form(rng, data, category, rng.uniform(8, 12)) + place for place in grid)


def _add(
    rng: Generator, scene: Scene, category: Category, outlines: tuple[np.ndarray, ...], size: tuple[int, int]
) -> None:
    """Add an object in front of a scene at a place where it and all objects behind it stay visible, in place.

    After `PLACES` places that do not suit, the object is left out.
    """
    extent = np.ptp(np.concatenate(outlines), axis=0)
    low = np.minimum(0.35 * extent, np.array(size) / 2)  # up to 15% of each side may be outside
    for _ in range(PLACES):
        centre = rng.uniform(low, np.array(size) - low)
        placed = tuple(points + centre for points in outlines)
        thing = Thing(category, placed, shapes.draw_region(placed, *size))
        behind = [(other, visible.without(thing.region)) for other, visible in scene]
        if all(visible.area >= MIN_VISIBLE * t.full_area for t, visible in [(thing, thing.region), *behind]):
            scene[:] = [*behind, (thing, thing.region)]
            return
