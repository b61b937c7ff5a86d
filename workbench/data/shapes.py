"""Outlines and masks of the embedded data set.

- Outline: ``[N, 2]`` float64, a closed simple polygon of ``x, y`` in pixels (pixel i, j covers [j, j+1) x [i, i+1)).
- Region: mask of outlines at `FINE` times the picture's resolution, cut to a window. Boxes and areas are measured on
  regions, exact to a fraction of a pixel. The mean over FINE x FINE is the anti-aliased edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

FINE = 3  # supersampling factor of masks
MARGIN = 8  # pixels around an object for its shadow and blur
EDGE = 4.0  # pixels; long edges are divided into parts of about this length before they are bent or clipped


def _arc(start: float, stop: float, points: int, radius: float = 1.0, centre: float = 0.0) -> np.ndarray:
    angle = np.linspace(start, stop, points)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def circle(points: int) -> np.ndarray:
    """Points ``[points, 2]`` of the unit circle; the last point equals the first one."""
    return _arc(0, 2 * np.pi, points)


def _triangle(rng: Generator) -> np.ndarray:
    return np.array([[-1, 1], [1, 1], [rng.uniform(-0.5, 0.5), -1]])


def _box(rng: Generator) -> np.ndarray:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) + rng.uniform(-0.07, 0.07, (4, 2))


def _ellipse(rng: Generator) -> np.ndarray:
    return _arc(0, 2 * np.pi, 40, rng.uniform(0.9, 1.0))[:-1]


def _star(rng: Generator) -> np.ndarray:
    corners = _arc(-np.pi / 2, 1.5 * np.pi, 11)[:-1]
    corners[1::2] *= rng.uniform(0.42, 0.56)
    return corners


def _crescent(rng: Generator) -> np.ndarray:
    """Unit disc minus a second disc that overlaps its right side."""
    shift, radius = rng.uniform(0.55, 0.75), rng.uniform(0.78, 0.92)
    x = (1 - radius**2 + shift**2) / (2 * shift)
    y = np.sqrt(1 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - shift)
    return np.concatenate([_arc(outer, 2 * np.pi - outer, 32), _arc(2 * np.pi - inner, inner, 22, radius, shift)[1:-1]])


def _cross(rng: Generator) -> np.ndarray:
    a, b = rng.uniform(0.28, 0.42, 2)
    corner = [
        [-a, -1],
        [a, -1],
        [a, -b],
        [1, -b],
        [1, b],
        [a, b],
        [a, 1],
        [-a, 1],
        [-a, b],
        [-1, b],
        [-1, -b],
        [-a, -b],
    ]
    return np.array(corner)


OUTLINES: dict[str, Callable[[Generator], np.ndarray]] = {
    "triangle": _triangle,
    "box": _box,
    "ellipse": _ellipse,
    "star": _star,
    "crescent": _crescent,
    "cross": _cross,
}


def outline(name: str, rng: Generator, area: float, aspect: float, angle: float, bend: float = 0.0) -> np.ndarray:
    """Return an outline of an object, with the centre of its bounding box at (0, 0).

    Args:
        name: key of `OUTLINES`.
        area: area of the final bounding box in square pixels.
        aspect: width divided by height, before the outline is rotated.
        angle: rotation in radians.
        bend: shift of the middle against the two ends, across the longer side, as a share of the longer side.
    """
    points = OUTLINES[name](rng)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high - low) * [np.sqrt(aspect), 1 / np.sqrt(aspect)]
    if bend:
        longer = int(aspect < 1)
        points = _divided(points, EDGE / np.sqrt(area))
        extent = np.ptp(points[:, longer])
        points[:, 1 - longer] += bend * extent * (2 * points[:, longer] / extent) ** 2
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([cos * points[:, 0] - sin * points[:, 1], sin * points[:, 0] + cos * points[:, 1]], axis=1)
    points *= np.sqrt(area / np.ptp(points, axis=0).prod())
    return points - (points.min(axis=0) + points.max(axis=0)) / 2


def _divided(points: np.ndarray, length: float) -> np.ndarray:
    """Divide the edges of an outline into equal parts of at most about ``length``."""
    edges = np.roll(points, -1, axis=0) - points
    parts = 1 + (np.abs(edges).max(axis=1) / length).astype(int)
    edge = np.repeat(np.arange(len(points)), parts)
    part = np.arange(len(edge)) - (np.cumsum(parts) - parts)[edge]
    return points[edge] + (part / parts[edge])[:, None] * edges[edge]


def polygon_area(points: np.ndarray) -> float:
    """Area of a simple polygon in square pixels (shoelace formula)."""
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def clip_outline(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Move the points of an outline that are outside the image onto the image's border.

    Such a move never crosses the inside of the image. The part inside therefore stays the same if neighbouring points
    are close, so long edges are divided first.
    """
    if (points >= 0).all() and (points <= [width, height]).all():
        return points
    points = np.clip(_divided(points, EDGE), 0, [width, height])
    moved = np.abs(points - np.roll(points, 1, axis=0)).sum(axis=1) > 1e-6
    return points[moved]


