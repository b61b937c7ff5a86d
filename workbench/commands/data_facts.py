"""Numbers of the splits of a data set, warnings about them, and numbers of its classes, for ``workbench data``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from workbench.commands.data_split import Split, content_digests
from workbench.data.transforms import resized_size
from workbench.evaluation.geometry import SHARES, STRIDES
from workbench.report.text import plain, visible
from workbench.settings.data import ImageSize
from workbench.settings.layout_files import read_categories
from workbench.settings.layouts import ALL

LARGER = 1.01
"""Largest ratio of the stated area to width × height without a warning, for rounded numbers."""
LISTED = 8
"""Largest number of names in a warning."""


@dataclass(frozen=True, eq=False)
class Facts:
    """Numbers of one split at an image size.

    Attributes:
        size: largest sides of a resized image.
        shared: number of images whose file another split has, too; None without another split.
    """

    split: Split
    size: ImageSize
    shared: int | None

    @cached_property
    def own_sides(self) -> NDArray[np.float64]:
        """Square root of width × height of each object, in pixels of the image."""
        return np.sqrt(self.split.columns.boxes[self.split.objects, 2:].prod(axis=1))

    @cached_property
    def sides(self) -> NDArray[np.float64]:
        """Square root of width × height of each object, in pixels of the resized image; without unreadable images."""
        c = self.split.columns
        stored = np.stack([c.heights, c.widths], axis=1)
        kinds, kind = np.unique(stored, axis=0, return_inverse=True)
        factors = np.array([self._factor(*pair) for pair in kinds.tolist()])
        sides = (
            self.own_sides * factors[kind.reshape(-1)][c.image_of[self.split.objects]] if len(kinds) else self.own_sides
        )
        return sides[sides > 0]

    def _factor(self, height: int, width: int) -> float:
        resized = resized_size(height, width, self.size.long, self.size.short) if height and width else (0, 0)
        return float(np.sqrt(resized[0] * resized[1] / max(1, height * width)))

    @cached_property
    def small(self) -> int:
        """Number of objects that are smaller than the finest stride in the resized image."""
        return int((self.sides < STRIDES[0]).sum())

    @cached_property
    def large_areas(self) -> NDArray[np.int64]:
        """Indices of the annotations whose stated area is above width × height of the box."""
        c = self.split.columns
        return np.flatnonzero(c.areas > LARGER * c.boxes[:, 2] * c.boxes[:, 3])

    @cached_property
    def per_image(self) -> NDArray[np.int64]:
        """``[N]``, number of objects of each image."""
        return np.bincount(self.split.columns.image_of[self.split.objects], minlength=len(self.split.paths))

    @cached_property
    def per_class(self) -> NDArray[np.int64]:
        """``[C]``, number of objects of each class."""
        c = self.split.columns
        return np.bincount(c.labels[self.split.objects], minlength=len(c.class_names))


def facts_of(splits: Sequence[Split], size: ImageSize) -> tuple[list[Facts], list[str]]:
    """Facts of each split, and warnings about pictures that two splits have."""
    if len(splits) < 2:
        return [Facts(split, size, None) for split in splits], []
    digests = content_digests(*splits)
    contents = [{digest for digest in side if digest} for side in digests]
    facts = []
    for split, side in zip(splits, digests, strict=True):
        elsewhere = set().union(*(c for other, c in zip(splits, contents, strict=True) if other is not split))
        facts.append(Facts(split, size, sum(digest in elsewhere for digest in side)))
    pairs = combinations(zip(splits, digests, strict=True), 2)
    return facts, [line for one, other in pairs if (line := _overlap(*one, *other))]


def _overlap(one: Split, of_one: list[str | None], other: Split, of_other: list[str | None]) -> str | None:
    """Warning about pictures of ``other`` that are also in ``one``; None if there are none."""
    first = {digest: index for index, digest in reversed(list(enumerate(of_one))) if digest}
    both = [index for index, digest in enumerate(of_other) if digest in first]
    if not both:
        return None
    pair = (other, both[0]), (one, first[of_other[both[0]]])
    names = " = ".join(visible(f"{split.name}/{split.columns.file_names[i]}") for split, i in pair)
    problem = f"{len(both):,} of {len(other.paths):,} images are also in {one.name}, byte for byte"
    return f"{visible(other.file)}: {problem} (first: {names}); keep them in one split, else AP is too high"


ROWS: dict[str, Callable[[Facts], str]] = {
    "images": lambda f: f"{len(f.split.paths):,}",
    "images without objects": lambda f: f"{int((f.per_image == 0).sum()):,}",
    "objects (boxes to learn or to test)": lambda f: f"{int(f.split.objects.sum()):,}",
    "objects of an image (median, most)": lambda f: _median_and_most(f.per_image),
    "crowds": lambda f: f"{int(f.split.columns.crowd.sum()):,}",
    "boxes with the flag ignore": lambda f: f"{int(f.split.columns.ignored.sum()):,}",
    "boxes empty or outside their image": lambda f: f"{int((~f.split.columns.visible).sum()):,}",
    "boxes under 1 pixel wide or high": lambda f: f"{_thin(f.split):,}",
    "boxes of classes that are not listed": lambda f: f"{int((f.split.columns.labels < 0).sum()):,}",
    "area above width x height by over 1 %": lambda f: f"{len(f.large_areas):,}",
    "classes": lambda f: f"{len(f.per_class):,}",
    "classes without objects": lambda f: f"{int((f.per_class == 0).sum()):,}",
    "images turned by EXIF": lambda f: f"{int(f.split.turned.sum()):,}",
    "images also in another split (equal bytes)": lambda f: "–" if f.shared is None else f"{f.shared:,}",
    "smallest image": lambda f: _image_size(f.split, 0),
    "median image": lambda f: _image_size(f.split, 0.5),
    "largest image": lambda f: _image_size(f.split, 1),
    "object size in pixels (10, 50, 90 %)": lambda f: _quantiles(f.own_sides),
    "object size at {size} (10, 50, 90 %)": lambda f: _quantiles(f.sides),
    f"objects under {STRIDES[0]} pixels at {{size}}": lambda f: _share(f.small, len(f.sides)),
}
"""Lines of the table. Sizes of images are width x height; the size of an object is the root of width x height."""
IF_ANY = {name for name in ROWS if name.startswith("boxes ")}
"""Lines that are left out if all their numbers are 0."""


def fact_lines(facts: Sequence[Facts]) -> list[tuple[str, ...]]:
    """Table of the splits: the headings, then one line per number."""
    lines = [("", *(f.split.name for f in facts))]
    for name, value in ROWS.items():
        cells = [value(f) for f in facts]
        if name not in IF_ANY or set(cells) != {"0"}:
            lines.append((name.format(size=facts[0].size), *cells))
    return lines


def class_lines(facts: Sequence[Facts]) -> list[tuple[str, ...]]:
    """Table of the classes: the headings, then id, name, and the numbers of objects and of images in each split."""
    headings = [f"{what}, {f.split.name}" for f in facts for what in ("objects", "images")]
    numbers: dict[tuple[int, str], dict[int, tuple[str, str]]] = {}
    for column, f in enumerate(facts):
        c, kept = f.split.columns, f.split.objects
        pairs = np.unique(c.labels[kept] * max(1, len(c.image_ids)) + c.image_of[kept])
        images = np.bincount(pairs // max(1, len(c.image_ids)), minlength=len(c.class_names))
        counts = zip(f.per_class.tolist(), images.tolist(), strict=True)
        for key, own in zip(zip(c.category_ids, c.class_names, strict=True), counts, strict=True):
            numbers.setdefault(key, {})[column] = tuple(f"{number:,}" for number in own)
    rows = sorted(numbers.items())
    return [("id", "class", *headings)] + [
        (str(id_), name, *(cell for column in range(len(facts)) for cell in own.get(column, ("–", "–"))))
        for (id_, name), own in rows
    ]


def root_category(facts: Sequence[Facts]) -> str | None:
    """Name of a category without objects that is the supercategory of all others, as exporters add one; else None."""
    counts: Counter[str] = Counter()
    for f in facts:
        counts.update(dict(zip(f.split.columns.class_names, f.per_class.tolist(), strict=True)))
    unused = {name for name, count in counts.items() if not count}
    if not unused or len(counts) == 1:
        return None
    stated = read_categories(facts[0].split.file)
    for root in sorted(unused):
        if {entry.get("supercategory") for entry in stated if entry.get("name") != root} == {root}:
            return root
    return None


def warnings_of(facts: Sequence[Facts], root: str | None) -> list[str]:
    """Lines ``place: problem; what to do`` about annotations and sizes that are read, but are probably not wanted.

    Args:
        root: name of the root category, which needs no objects.
    """
    lines = []
    for f in facts:
        place, c = visible(f.split.file), f.split.columns
        if count := len(f.large_areas):
            first = visible(c.file_names[c.image_of[f.large_areas[0]]])
            problem = f"{count:,} annotations state an area above width x height of their box by more than 1 %"
            lines.append(
                f"{place}: {problem} (first: image {first}); correct it, AP of small and large objects uses it"
            )
        counts = zip(c.class_names, f.per_class.tolist(), strict=True)
        empty = [name for name, number in counts if not number and name != root]
        if empty and f.split.role in ("train", ALL):
            names = ", ".join(plain(name, 40) for name in empty[:LISTED]) + (", …" if len(empty) > LISTED else "")
            problem = f"classes without objects: {len(empty)} of {len(c.class_names)} ({names})"
            lines.append(f"{place}: {problem}; add objects, or remove the classes from all files")
    small, objects = sum(f.small for f in facts), sum(len(f.sides) for f in facts)
    if small:
        before = sum(int((f.own_sides < STRIDES[0]).sum()) for f in facts)
        problem = f"{_share(small, objects)} of {objects:,} are smaller than {STRIDES[0]} pixels, the finest stride"
        remedy = "choose a larger image size in the scale, or expect a low AP on them"
        lines.append(f"objects at {facts[0].size}: {problem} ({before:,} are so small in their files, too); {remedy}")
    return lines


def _thin(split: Split) -> int:
    """Number of boxes that are inside their image and not empty, but less than a pixel wide or high."""
    return int((split.columns.visible & (split.columns.boxes[:, 2:] < 1).any(axis=1)).sum())


def _median_and_most(numbers: NDArray[np.int64]) -> str:
    return f"{np.median(numbers):g}, {numbers.max():,}" if len(numbers) else "–"


def _quantiles(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.0f}" for value in np.quantile(values, SHARES)) if len(values) else "–"


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if count else "0"


def _image_size(split: Split, share: float) -> str:
    """Width x height of the image at a share of the images, sorted by their area."""
    c, sized = split.columns, split.sized
    if not len(sized):
        return "–"
    order = sized[np.argsort(c.widths[sized] * c.heights[sized], kind="stable")]
    index = order[round(share * (len(order) - 1))]
    return f"{c.widths[index]}x{c.heights[index]}"
