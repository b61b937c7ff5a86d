"""Embedded data set: a detection data set in COCO format that the workbench draws itself, without any download.

The classes are six shapes, which differ in their outline. Each class has a usual colour, but any texture, size and
rotation. Objects overlap, and the background is cluttered. Images are small, and objects are in all three size ranges
of COCO. Some boxes are hard to predict exactly. A small network therefore shows in minutes what the paper shows on
COCO: an IoU-aware score ranks detections better, and box refinement helps.

Layout, file names and JSON are COCO's (https://cocodataset.org/#format-data). This module does not import torch.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import threading
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

from workbench.data import drawn, shapes
from workbench.settings.data import CATEGORIES, EmbeddedData
from workbench.support.errors import WorkbenchError

SPLITS = drawn.SPLITS

SMALLEST, LARGEST = 24.0, 0.9  # longer side of an object: in pixels, and as a share of the image's longer side
MIN_SHORT = 16.0  # pixels; smallest shorter side at which the class of an object is recognisable
MIN_VISIBLE = 0.6  # share of an object that must stay visible
EMPTY, CROWD = 0.03, 0.02  # shares of images without objects, and with a crowd


@dataclass(frozen=True)
class _Thing:
    """Object or crowd of objects that one annotation describes."""

    category: tuple[int, str]
    outlines: tuple[np.ndarray, ...]  # [N, 2] each, pixels
    mask: np.ndarray  # [FINE*H, FINE*W] bool, visible part if nothing were in front

    @property
    def crowd(self) -> bool:
        return len(self.outlines) > 1

    @property
    def full_area(self) -> float:
        """Sum of the areas of all outlines in square pixels, including overlaps and parts outside the image."""
        return sum(shapes.polygon_area(points) for points in self.outlines)


def _longer_sides(rng: Generator, long_side: int) -> np.ndarray:
    """Draw the longer sides of an image's objects in pixels, from back to front; larger objects are mostly behind."""
    largest = LARGEST * long_side
    count = rng.choice(np.arange(1, 9), p=[0.13, 0.17, 0.18, 0.16, 0.13, 0.1, 0.08, 0.05])
    sides = np.exp(rng.uniform(np.log(SMALLEST), np.log(largest), count))
    if rng.random() < 0.25:  # otherwise, COCO's range of large objects (over 96^2) would have few objects
        sides[0] = rng.uniform(0.75, 1) * largest
    if rng.random() < 0.25:
        sides = np.append(sides, rng.uniform(SMALLEST, 1.6 * SMALLEST, rng.integers(1, 4)))
    return np.sort(sides)[::-1] if rng.random() < 0.7 else rng.permutation(sides)


def _form(rng: Generator, name: str, longer: float, large: float) -> np.ndarray:
    """Draw an outline around (0, 0) with aspect ratio 1:3 to 3:1.

    Outlines with a longer side above ``large`` have a larger area, so that every class has objects over 96^2.
    """
    ratio = 3 ** (rng.uniform(0, 0.4) if longer > large else 1.1 * rng.beta(1, 1.5))
    shorter = max(longer / ratio, min(longer, MIN_SHORT))
    width, height = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    # Mostly upright: in minutes of training, a small network cannot learn shapes in every orientation.
    angle = rng.normal(0, np.pi / 24) if rng.random() < 0.95 else rng.uniform(-np.pi, np.pi)
    points = shapes.outline(name, rng, width, height, angle)
    if longer > large:
        points *= max(1.0, np.sqrt(0.45 * longer**2 / shapes.polygon_area(points)))
    return points


def _crowd(rng: Generator, name: str) -> tuple[np.ndarray, ...]:
    """Draw outlines around (0, 0) of many tiny objects on a jittered grid."""
    columns, rows, step = rng.integers(3, 7), rng.integers(3, 5), rng.uniform(9, 12)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * step
    grid = grid - grid.mean(axis=0) + rng.normal(0, 0.15 * step, grid.shape)
    return tuple(_form(rng, name, rng.uniform(9, 13), np.inf) + place for place in grid)


def _place(
    rng: Generator, category: tuple[int, str], outlines: tuple[np.ndarray, ...], size: tuple[int, int], scene: list
) -> _Thing | None:
    """Draw a position at which the outlines and all objects behind them stay visible; None after 12 failures.

    Args:
        scene: objects behind the outlines, each with the mask of its visible part.
    """
    extent = np.ptp(np.concatenate(outlines), axis=0)
    low = np.minimum(0.35 * extent, np.array(size) / 2)  # up to 15% of each side may be outside
    for _ in range(12):
        centre = rng.uniform(low, np.array(size) - low)
        placed = tuple(points + centre for points in outlines)
        mask = np.asarray(shapes.draw_mask(placed, *size)) > 0
        thing = _Thing(category, placed, mask)
        pairs = [(thing, mask), *((other, visible & ~mask) for other, visible in scene)]
        if all(np.count_nonzero(m) >= MIN_VISIBLE * shapes.FINE**2 * t.full_area for t, m in pairs):
            return thing
    return None


def _arrange(rng: Generator, size: tuple[int, int]) -> list[tuple[_Thing, np.ndarray]]:
    """Draw objects from back to front with the masks ``[FINE*H, FINE*W]`` of their visible parts.

    Objects without a suitable position are left out.
    """
    if rng.random() < EMPTY:
        return []
    sides = _longer_sides(rng, max(size))
    crowds = [True] * (rng.random() < CROWD) + [False] * len(sides)
    scene: list[tuple[_Thing, np.ndarray]] = []
    for crowd, longer in zip(crowds, [0.0] * (len(crowds) - len(sides)) + list(sides), strict=True):
        category = CATEGORIES[rng.integers(len(CATEGORIES))]
        form = _crowd(rng, category[1]) if crowd else (_form(rng, category[1], longer, 0.6 * max(size)),)
        thing = _place(rng, category, form, size, scene)
        if thing is not None:
            scene = [(other, visible & ~thing.mask) for other, visible in scene] + [(thing, thing.mask)]
    return scene