@dataclass(frozen=True)
class Region:
    """Part of a picture: a mask in a window of whole pixels.

    Attributes:
        x, y: left and upper side of the window, in pixels.
        mask: ``[FINE * h, FINE * w]`` bool, of a window of w x h pixels.
    """

    x: int
    y: int
    mask: np.ndarray

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return np.count_nonzero(self.mask) / FINE**2

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the window in the picture."""
        height, width = (side // FINE for side in self.mask.shape)
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    def box(self) -> tuple[float, float, float, float]:
        """Tight box ``x, y, width, height`` in pixels of a region that is not empty."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        x, y = self.x + columns[0] / FINE, self.y + rows[0] / FINE
        return x, y, (columns[-1] + 1 - columns[0]) / FINE, (rows[-1] + 1 - rows[0]) / FINE

    def without(self, other: Region) -> Region:
        """Part of this region that is not in another one."""
        (top, bottom), (left, right) = (
            (max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.window, other.window, strict=True)
        )
        if top >= bottom or left >= right:
            return self
        mask = self.mask.copy()
        mask[self._part(top, bottom, left, right)] &= ~other.mask[other._part(top, bottom, left, right)]
        return Region(self.x, self.y, mask)

    def coverage(self) -> np.ndarray:
        """Share ``[h, w]`` of each pixel of the window that is in the region."""
        height, width = (side // FINE for side in self.mask.shape)
        return self.mask.reshape(height, FINE, width, FINE).mean(axis=(1, 3), dtype=np.float32)

    def _part(self, top: int, bottom: int, left: int, right: int) -> tuple[slice, slice]:
        """Fine rows and columns of a window of the picture."""
        return (
            slice((top - self.y) * FINE, (bottom - self.y) * FINE),
            slice((left - self.x) * FINE, (right - self.x) * FINE),
        )


def draw_region(outlines: Sequence[np.ndarray], width: int, height: int, line: float | None = None) -> Region:
    """Return the union of outlines or, with ``line``, of lines along the outlines, ``line`` pixels wide.

    The window has a margin of `MARGIN` pixels within the picture of ``width`` x ``height`` pixels.
    """
    points = np.concatenate(outlines)
    x, y = np.clip(np.floor(points.min(axis=0)).astype(int) - MARGIN, 0, [width - 1, height - 1]).tolist()
    right, bottom = np.clip(np.ceil(points.max(axis=0)).astype(int) + MARGIN, [x + 1, y + 1], [width, height]).tolist()
    mask = Image.new("1", ((right - x) * FINE, (bottom - y) * FINE))
    pen = ImageDraw.Draw(mask)
    for outline_ in outlines:
        fine = ((outline_ - [x, y]) * FINE).ravel().tolist()  # PIL also fills fine pixels that the outline only touches
        if line is None:
            pen.polygon(fine, fill=1)
        else:
            pen.line(fine, fill=1, width=max(1, round(line * FINE)), joint="curve")
    return Region(x, y, np.asarray(mask))


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE of a mask ``[H, W]``: lengths of runs along the columns, starting with a run of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()}
