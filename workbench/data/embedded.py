"""The embedded data set: a COCO-format detection data set that the workbench draws itself, without any download.

Six shapes told apart by their outline (a usual colour each, but any texture, size, turn), with overlap, on clutter.
Pictures are small, objects span COCO's three size bands, and a part of the objects is hard to box, so that what the
paper shows on COCO (a score that knows the IoU ranks better; refining boxes helps) can be seen with a small network in
minutes.
Layout, file names and JSON are COCO's (https://cocodataset.org/#format-data); nothing here imports torch.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from PIL import Image

from workbench.data import shapes
from workbench.settings.data import CATEGORIES, EmbeddedData
from workbench.support.errors import WorkbenchError

SPLITS = ("train2017", "val2017")
MARKER = "embedded.json"  # holds the settings; a folder without it is not ours to replace

SMALLEST, LARGEST = 24.0, 0.9  # longer side of an object: pixels, and as a share of the picture's longer side
MIN_SHORT = 16.0  # pixels; the shorter side of a single object, below which it has no name
MIN_VISIBLE = 0.6  # share of an object that must stay visible
EMPTY, CROWD = 0.03, 0.02  # shares of the images without an object, and with a crowd


@dataclass(frozen=True)
class _Thing:
    """One object, or a crowd of them: what one annotation is about."""

    category: tuple[int, str]
    outlines: tuple[np.ndarray, ...]  # [N, 2] each, pixels
    mask: np.ndarray  # [FINE*H, FINE*W] bool, what would be seen of it if nothing lay above it

    @property
    def crowd(self) -> bool:
        return len(self.outlines) > 1

    @property
    def full_area(self) -> float:
        """Square pixels, parts outside the picture included; members of a crowd that overlap count once each."""
        return sum(shapes.polygon_area(points) for points in self.outlines)


def _longer_sides(rng: Generator, long_side: int) -> np.ndarray:
    """Longer sides in pixels of an image's objects, in painter's order: mostly the larger ones behind."""
    largest = LARGEST * long_side
    count = rng.choice(np.arange(1, 9), p=[0.13, 0.17, 0.18, 0.16, 0.13, 0.1, 0.08, 0.05])
    sides = np.exp(rng.uniform(np.log(SMALLEST), np.log(largest), count))
    if rng.random() < 0.25:  # COCO's band of large objects (over 96^2) would be thin without these
        sides[0] = rng.uniform(0.75, 1) * largest
    if rng.random() < 0.25:
        sides = np.append(sides, rng.uniform(SMALLEST, 1.6 * SMALLEST, rng.integers(1, 4)))
    return np.sort(sides)[::-1] if rng.random() < 0.7 else rng.permutation(sides)


def _form(rng: Generator, name: str, longer: float, large: float) -> np.ndarray:
    """An outline about (0, 0): sides 1:3 to 3:1; above ``large`` fuller, so that every class has objects over 96^2."""
    ratio = 3 ** (rng.uniform(0, 0.4) if longer > large else 1.1 * rng.beta(1, 1.5))
    shorter = max(longer / ratio, min(longer, MIN_SHORT))
    width, height = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    # Mostly upright: a small network that learns for minutes has no time left for shapes in every direction.
    angle = rng.normal(0, np.pi / 24) if rng.random() < 0.95 else rng.uniform(-np.pi, np.pi)
    points = shapes.outline(name, rng, width, height, angle)
    if longer > large:
        points *= max(1.0, np.sqrt(0.45 * longer**2 / shapes.polygon_area(points)))
    return points


def _crowd(rng: Generator, name: str) -> tuple[np.ndarray, ...]:
    """Outlines about (0, 0) of many tiny objects side by side on a jittered grid."""
    columns, rows, step = rng.integers(3, 7), rng.integers(3, 5), rng.uniform(9, 12)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * step
    grid = grid - grid.mean(axis=0) + rng.normal(0, 0.15 * step, grid.shape)
    return tuple(_form(rng, name, rng.uniform(9, 13), np.inf) + place for place in grid)


def _put(
    rng: Generator, category: tuple[int, str], outlines: tuple[np.ndarray, ...], size: tuple[int, int], seen: list
) -> _Thing | None:
    """A place for the outlines where they and all that lies behind (``seen``: thing, visible mask) stay visible."""
    extent = np.ptp(np.concatenate(outlines), axis=0)
    low = np.minimum(0.35 * extent, np.array(size) / 2)  # up to 15% of either side may lie outside
    for _ in range(12):
        centre = rng.uniform(low, np.array(size) - low)
        placed = tuple(points + centre for points in outlines)
        mask = np.asarray(shapes.draw_mask(placed, *size)) > 0
        thing = _Thing(category, placed, mask)
        pairs = [(thing, mask), *((other, visible & ~mask) for other, visible in seen)]
        if all(np.count_nonzero(m) >= MIN_VISIBLE * shapes.FINE**2 * t.full_area for t, m in pairs):
            return thing
    return None


def _arrange(rng: Generator, size: tuple[int, int]) -> list[tuple[_Thing, np.ndarray]]:
    """Objects in painter's order with their visible masks ``[FINE*H, FINE*W]``; what finds no place is left out."""
    if rng.random() < EMPTY:
        return []
    sides = _longer_sides(rng, max(size))
    crowds = [True] * (rng.random() < CROWD) + [False] * len(sides)
    seen: list[tuple[_Thing, np.ndarray]] = []
    for crowd, longer in zip(crowds, [0.0] * (len(crowds) - len(sides)) + list(sides), strict=True):
        category = CATEGORIES[rng.integers(len(CATEGORIES))]
        form = _crowd(rng, category[1]) if crowd else (_form(rng, category[1], longer, 0.6 * max(size)),)
        thing = _put(rng, category, form, size, seen)
        if thing is not None:
            seen = [(other, visible & ~thing.mask) for other, visible in seen] + [(thing, thing.mask)]
    return seen


