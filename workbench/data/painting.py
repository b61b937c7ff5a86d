"""Colours, textures and painting for the embedded data set.

A canvas is ``[H, W, 3]`` float32 in 0..255.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from workbench.data.shapes import Region, circle, draw_region

USUAL_COLOUR = 0.92
"""Share of objects in the usual colour of their category, where categories have a usual colour."""
FAINT = 0.08
"""Share of objects with low contrast to the background."""


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


def _waves(rng: Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phases ``[h, w]`` along two directions at right angles, with one period for 6 pixels and more."""
    turn, side = rng.uniform(0, np.pi), min(x.size, y.size)
    period = rng.uniform(6, 10) + 0.12 * rng.random() * side
    factor, cos, sin = (np.float32(v) for v in (2 * np.pi / period, np.cos(turn), np.sin(turn)))
    return factor * (x * cos + y * sin), factor * (y * cos - x * sin)


def _plain(rng: Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    turn = rng.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    return (along - along.min()) / max(1.0, np.ptp(along))


def _stripes(rng: Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(3 * np.sin(_waves(rng, x, y)[0]))


def _checks(rng: Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along, across = _waves(rng, x, y)
    return 0.5 + 0.5 * np.tanh(4 * np.sin(along) * np.sin(across))


def _clouded(rng: Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    noise = clouds(rng, x.size, y.size, rng.uniform(4, 7), 1)[..., 0]
    return 0.5 + 0.5 * np.tanh(8 * (noise - 0.5))


FILLINGS: dict[str, Callable[[Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": _plain,
    "striped": _stripes,
    "checked": _checks,
    "mottled": _clouded,
}
"""Names of the fillings → share ``[h, w]`` of the second colour, at columns ``[1, w]`` and rows ``[h, 1]``."""


def fill(rng: Generator, filling: str, size: tuple[int, int], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Draw a filling ``[height, width, 3]`` of two colours, unevenly lit; ``size`` is width and height in pixels."""
    width, height = size
    x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    mix = FILLINGS[filling](rng, x, y)
    turn = rng.uniform(0, 2 * np.pi)
    light = x / width * np.float32(np.cos(turn)) + y / height * np.float32(np.sin(turn))
    return (first + mix[..., None] * (second - first)) * (1 + np.float32(rng.uniform(0, 0.3)) * light[..., None])


def to_picture(rng: Generator, canvas: np.ndarray) -> Image.Image:
    """Return the picture of a canvas, with noise as of a camera."""
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    noise *= np.float32(rng.uniform(1, 6))
    noise += canvas
    return Image.fromarray(noise.clip(0, 255, out=noise).astype(np.uint8))


def paint_background(rng: Generator, width: int, height: int) -> np.ndarray:
    """Draw a canvas with coloured clouds, a few large textured areas, strokes and specks, but without objects."""
    base = rng.uniform(50, 205) + rng.normal(0, 22, 3)
    canvas = base + (clouds(rng, width, height, rng.uniform(40, 90), 3) - 0.5) * rng.uniform(15, 60)
    canvas += (clouds(rng, width, height, rng.uniform(3, 7), 1) - 0.5) * rng.uniform(4, 26)
    for _ in range(rng.integers(0, 3)):  # half planes with another texture, like walls, floors and horizons
        colour = colour_near(rng, np.clip(base, 8, 247), rng.uniform(15, 45))
        other = colour_near(rng, colour, rng.uniform(8, 30))
        area = fill(rng, rng.choice(list(FILLINGS)), (width, height), colour, other)
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
        speck = rng.uniform(0, size) + radii[:, None] * circle(8)[:-1]
        colour = tuple(colour_near(rng, base, rng.uniform(15, 55)).astype(int).tolist())
        pen.polygon(speck.ravel().tolist(), fill=colour)


def paint_object(
    rng: Generator, canvas: np.ndarray, region: Region, points: np.ndarray, filling: str, hue: float | None
) -> None:
    """Paint one outline with its ``region`` onto the canvas, in place.

    Some objects have low contrast, soft edges, a shadow or a rim. The difficulty of predicting the box must vary
    between objects, otherwise there is no quality to predict.

    Args:
        filling: key of `FILLINGS`.
        hue: usual hue of the category in 0..1, which some objects do not have; None for any colour.
    """
    patch = canvas[region.window]
    longer = np.ptp(points, axis=0).max()
    alpha = region.coverage()[..., None]
    if rng.random() < 0.3 and longer > 24:
        _cast_shadow(rng, patch, alpha)
    if rng.random() < 0.15 and longer > 24:
        alpha = _blurred(alpha, rng.uniform(0.8, 1.8))
    behind = (patch * alpha).sum(axis=(0, 1)) / max(alpha.sum(), 1e-6)
    faint = rng.random() < FAINT
    if faint:
        first = colour_near(rng, behind, rng.uniform(42, 65))
    elif hue is None:
        first = colour_of(rng, rng.random(), behind)
    elif rng.random() < USUAL_COLOUR:
        first = colour_of(rng, hue, behind)
    else:
        first = colour_near(rng, behind, rng.uniform(100, 200))
    second = colour_near(rng, first, rng.uniform(35, 60) if faint else rng.uniform(60, 140))
    filled = fill(rng, filling, patch.shape[1::-1], first, second)
    if rng.random() < 0.25:
        closed = np.concatenate([points, points[:1]]) - [region.x, region.y]
        rim = draw_region([closed], patch.shape[1], patch.shape[0], line=rng.uniform(1.5, 4))
        filled[rim.window] *= 1 - rng.uniform(0.3, 0.6) * rim.coverage()[..., None]
    patch += alpha * (filled - patch)


def _cast_shadow(rng: Generator, patch: np.ndarray, alpha: np.ndarray) -> None:
    """Darken a patch ``[h, w, 3]`` by the shifted, blurred shadow of an object ``[h, w, 1]``, in place."""
    dx, dy = rng.integers(-4, 5, 2).tolist()
    height, width = alpha.shape[:2]
    shade = np.zeros_like(alpha)
    shade[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = alpha[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    patch *= 1 - rng.uniform(0.15, 0.5) * _blurred(shade, 2)


def _blurred(alpha: np.ndarray, radius: float) -> np.ndarray:
    """Blur shares ``[h, w, 1]``; ``radius`` is the standard deviation in pixels."""
    image = Image.fromarray(np.round(255 * alpha[..., 0]).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32)[..., None] / 255