def draw_image(settings: EmbeddedData, split: int, index: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw image ``index`` of a split (0: train, 1: val) and its annotations, which depend only on these and the world.

    Returns:
        The image, and one COCO annotation per object, without ``id`` and ``image_id``. ``bbox`` is tight around the
        visible part, and ``area`` is its area, both exact to 1/3 pixel. The polygon is the outline of the whole object
        with its hidden parts.
    """
    rng = Generator(PCG64(SeedSequence([settings.world, split, index])))
    size = (settings.long_side, settings.short_side)
    if rng.random() < 0.4:
        size = size[::-1]
    canvas = shapes.paint_background(rng, *size)
    scene = _arrange(rng, size)
    for thing, _ in scene:
        hue = CATEGORIES.index(thing.category) / len(CATEGORIES)
        for points in thing.outlines:
            shapes.paint_object(rng, canvas, shapes.draw_mask([points], *size), points, hue)
    canvas += rng.normal(0, rng.uniform(1, 6), canvas.shape).astype(np.float32)
    picture = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    return picture, [_annotation(thing, visible, size) for thing, visible in scene]


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
    """Draw and save one image; return its COCO entry, and its annotations without ``id``."""
    split, index = job
    picture, annotations = draw_image(settings, split, index)
    image_id = drawn.image_id(split, index)
    name = drawn.image_name(image_id)
    picture.save(Path(folder, SPLITS[split], name), quality=90)
    entry = {"license": 1, "file_name": name, "height": picture.height, "width": picture.width, "id": image_id}
    return entry, [{**annotation, "image_id": image_id} for annotation in annotations]


def _end_with_parent() -> None:
    """End this worker process when its parent is killed; otherwise it would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw_images(settings: EmbeddedData, folder: Path, jobs: list[tuple[int, int]], processes: int) -> Iterator[tuple]:
    """Results of `_write_image` for each job, in order."""
    work = partial(_write_image, settings, str(folder))
    if processes == 1:
        yield from map(work, jobs)
        return
    # spawn, because fork is unsafe if the caller has threads (of torch or a notebook)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent)
    try:
        yield from pool.map(work, jobs, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_annotations(path: Path, settings: EmbeddedData, images: list[tuple[dict, list[dict]]]) -> None:
    annotations = [annotation for _, annotations in images for annotation in annotations]
    content = {
        "info": drawn.info(settings),
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": [entry for entry, _ in images],
        "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"supercategory": "shape", "id": number, "name": name} for number, name in CATEGORIES],
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _write_all(
    settings: EmbeddedData, folder: Path, processes: int | None, progress: Callable[[int, int], None] | None
) -> None:
    drawn.write_marker(folder, settings)  # first, so that an unfinished data set is recognised
    for name in drawn.FOLDERS:
        (folder / name).mkdir()
    counts = (settings.train_images, settings.val_images)
    jobs = [(split, index) for split, count in enumerate(counts) for index in range(count)]
    if processes is None:
        processes = max(1, min(os.cpu_count() or 1, 8, len(jobs) // 50))  # starting a worker takes half a second
    images = []
    for image in _draw_images(settings, folder, jobs, processes):
        images.append(image)
        if progress is not None:
            progress(len(images), len(jobs))
    for split, part in zip(SPLITS, (images[: counts[0]], images[counts[0] :]), strict=True):
        _write_annotations(folder / "annotations" / f"instances_{split}.json", settings, part)


def draw_data_set(
    settings: EmbeddedData,
    root: Path,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw the data set into the folder ``root``, which is made or replaced only when the data set is complete.

    The bytes depend only on the settings. The first images do not depend on the number of images. Only files that the
    workbench drew are deleted; see ``drawn``.

    Args:
        processes: number of processes; None for one per core, at most 8. The number does not change the bytes.
        progress: function that is called after each image with the number of finished images and of all images.

    Raises:
        WorkbenchError: the folder cannot be written, or contains other files, or the settings name no world.
    """
    if settings.per_seed:
        raise WorkbenchError(f"{root}: no world is named; name the number of a world")
    root = Path(os.path.realpath(root))  # Path.resolve fails at a link to itself
    unfinished, previous = (root.with_name(f"{root.name}.partial-{os.getpid()}{end}") for end in ("", "-previous"))
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        drawn.refuse_other_files(root)
        drawn.remove_stale(root)
        if os.path.lexists(previous):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(previous))
        unfinished.mkdir()
        try:
            _write_all(settings, unfinished, processes, progress)
            drawn.refuse_other_files(root)  # again, because drawing takes minutes
            _replace(root, unfinished, previous)
        finally:
            for leftover in (unfinished, previous):
                drawn.remove(leftover)
    except OSError as error:
        reason = error.strerror or error
        raise WorkbenchError(
            f"{error.filename or root}: cannot be written ({reason}); free some space or choose another folder"
        ) from error
    except BrokenProcessPool as error:
        raise WorkbenchError(
            f"{root}: a process that draws images ended unexpectedly, probably out of memory; free some memory, "
            "then try again"
        ) from error


def _replace(root: Path, unfinished: Path, previous: Path) -> None:
    """Replace the previous data set by the finished one. If that fails, the previous data set stays."""
    if root.exists():
        root.rename(previous)
    try:
        unfinished.rename(root)
    except OSError:
        if previous.exists():
            previous.rename(root)
        raise
