"""Detection of objects in a user's own pictures: ``workbench predict``.

A picture that cannot be read is reported, and the other pictures are processed. A second call replaces the files of an
earlier call, and no other file. The command recognises its files by digests. A drawing contains the digest of its
pixels; ``images.json`` contains the digests of its own content and of ``detections.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from workbench.commands.own_files import digest, is_marked_png, marked_png, refuse_foreign
from workbench.commands.pictures import find_pictures, read_picture
from workbench.data import transforms
from workbench.data.coco import ImageRecord
from workbench.detectors.postprocess import to_original_pixels
from workbench.detectors.predictions import Detections
from workbench.report.figures.detections import draw_detections
from workbench.report.text import json_text, visible
from workbench.runs.folders import Training
from workbench.runs.load import TrainedRun, load_training
from workbench.support.arithmetic import set_precision
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import read_json, write_bytes_atomically

ENDING = ".detections.png"
LONGEST_NAME = 200  # bytes of a drawing's name; file systems allow 255
MARK = "workbench predict"  # key of the digest in a drawing, and author of images.json


def predict_images(
    paths: Sequence[Path], training: Training, out: Path, min_score: float
) -> Iterator[str | WorkbenchError]:
    """Detect objects in pictures; yield one line per picture, or the error of a picture that cannot be read.

    The files in ``out``:

    - ``<name>.detections.png`` for each picture, a drawing of its detections. ``<name>`` is the path of the picture
      below the deepest folder that contains all named files and folders.
    - ``detections.json``, COCO's results format: a list of ``{image_id, category_id, bbox, score, file_name}``.
      ``image_id`` counts the pictures from 1 in the order of the output, including pictures that cannot be read.
      ``bbox`` is ``[x, y, w, h]`` in pixels of the picture as shown, i.e. turned by its EXIF orientation.
    - ``images.json``, the pictures and the categories in the form of COCO's annotations:
      pycocotools reads both files with ``COCO("images.json").loadRes("detections.json")``.

    Nothing is written if no picture can be read.

    Args:
        paths: pictures, or folders of pictures, which are searched with their subfolders.
        training: training whose weights are used, on a GPU if there is one.
        out: folder to which the files are written.
        min_score: boxes with a lower score are left out.

    Raises:
        WorkbenchError: no picture is found, the run is not trained, or a file would replace another program's file.
            Nothing is written.
    """
    pictures, errors = find_pictures(paths, out, _is_own_drawing)
    drawings = [out / picture.name.with_name(_drawing_name(picture.name.name)) for picture in pictures]
    _check_lists(out)
    for drawing in drawings:
        refuse_foreign(drawing, _is_own_drawing, MARK)
    trained = load_training(training)
    set_precision(trained.experiment.training.detection_precision)
    trained.detector.to("cuda" if torch.cuda.is_available() else "cpu")
    yield from errors
    images, results = [], []
    for image_id, (picture, drawing) in enumerate(zip(pictures, drawings, strict=True), 1):
        try:
            image, detections = detect_picture(trained, picture.path, min_score)
            _write_drawing(drawing, _draw(trained, image, detections, min_score))
        except WorkbenchError as error:
            yield error
            continue
        name = json_text(picture.path)
        images.append({"id": image_id, "file_name": name, "width": image.width, "height": image.height})
        results += _entries(trained, detections, image_id, name)
        yield f"{visible(picture.path)}: {len(detections.scores)} objects; drawn picture: {visible(drawing)}"
    if images:
        _write_lists(out, trained, images, results)


def detect_picture(trained: TrainedRun, path: Path, min_score: float) -> tuple[Image.Image, Detections]:
    """Read a picture, and detect its objects on the detector's device; boxes are in pixels of the picture.

    Raises:
        WorkbenchError: the picture cannot be read, or the memory does not suffice.
    """
    image = read_picture(path)
    size = trained.experiment.image
    height, width = transforms.resized_size(image.height, image.width, size.long, size.short)
    record = ImageRecord(
        0, path.name, path, image.width, image.height, np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    )
    try:
        pixels = transforms.resize_image(torch.from_numpy(np.array(image)).permute(2, 0, 1), height, width)
        batch = transforms.collate([transforms.Sample(pixels, record.boxes, record.labels, record)])
        batch = batch.to(next(trained.detector.parameters()).device)
        (detections,) = to_original_pixels(trained.detector.detect(batch.images, batch.sizes), batch)
    except (MemoryError, RuntimeError) as error:  # torch raises RuntimeError if the memory does not suffice
        raise WorkbenchError(f"{visible(path)}: no detection ({one_line(error)}); scale the picture down") from None
    keep = detections.scores >= min_score
    return image, Detections(detections.boxes[keep], detections.scores[keep], detections.labels[keep])


def _entries(trained: TrainedRun, detections: Detections, image_id: int, name: str) -> list[dict[str, Any]]:
    """Return the detections of a picture in COCO's results format, with the name of the file."""
    corners = detections.boxes.double().round(decimals=2)
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).round(decimals=2)
    scores = detections.scores.double().round(decimals=4)
    return [
        {
            "image_id": image_id,
            "category_id": trained.category_ids[label],
            "bbox": box,
            "score": score,
            "file_name": name,
        }
        for box, score, label in zip(boxes.tolist(), scores.tolist(), detections.labels.tolist(), strict=True)
    ]


