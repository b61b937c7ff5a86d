"""Detections, or true boxes, drawn on their image: boxes, class names and scores, legible on images of any size."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from workbench.report.figures.fonts import Pen, drawable
from workbench.report.text import shortened

MIN_SIDE = 640  # pixels: an image is enlarged by an integer factor if its longer side has fewer
NAME_LETTERS = 40  # most letters of a class name
NAMED = 10  # most true boxes of an image that all have a text

Rectangle = tuple[int, int, int, int]


def draw_detections(
    image: Image.Image,
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    min_score: float = 0.3,
) -> Image.Image:
    """Return a copy of the image with its detections, one colour per class.

    Args:
        image: image of any mode and size. If its longer side has fewer than 640 pixels, it is enlarged by an integer
            factor, so that text is legible.
        boxes: `[N, 4]` as x1, y1, x2, y2 in pixels of `image`. Parts outside the image are cut off.
        scores: `[N]` in [0, 1].
        labels: `[N]`, indices into `class_names`.
        class_names: names of the classes, by label, in any script. A long name is shortened, also to the image's width.
        min_score: detections with a lower score are left out.

    Returns:
        RGB image with the size of the input times the factor. Lines and text are in proportion to the image.
    """
    canvas, boxes = _enlarged(image, boxes)
    scores, labels = np.asarray(scores, dtype=float).reshape(-1), np.asarray(labels, dtype=int).reshape(-1)
    kept = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= min_score]
    shown = _shown(canvas, boxes[kept], labels[kept], class_names, [f" {scores[i]:.2f}" for i in kept])
    return _drawn(canvas, shown, shown)


def draw_objects(
    image: Image.Image, boxes: ArrayLike, labels: ArrayLike, crowd: ArrayLike, class_names: Sequence[str]
) -> Image.Image:
    """Return a copy of the image with its true boxes; see `draw_detections`. Smaller boxes are on top of larger ones.

    Texts would hide small objects: of more than 10 boxes, only the largest box of each class and crowds have a text.

    Args:
        crowd: `[N]`, whether a box is of a crowd, which is written behind the name of its class.
    """
    canvas, boxes = _enlarged(image, boxes)
    labels, crowd = np.asarray(labels, dtype=int).reshape(-1), np.asarray(crowd, dtype=bool).reshape(-1)
    order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    ends = [" (crowd)" if crowd[i] else "" for i in order]
    shown = _shown(canvas, boxes[order], labels[order], class_names, ends)
    largest = {name: place for place, (_, name, end, _) in enumerate(shown) if not end}  # the last one is the largest
    texts = [
        entry for place, entry in enumerate(shown) if len(shown) <= NAMED or entry[2] or largest[entry[1]] == place
    ]
    return _drawn(canvas, shown, texts)


def _enlarged(image: Image.Image, boxes: ArrayLike) -> tuple[Image.Image, np.ndarray]:
    """Return an RGB copy of an image whose longer side has at least 640 pixels, and the boxes ``[N, 4]`` on it."""
    factor = max(1, math.ceil(MIN_SIDE / max(image.size)))
    canvas = image.convert("RGB")
    if factor > 1:
        canvas = canvas.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    return canvas, np.asarray(boxes, dtype=float).reshape(-1, 4) * factor


def _shown(
    canvas: Image.Image, boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str], ends: Sequence[str]
) -> list[tuple[Rectangle, str, str, tuple[int, int, int]]]:
    """Return rectangle, name, end of the text, and colour of each box that is partly inside the image."""
    names = {label: drawable(class_names[label], NAME_LETTERS) for label in set(labels.tolist())}
    rectangles = [_inside(box, canvas.size) for box in boxes]
    return [
        (rectangle, names[label], end, _colour(label))
        for rectangle, label, end in zip(rectangles, labels.tolist(), ends, strict=True)
        if rectangle is not None
    ]


def _drawn(canvas: Image.Image, shown: list, texts: list) -> Image.Image:
    """Draw the boxes of ``shown`` and the texts of ``texts`` on an image, the first on top."""
    draw = ImageDraw.Draw(canvas)
    side = math.sqrt(canvas.width * canvas.height)  # for lines and text, also of long narrow images
    width = max(2, round(side / 400))
    for rectangle, *_, colour in reversed(shown):
        draw.rectangle(rectangle, outline=colour, width=width)
    _draw_texts(draw, Pen(draw, max(13, round(side / 52))), texts, canvas.size)
    return canvas


def _inside(box: np.ndarray, size: tuple[int, int]) -> Rectangle | None:
    """Return first and last pixel (included) of the box within the image; None if it is empty or has a NaN."""
    x1, y1, x2, y2 = box
    width, height = size
    if not (x1 < x2 and y1 < y2 and x1 < width and y1 < height and x2 > 0 and y2 > 0):
        return None
    left, top = max(int(x1), 0), max(int(y1), 0)
    # The last pixel of a box that ends at x2 is the pixel before x2.
    return left, top, max(left, min(math.ceil(x2), width) - 1), max(top, min(math.ceil(y2), height) - 1)


def _colour(label: int) -> tuple[int, int, int]:
    """Return the colour of a class. Hues are a golden section apart, so neighbours differ for any number of classes."""
    hue = (0.58 + label * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.85, 0.6, 1.0)[label % 3], (0.95, 1.0, 0.75)[label % 3])
    return round(255 * red), round(255 * green), round(255 * blue)


def _text_colour(background: tuple[int, int, int]) -> str:
    red, green, blue = background
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _draw_texts(draw: ImageDraw.ImageDraw, pen: Pen, shown: list, size: tuple[int, int]) -> None:
    """Write the texts, the first on top. Each text takes the place where it covers other texts least."""
    margin = round(pen.size / 4)
    longest = max((end for *_, end, _ in shown), key=pen.length, default="")
    names = {name: _fitted(pen, name, longest, size[0] - 2 * margin) for _, name, *_ in shown}
    occupied: list[Rectangle] = []
    labels = []
    for rectangle, name, end, colour in shown:
        text = names[name] + end
        # The height of a line, not of these letters, so that all labels have the same height.
        width, height = math.ceil(pen.length(text)) + 2 * margin, pen.height + 2
        places = [_within(left, top, width, height, size) for left, top in _places(rectangle, width, height)]
        place = min(places, key=lambda p: sum(_overlap(p, other) for other in occupied))  # in a tie, the first place
        occupied.append(place)
        labels.append((place, text, colour))
    for place, text, colour in reversed(labels):
        draw.rectangle(place, fill=colour)
        pen.write(place[0] + margin, place[1] + 1, text, _text_colour(colour))


def _fitted(pen: Pen, name: str, end: str, width: int) -> str:
    """Return a name, shortened until the name and the end of its text are at most ``width`` pixels wide."""
    letters = 2 * len(name)  # wide letters count twice
    while letters > 2 and pen.length(shortened(name, letters) + end) > width:
        letters -= 1
    return shortened(name, letters)


def _places(rectangle: Rectangle, width: int, height: int) -> list[tuple[int, int]]:
    """Return candidates for the upper left corner of a text: above, inside or below the box; left or right.

    The preferred place is first: above the box.
    """
    left, top, right, bottom = rectangle
    rows = (top - height, top, bottom - height + 1, bottom + 1, top - 2 * height, bottom + 1 + height)
    return [(x, y) for x in (left, right - width + 1) for y in rows]


def _within(left: int, top: int, width: int, height: int, size: tuple[int, int]) -> Rectangle:
    """Return the rectangle of a text, moved into the image as far as it fits."""
    left = max(0, min(left, size[0] - width))
    top = max(0, min(top, size[1] - height))
    return left, top, left + width - 1, top + height - 1


def _overlap(a: Rectangle, b: Rectangle) -> int:
    """Return the number of pixels that two rectangles share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(width, 0) * max(height, 0)
