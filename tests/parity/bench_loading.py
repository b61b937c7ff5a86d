"""Time of loading COCO's images at 1333x800 beside MMDetection 3.3.0, with one thread, and of several JPEG decoders.

``python -m tests.parity.bench_loading FOLDER`` in the environment of ``make parity``; FOLDER is a data set in COCO's
layout. simplejpeg is timed if it is installed. Times are CPU time per image, medians of five alternating rounds.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image, decode_jpeg

from tests.parity.conftest import open_mmdetection
from workbench.commands.bench.loading import WORKER, time_stages
from workbench.data.coco import CocoDetection, read_coco
from workbench.settings.data import ImageSize

SIZE = ImageSize(long=1333, short=800)
IMAGES, ROUNDS = 64, 5


def their_pipeline(data: CocoDetection) -> Callable[[], dict[str, float]]:
    """Function that returns the seconds per image of each stage of MMDetection's training pipeline."""
    mm = open_mmdetection()
    settings = {
        "decode": {"type": "LoadImageFromFile"},
        "resize": {"type": "Resize", "scale": (SIZE.long, SIZE.short), "keep_ratio": True},
        "flip": {"type": "RandomFlip", "prob": 0.5},
        "pack": {"type": "PackDetInputs"},
    }
    steps = {name: mm.transform(setting) for name, setting in settings.items()}

    def run() -> dict[str, float]:
        seconds = dict.fromkeys(steps, 0.0)
        for record in data.images:
            results = {"img_path": str(record.path), "img_id": record.id}
            for name, step in steps.items():
                began = time.process_time()
                results = step(results)
                seconds[name] += (time.process_time() - began) / len(data.images)
        return seconds

    return run


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Decoders of the bytes of a JPEG to ``[h, w, 3]`` RGB, without EXIF orientation."""

    def tensor(content: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    functions = {
        "torchvision `decode_image`": lambda c: decode_image(tensor(c), ImageReadMode.RGB).permute(1, 2, 0).numpy(),
        "torchvision `decode_jpeg`": lambda c: decode_jpeg(tensor(c), ImageReadMode.RGB).permute(1, 2, 0).numpy(),
        "OpenCV": lambda c: cv2.imdecode(np.frombuffer(c, np.uint8), flags),
        "Pillow": lambda c: np.array(Image.open(io.BytesIO(c)).convert("RGB")),
    }
    if find_spec("simplejpeg"):
        import simplejpeg

        functions["simplejpeg"] = lambda c: simplejpeg.decode_jpeg(c, colorspace="RGB")
        functions["simplejpeg, fast options"] = lambda c: simplejpeg.decode_jpeg(
            c, colorspace="RGB", fastdct=True, fastupsample=True
        )
    return functions


def variations(contents: list[bytes]) -> list[bytes]:
    """The JPEGs, one of them in grey and one for each of the eight EXIF orientations."""
    extra = []
    with Image.open(io.BytesIO(contents[0])) as image:
        for orientation in range(9):
            exif, file = Image.Exif(), io.BytesIO()
            exif[274] = orientation
            image.convert("RGB" if orientation else "L").save(file, "JPEG", exif=exif)
            extra.append(file.getvalue())
    return contents + extra


def compare_decoders(contents: list[bytes]) -> None:
    functions = decoders()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(ROUNDS + 1):
        for name, decode in functions.items():
            began = time.process_time()
            for content in contents:
                decode(content)
            if number:
                seconds[name].append((time.process_time() - began) / len(contents))
    first = next(iter(functions.values()))
    print("| decoder | CPU time per image (ms) | images with equal pixels |\n|---|--:|--:|")
    cases = variations(contents)
    for name, decode in functions.items():
        equal = sum(np.array_equal(decode(content), first(content)) for content in cases)
        print(f"| {name} | {1000 * statistics.median(seconds[name]):.2f} | {equal} of {len(cases)} |")


def main(root: Path) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = read_coco(root, "train2017", training=True, limit=IMAGES)
    theirs, blocks, ours_timed, theirs_timed = their_pipeline(data), [], [], []
    for _ in range(ROUNDS + 1):
        ours_timed.append(time_stages(data, SIZE, blocks))
        theirs_timed.append(theirs())
    for title, timed, stages in (
        ("workbench", ours_timed, WORKER),
        ("MMDetection 3.3.0", theirs_timed, tuple(theirs_timed[0])),
    ):
        total = statistics.median(sum(times[stage] for stage in stages) for times in timed[1:])
        parts = ", ".join(f"{s} {1000 * statistics.median(times[s] for times in timed[1:]):.2f}" for s in stages)
        print(f"{title}: {1 / total:.0f} images per second, {1000 * total:.2f} ms per image ({parts})")
    compare_decoders([record.path.read_bytes() for record in data.images])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