def _draw(trained: TrainedRun, image: Image.Image, detections: Detections, min_score: float) -> Image.Image:
    boxes, scores, labels = detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist()
    return draw_detections(image, boxes, scores, labels, trained.class_names, min_score=min_score)


def _drawing_name(name: str) -> str:
    """Return the name of a picture's drawing; a name that is too long for the file system is cut."""
    if len(os.fsencode(name)) <= LONGEST_NAME - len(ENDING):
        return name + ENDING
    start = os.fsencode(name)[: LONGEST_NAME - len(ENDING) - 9].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}{ENDING}"


def _write_drawing(path: Path, drawing: Image.Image) -> None:
    refuse_foreign(path, _is_own_drawing, MARK)
    write_bytes_atomically(path, marked_png(drawing, MARK))


def _write_lists(out: Path, trained: TrainedRun, images: list[dict], results: list[dict]) -> None:
    """Write ``images.json``, then ``detections.json``."""
    _check_lists(out)
    names = map(json_text, trained.class_names)
    categories = [{"id": id_, "name": name} for id_, name in zip(trained.category_ids, names, strict=True)]
    listed = json.dumps(results, indent=2).encode() + b"\n"
    earlier = out / "detections.json"  # stays if the command is killed between the two writes
    digests = {digest(listed)} | ({digest(earlier.read_bytes())} if earlier.is_file() else set())
    content = {"images": images, "annotations": [], "categories": categories, "detections.json": sorted(digests)}
    content["info"] = {"description": f"written by {MARK}", "sha256": digest(json.dumps(content).encode())}
    write_bytes_atomically(out / "images.json", json.dumps(content, indent=2).encode() + b"\n")
    write_bytes_atomically(out / "detections.json", listed)


def _is_own_drawing(path: Path) -> bool:
    """Return whether a file is an unchanged drawing of this command."""
    return path.name.endswith(ENDING) and path.is_file() and is_marked_png(path, MARK)


def _digests_of(out: Path) -> list[str]:
    """Return the digests of ``detections.json`` in ``images.json``; none if this command did not write the file."""
    path = out / "images.json"
    try:
        content = read_json(path, "pictures") if path.is_file() else None
        own_digest = content.pop("info")["sha256"]
        digests = content["detections.json"]
    except (WorkbenchError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return []
    return digests if own_digest == digest(json.dumps(content).encode()) else []


def _check_lists(out: Path) -> None:
    """Fail if ``images.json`` or ``detections.json`` exists and is not an unchanged file of this command."""
    digests = _digests_of(out)
    refuse_foreign(out / "images.json", lambda path: bool(digests), MARK)
    refuse_foreign(out / "detections.json", lambda path: digest(path.read_bytes()) in digests, MARK)
