"""Outlines, textures and painting for the embedded data set: from random numbers to pixels.

- Outline: ``[N, 2]`` float64, a closed simple polygon of ``x, y`` in pixels (pixel i, j covers [j, j+1) x [i, i+1)).
- Mask: PIL image of mode L, `FINE` times as wide and as high as the image, 255 inside and 0 outside. Boxes and areas
  are measured on masks, exact to a fraction of a pixel. The mean over FINE x FINE is the anti-aliased edge.
- Canvas: ``[H, W, 3]`` float32 in 0..255.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

FINE = 3  # supersampling factor of masks
USUAL_COLOUR = 0.92  # share of objects in the usual colour of their category
MARGIN = 8  # pixels around an object for its shadow and blur


def _arc(start: float, stop: float, points: int, radius: float = 1.0, centre: float = 0.0) -> np.ndarray:
    angle = np.linspace(start, stop, points)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


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


def outline(name: str, rng: Generator, width: float, height: float, angle: float) -> np.ndarray:
    """Return an outline of an object of a class, with its centre at (0, 0).

    The outline is ``width`` x ``height`` pixels large before it is rotated by ``angle`` in radians.
    """
    points = OUTLINES[name](rng)
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high - low) * [width, height]
    cos, sin = np.cos(angle), np.sin(angle)
    points = np.stack([cos * points[:, 0] - sin * points[:, 1], sin * points[:, 0] + cos * points[:, 1]], axis=1)
    return points - (points.min(axis=0) + points.max(axis=0)) / 2


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
    edges = zip(points, np.roll(points, -1, axis=0), strict=True)
    dense = [np.linspace(a, b, 1 + int(np.abs(b - a).max() / 4), endpoint=False) for a, b in edges]
    points = np.clip(np.concatenate(dense), 0, [width, height])
    moved = np.abs(points - np.roll(points, 1, axis=0)).sum(axis=1) > 1e-6
    return points[moved]


def draw_mask(outlines: Sequence[np.ndarray], width: int, height: int, line: float | None = None) -> Image.Image:
    """Mask of the union of outlines or, with ``line``, of lines along the outlines, ``line`` pixels wide."""
    mask = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(mask)
    for points in outlines:
        fine = (points * FINE).ravel().tolist()  # PIL also fills fine pixels that the outline only touches
        if line is None:
            pen.polygon(fine, fill=255)
        else:
            pen.line(fine, fill=255, width=max(1, round(line * FINE)), joint="curve")
    return mask


def mask_box(visible: np.ndarray) -> tuple[float, float, float, float]:
    """Tight box ``x, y, width, height`` in pixels of a boolean mask ``[FINE*H, FINE*W]`` that is not empty."""
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    x, y = columns[0], rows[0]
    return x / FINE, y / FINE, (columns[-1] + 1 - x) / FINE, (rows[-1] + 1 - y) / FINE


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE of a mask ``[H, W]``: lengths of runs along the columns, starting with a run of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], ends, [mask.size]])).tolist()}


def colour_near(rng: Generator, colour: np.ndarray, distance: float) -> np.ndarray:
    """Draw a colour ``[3]`` at about ``distance`` from ``colour`` (Euclidean distance of RGB in 0..255)."""
    step = rng.normal(size=3)
    step *= distance / np.linalg.norm(step)
    step = np.where((colour + step < 8) | (colour + step > 247), -step, step)
    return np.clip(colour + step, 8, 247).astype(np.float32)


def colour_of(rng: Generator, hue: float, behind: np.ndarray) -> np.ndarray:
    """Draw three colours ``[3]`` near a hue (in 0..1), and return the one that differs most from ``behind``."""
    colours = [
        255 * np.array(colorsys.hsv_to_rgb((hue + rng.normal(0, 0.03)) % 1, rng.uniform(0.5, 1), rng.uniform(0.4, 1)))
        for _ in range(3)
    ]
    return max(colours, key=lambda colour: np.linalg.norm(colour - behind)).clip(8, 247).astype(np.float32)


def clouds(rng: Generator, width: int, height: int, scale: float, channels: int) -> np.ndarray:
    """Draw smooth noise ``[height, width, channels]`` in about 0..1, with structures of about ``scale`` pixels."""
    grid = (max(2, round(width / scale)), max(2, round(height / scale)))
    planes = rng.random((channels, grid[1], grid[0]), dtype=np.float32)
    smooth = [Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC) for p in planes]
    return np.stack([np.asarray(p) for p in smooth], axis=-1)


def texture(rng: Generator, width: int, height: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Draw a plain area, stripes, checks, a gradient or noise ``[height, width, 3]`` of two colours, unevenly lit."""
    x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    angle = rng.uniform(0, np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    wave = np.float32(2 * np.pi / (rng.uniform(4, 8) + 0.12 * rng.random() * min(width, height)))
    kind = rng.choice(["flat", "stripes", "checks", "gradient", "noise"])
    if kind == "stripes":
        mix = 0.5 + 0.5 * np.tanh(3 * np.sin(wave * along))
    elif kind == "checks":
        mix = 0.5 + 0.5 * np.tanh(4 * np.sin(wave * along) * np.sin(wave * across))
    elif kind == "gradient":
        mix = (along - along.min()) / max(1.0, np.ptp(along))
    elif kind == "noise":
        mix = clouds(rng, width, height, rng.uniform(3, 9), 1)[..., 0]
    else:
        mix = np.zeros_like(along)
    turn = rng.uniform(0, 2 * np.pi)
    light = x / width * np.float32(np.cos(turn)) + y / height * np.float32(np.sin(turn))
    return (first + mix[..., None] * (second - first)) * (1 + np.float32(rng.uniform(0, 0.3)) * light[..., None])


def paint_background(rng: Generator, width: int, height: int) -> np.ndarray:
    """Draw a canvas with coloured clouds, a few large textured areas, strokes and specks, but without objects."""
    base = rng.uniform(50, 205) + rng.normal(0, 22, 3)
    canvas = base + (clouds(rng, width, height, rng.uniform(40, 90), 3) - 0.5) * rng.uniform(15, 60)
    canvas += (clouds(rng, width, height, rng.uniform(3, 7), 1) - 0.5) * rng.uniform(4, 26)
    for _ in range(rng.integers(0, 3)):  # half planes with another texture, like walls, floors and horizons
        colour = colour_near(rng, np.clip(base, 8, 247), rng.uniform(15, 45))
        area = texture(rng, width, height, colour, colour_near(rng, colour, rng.uniform(8, 30)))
        angle, x, y = rng.uniform(0, 2 * np.pi), rng.uniform(0, width), rng.uniform(0, height)
        side = (np.arange(width) - x) * np.cos(angle) + ((np.arange(height) - y) * np.sin(angle))[:, None]
        alpha = rng.uniform(0.4, 0.9) * np.clip(side + 0.5, 0, 1)[..., None]
        canvas = canvas + alpha * (area - canvas)
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8)).resize((width * 2, height * 2), 0)
    _scatter(rng, ImageDraw.Draw(picture), picture.size, base)
    return np.asarray(picture.reduce(2), dtype=np.float32)


