"""Small data sets in temporary folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def document() -> dict:
    """Valid annotation file with two categories and two images, one annotation each."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2)],
        "annotations": [
            {"id": 10 + i, "image_id": i, "category_id": i, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a document (or text or bytes) as the annotations of a split and returns the root.

    With ``images`` it also draws the images; otherwise the image files are empty.
    """

    def write(document: dict | str | bytes, *, images: bool = False, split: str = "train2017") -> Path:
        root = tmp_path / "set"
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        content = document if isinstance(document, str | bytes) else json.dumps(document)
        content = content.encode() if isinstance(content, str) else content
        (root / "annotations" / f"instances_{split}.json").write_bytes(content)
        (root / split).mkdir(exist_ok=True)
        entries = [] if isinstance(document, str | bytes) else document.get("images", [])
        for image in entries:
            if isinstance(image, dict) and isinstance(image.get("file_name"), str):
                (root / split / image["file_name"]).touch()
        for image in entries if images else ():
            pixels = np.random.default_rng(image["id"]).integers(0, 256, (image["height"], image["width"], 3), np.uint8)
            Image.fromarray(pixels).save(root / split / image["file_name"], quality=95)
        return root

    return write
