"""Embedded data set: a detection data set in COCO format that the workbench draws itself, without any download.

The categories differ in outline and filling, and have any colour and size. Objects overlap, and the background is
cluttered. Images are small, and objects are in all three size ranges of COCO. Some boxes are hard to predict exactly.
Measured in strides of the detectors' pyramids, objects are as large as in COCO (see `scenes`).

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from PIL import Image

from workbench.data import drawn, shapes
from workbench.data.painting import FILLINGS, paint_background, paint_object, to_picture
from workbench.data.scenes import Scene, Thing, arrange, single
from workbench.data.shapes import Region
from workbench.settings.data import EmbeddedData
from workbench.support.devices import usable_cores
from workbench.support.errors import WorkbenchError

SPLITS = drawn.SPLITS


def draw_image(settings: EmbeddedData, split: int, index: int) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw image ``index`` of a split (0: train, 1: val) and its annotations, which depend only on these and the world.

    Returns:
        The image, and one COCO annotation per object, without ``id`` and ``image_id``. ``bbox`` is tight around the
        visible part, and ``area`` is its area, both exact to 1/3 pixel. The polygon is the outline of the whole object
        with its hidden parts.
    """
    rng, size, scene = draw_scene(settings, split, index)
    canvas = paint_background(rng, *size)
    for thing, _ in scene:
        for points in thing.outlines:
            filling = thing.category.filling or rng.choice(list(FILLINGS))
            region = thing.region if not thing.crowd else shapes.draw_region([points], *size)
            paint_object(rng, canvas, region, points, filling, thing.category.hue)
    return to_picture(rng, canvas), [_annotation(thing, visible, size) for thing, visible in scene]


def draw_scene(settings: EmbeddedData, split: int, index: int) -> tuple[Generator, tuple[int, int], Scene]:
    """Random numbers for painting an image, its width and height in pixels, and its objects."""
    rng = Generator(PCG64(SeedSequence([settings.world, split, index])))
    size = (settings.long_side, settings.short_side)
    if rng.random() < 0.4:
        size = size[::-1]
    return rng, size, arrange(rng, settings, size)


def draw_object(settings: EmbeddedData, side: int, index: int) -> tuple[Image.Image, int]:
    """Draw a picture with one object for classification, and the index of its category.

    The random numbers differ from those of both splits in every world, so no split has the same object.

    Args:
        side: of the picture in pixels.
    """
    rng = Generator(PCG64(SeedSequence([0, 2, index])))
    label = int(rng.integers(settings.classes))
    category = settings.categories[label]
    points = single(rng, settings, category, side)
    canvas = paint_background(rng, side, side)
    filling = category.filling or rng.choice(list(FILLINGS))
    paint_object(rng, canvas, shapes.draw_region([points], side, side), points, filling, category.hue)
    return to_picture(rng, canvas), label


def _annotation(thing: Thing, visible: Region, size: tuple[int, int]) -> dict[str, Any]:
    segmentation: Any
    if thing.crowd:
        covered = np.zeros((size[1], size[0]), dtype=bool)
        covered[visible.window] = visible.coverage() >= 0.5
        segmentation = shapes.run_lengths(covered)
    else:
        points = shapes.clip_outline(thing.outlines[0], *size)
        segmentation = [[round(value, 2) for value in points.ravel().tolist()]]
    return {
        "segmentation": segmentation,
        "area": round(visible.area, 2),
        "iscrowd": int(thing.crowd),
        "bbox": [round(float(value), 2) for value in visible.box()],
        "category_id": thing.category.id,
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
        "categories": [{"supercategory": c.outline, "id": c.id, "name": c.name} for c in settings.categories],
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
        processes = max(1, min(usable_cores(), 8, len(jobs) // 50))  # starting a worker takes half a second
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