def draw_image(settings: EmbeddedData, split: int, index: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Image ``index`` of a split (0: train, 1: val) and its annotations: they depend on nothing else but the seed.

    Returns:
        The picture, and a COCO annotation an object without ``id`` and ``image_id``. ``bbox`` is tight around what is
        visible, ``area`` the visible pixels (both to 1/3 pixel); a polygon outlines the whole object, hidden parts too.
    """
    rng = Generator(PCG64(SeedSequence([settings.seed, split, index])))
    size = (settings.long_side, settings.short_side)
    if rng.random() < 0.4:
        size = size[::-1]
    canvas = shapes.paint_background(rng, *size)
    seen = _arrange(rng, size)
    for thing, _ in seen:
        hue = CATEGORIES.index(thing.category) / len(CATEGORIES)
        for points in thing.outlines:
            shapes.paint_object(rng, canvas, shapes.draw_mask([points], *size), points, hue)
    canvas += rng.normal(0, rng.uniform(1, 6), canvas.shape).astype(np.float32)
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return picture, [_annotation(thing, visible, size) for thing, visible in seen]


def _annotation(thing: _Thing, visible: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    segmentation: Any
    if thing.crowd:
        fine = visible.reshape(size[1], shapes.FINE, size[0], shapes.FINE)
        segmentation = shapes.run_lengths(fine.mean(axis=(1, 3)) >= 0.5)
    else:
        points = shapes.clip_outline(thing.outlines[0], *size)
        segmentation = [[round(value, 2) for value in points.ravel().tolist()]]
    return {
        "segmentation": segmentation,
        "area": round(np.count_nonzero(visible) / shapes.FINE**2, 2),
        "iscrowd": int(thing.crowd),
        "bbox": [round(float(value), 2) for value in shapes.mask_box(visible)],
        "category_id": thing.category[0],
    }


def _write_image(settings: EmbeddedData, folder: str, job: tuple[int, int]) -> tuple[dict, list[dict]]:
    """Draws and saves one image; returns its COCO entry and its annotations, the latter without ids of their own."""
    split, index = job
    picture, annotations = draw_image(settings, split, index)
    image_id = 2 * index + split + 1  # odd in train, even in val: no id stands in both, as in COCO
    name = f"{image_id:012d}.jpg"
    picture.save(Path(folder, SPLITS[split], name), quality=90)
    entry = {"license": 1, "file_name": name, "height": picture.height, "width": picture.width, "id": image_id}
    return entry, [{**annotation, "image_id": image_id} for annotation in annotations]


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; by itself it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _drawn(settings: EmbeddedData, folder: Path, jobs: list[tuple[int, int]], processes: int) -> Iterator[tuple]:
    """What `_write_image` returns for each job, in order."""
    work = partial(_write_image, settings, str(folder))
    if processes == 1:
        yield from map(work, jobs)
        return
    # spawn, not fork: the caller may have threads (torch's, a notebook's)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent)
    try:
        yield from pool.map(work, jobs, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_annotations(path: Path, settings: EmbeddedData, drawn: list[tuple[dict, list[dict]]]) -> None:
    found = [annotation for _, annotations in drawn for annotation in annotations]
    content = {
        "info": {"description": "VFNet workbench, embedded data set", "version": "1", "seed": settings.seed},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": [entry for entry, _ in drawn],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(found, start=1)],
        "categories": [{"supercategory": "shape", "id": number, "name": name} for number, name in CATEGORIES],
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _write_all(
    settings: EmbeddedData, folder: Path, processes: int | None, progress: Callable[[int, int], None] | None
) -> None:
    for name in ("annotations", *SPLITS):
        (folder / name).mkdir(parents=True)
    counts = (settings.train_images, settings.val_images)
    jobs = [(split, index) for split, count in enumerate(counts) for index in range(count)]
    if processes is None:
        processes = max(1, min(os.cpu_count() or 1, 8, len(jobs) // 50))  # a worker takes half a second to start
    drawn = []
    for result in _drawn(settings, folder, jobs, processes):
        drawn.append(result)
        if progress is not None:
            progress(len(drawn), len(jobs))
    for split, part in zip(SPLITS, (drawn[: counts[0]], drawn[counts[0] :]), strict=True):
        _write_annotations(folder / "annotations" / f"instances_{split}.json", settings, part)
    (folder / MARKER).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _make_room(root: Path) -> None:
    """Refuses to replace what is not an embedded data set; removes what runs killed an hour ago or more left behind."""
    ours = (root / MARKER).is_file() or (root.is_dir() and not any(p.is_file() for p in root.rglob("*")))
    if root.exists() and not ours:
        raise WorkbenchError(f"{root} holds something else than an embedded data set: name another folder for it")
    for stale in root.parent.glob(f"{root.name}.partial-*"):
        if time.time() - stale.stat().st_mtime > 3600:
            shutil.rmtree(stale, ignore_errors=True)


def draw_data_set(
    settings: EmbeddedData,
    root: Path,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws the data set into ``root``, which appears, or is replaced, only when it is complete.

    The bytes depend on the settings alone, not on ``processes`` (None: up to 8, one a core); with more images asked
    for, the first ones stay the same. ``progress`` is told images done and images in all after each image.

    Raises:
        WorkbenchError: the folder cannot be written, or holds something else.
    """
    root = Path(root).resolve()
    unfinished, former = (root.with_name(f"{root.name}.partial-{os.getpid()}{end}") for end in ("", "-former"))
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _make_room(root)
        shutil.rmtree(unfinished, ignore_errors=True)
        _write_all(settings, unfinished, processes, progress)
        if root.exists():
            root.rename(former)
        unfinished.rename(root)
    except OSError as error:
        raise WorkbenchError(f"cannot write {root}: {error.strerror or error}; free or name another place") from error
    except BrokenProcessPool as error:
        raise WorkbenchError(f"a process that drew {root} died (memory?): try again with one process") from error
    finally:
        for leftover in (unfinished, former):
            shutil.rmtree(leftover, ignore_errors=True)