def _scatter(rng: Generator, pen: ImageDraw.ImageDraw, size: tuple[int, int], base: np.ndarray) -> None:
    """Draw clutter at twice the image's scale: bent strokes, and irregular specks that are smaller than all objects."""
    base = np.clip(base, 8, 247)
    for _ in range(rng.integers(3, 16)):
        heading, points = rng.uniform(0, 2 * np.pi), [rng.uniform(0, size)]
        for _ in range(rng.integers(1, 6)):
            heading += rng.normal(0, 0.5)
            points.append(points[-1] + rng.uniform(8, 50) * np.array([np.cos(heading), np.sin(heading)]))
        colour = tuple(colour_near(rng, base, rng.uniform(15, 55)).astype(int).tolist())
        pen.line(np.concatenate(points).tolist(), fill=colour, width=int(rng.integers(1, 8)), joint="curve")
    for _ in range(rng.integers(3, 24)):
        radii = rng.uniform(1, 7) * rng.uniform(0.4, 1.2, 7)
        speck = rng.uniform(0, size) + radii[:, None] * _arc(0, 2 * np.pi, 8)[:-1]
        pen.polygon(
            speck.ravel().tolist(), fill=tuple(colour_near(rng, base, rng.uniform(15, 55)).astype(int).tolist())
        )


def paint_object(rng: Generator, canvas: np.ndarray, mask: Image.Image, points: np.ndarray, hue: float) -> None:
    """Paint one outline with its ``mask`` onto the canvas, in place, mostly in the ``hue`` of its category.

    Most objects have the usual colour of their category, but some have another colour, so that colour alone does not
    identify a category. Some objects have low contrast, soft edges, a shadow or a rim. The difficulty of predicting the
    box must vary between objects, otherwise there is no quality to predict.
    """
    height, width = canvas.shape[:2]
    x1, y1 = np.maximum(np.floor(points.min(axis=0)).astype(int) - MARGIN, 0).tolist()
    x2, y2 = np.minimum(np.ceil(points.max(axis=0)).astype(int) + MARGIN, [width, height]).tolist()
    small = mask.crop((x1 * FINE, y1 * FINE, x2 * FINE, y2 * FINE)).reduce(FINE)
    longer = np.ptp(points, axis=0).max()
    patch = canvas[y1:y2, x1:x2]
    if rng.random() < 0.3 and longer > 24:
        shift = rng.integers(-4, 5, 2).tolist()
        shade = Image.new("L", small.size)
        shade.paste(small, tuple(shift))
        shade = np.asarray(shade.filter(ImageFilter.GaussianBlur(2)), dtype=np.float32)
        patch *= 1 - rng.uniform(0.15, 0.5) * shade[..., None] / 255
    if rng.random() < 0.15 and longer > 24:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.8, 1.8)))
    alpha = np.asarray(small, dtype=np.float32)[..., None] / 255
    behind = (patch * alpha).sum(axis=(0, 1)) / max(alpha.sum(), 1e-6)
    faint = rng.random() < 0.08
    if faint:
        first = colour_near(rng, behind, rng.uniform(42, 65))
    elif rng.random() < USUAL_COLOUR:
        first = colour_of(rng, hue, behind)
    else:
        first = colour_near(rng, behind, rng.uniform(100, 200))
    second = colour_near(rng, first, rng.uniform(10, 35) if faint else rng.uniform(15, 70))
    fill = texture(rng, x2 - x1, y2 - y1, first, second)
    if rng.random() < 0.25:
        closed = np.concatenate([points, points[:1]]) - [x1, y1]
        rim = draw_mask([closed], x2 - x1, y2 - y1, line=rng.uniform(1.5, 4)).reduce(FINE)
        fill = fill * (1 - rng.uniform(0.3, 0.6) * np.asarray(rim, dtype=np.float32)[..., None] / 255)
    patch += alpha * (fill - patch)
