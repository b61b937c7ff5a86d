"""Speed of a process that loads training images, stage by stage: ``workbench bench loading``."""

from __future__ import annotations

import statistics
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import torch

from workbench.data import transforms
from workbench.data.coco import CocoDetection, read_coco
from workbench.data.handover import Block, collate_for_another_process
from workbench.data.loader import epoch_plan
from workbench.data.transforms import Sample
from workbench.runs.find import data_folder
from workbench.settings.data import ImageSize
from workbench.settings.digest import TRAIN
from workbench.settings.files import read_scale
from workbench.support.provenance import device_name, versions

BATCH = 8
"""Images of a batch."""
WORKER = ("read and decode", "resize", "flip every second image", "pad, in shared memory")
"""Stages of a worker process."""
RECEIVER = ("receive", "normalise on a CPU")
"""Stages of the process that trains."""


def bench_loading(scale: str, data_root: Path | None, results: Path, images: int, rounds: int = 5) -> str:
    """Time the stages from image files to a batch for a detector, with one thread.

    Args:
        images: number of images of the training split, from its beginning.
        rounds: number of timed rounds, after one round of warm-up that also fills the disk cache.

    Returns:
        Table of the CPU time per image in Markdown, medians over the rounds.

    Raises:
        WorkbenchError: the scale has no data set, or an image cannot be read.
    """
    size = read_scale(scale).image
    data = read_coco(data_folder(scale, results, data_root), TRAIN, training=True, limit=images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        blocks: list[Block] = []
        timed = [time_stages(data, size, blocks) for _ in range(rounds + 1)][1:]
        machine = ", ".join([device_name(), *(f"{name} {versions()[name]}" for name in ("torch", "torchvision"))])
    finally:
        torch.set_num_threads(threads)
    worker = statistics.median(sum(times[stage] for stage in WORKER) for times in timed)
    cells = {stage: statistics.median(times[stage] for times in timed) for stage in (*WORKER, *RECEIVER)}
    lines = [f"| {stage} | {1000 * seconds:.2f} |" for stage, seconds in cells.items()]
    lines.insert(len(WORKER), f"| **worker: {1 / worker:.0f} images per second** | **{1000 * worker:.2f}** |")
    return "\n".join(
        [
            f"Loading of {len(data.images)} images at {size} in batches of {BATCH}: medians of {rounds} rounds, "
            f"on {machine}.",
            "",
            "| stage | CPU time per image (ms) |",
            "|---|--:|",
            *lines,
        ]
    )


def time_stages(data: CocoDetection, size: ImageSize, blocks: list[Block]) -> dict[str, float]:
    """Load all images once, in batches of one aspect group as in training.

    Args:
        blocks: shared memory of earlier rounds, which is used again.

    Returns:
        Seconds of CPU time per image of each stage in ``WORKER`` and ``RECEIVER``.
    """
    seconds = dict.fromkeys((*WORKER, *RECEIVER), 0.0)
    plan = epoch_plan(np.array([record.width > record.height for record in data.images]), BATCH, 0, 0, 1)
    for indices in plan.tolist():
        records = [data.images[index] for index in indices]
        marks = [time.process_time()]
        images = [transforms.decode_image(record.path, record.height, record.width) for record in records]
        marks.append(time.process_time())
        samples = []
        for image, record in zip(images, records, strict=True):
            shape = transforms.resized_size(record.height, record.width, size.long, size.short)
            boxes, labels = transforms.resize_boxes(record, *shape)
            samples.append(Sample(transforms.resize_image(image, *shape), boxes, labels, record))
        marks.append(time.process_time())
        samples[::2] = map(transforms.flip, samples[::2])
        marks.append(time.process_time())
        message = ForkingPickler.dumps(collate_for_another_process(samples, blocks))
        marks.append(time.process_time())
        batch = ForkingPickler.loads(message)
        marks.append(time.process_time())
        batch.to("cpu")
        marks.append(time.process_time())
        for stage, start, end in zip(seconds, marks, marks[1:], strict=False):
            seconds[stage] += (end - start) / plan.size
    return seconds
