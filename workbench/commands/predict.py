"""Detect objects in a user's own pictures with a trained run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from workbench.data import transforms
from workbench.data.coco import ImageRecord
from workbench.detectors.postprocess import to_original_pixels
from workbench.detectors.predictions import Detections
from workbench.report.figures.detections import draw_detections
from workbench.runs.load import TrainedRun, load_run
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def predict_images(paths: list[Path], run: Path, seed: int | str, out: Path, min_score: float) -> Iterator[str]:
    """Write each picture with its detections drawn and one ``detections.json``; yields a line a picture.

    Args:
        paths: pictures, or folders of pictures.
        run: folder of a trained run.
        out: folder to write to.
        min_score: boxes below it are left out.
    """
    trained = load_run(run, seed)
    said = []
    for path in _pictures(paths):
        image, found = detect_picture(trained, path)
        keep = found.scores >= min_score
        boxes, scores, labels = found.boxes[keep], found.scores[keep], found.labels[keep]
        drawn = draw_detections(
            image, boxes.tolist(), scores.tolist(), labels.tolist(), trained.class_names, min_score=min_score
        )
        out.mkdir(parents=True, exist_ok=True)
        target = out / f"{path.stem}.png"
        drawn.save(target)
        said += [
            {
                "file": str(path),
                "class": trained.class_names[label],
                "score": round(score, 4),
                "box": [round(v, 1) for v in box],
            }
            for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
        ]
        yield f"{path}: {len(boxes)} objects, drawn in {target}"
    write_json_atomically(out / "detections.json", said)


def detect_picture(trained: TrainedRun, path: Path) -> tuple[Image.Image, Detections]:
    """A picture and its detections in its own pixels."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise WorkbenchError(f"{path}: not a readable picture ({error})") from None
    size = trained.experiment.image
    height, width = transforms.resized_size(image.height, image.width, size.long, size.short)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    record = ImageRecord(
        0, path.name, path, image.width, image.height, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    )
    batch = transforms.collate(
        [transforms.Sample(transforms.resize_image(pixels, height, width), record.boxes, record.labels, record)]
    )
    (detections,) = to_original_pixels(trained.detector.detect(batch.images, batch.sizes), batch)
    return image, detections


def _pictures(paths: list[Path]) -> list[Path]:
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise WorkbenchError(f"{path}: no such file or folder")
    if not found:
        raise WorkbenchError(f"{', '.join(map(str, paths))}: no picture there ({', '.join(sorted(SUFFIXES))})")
    return found
