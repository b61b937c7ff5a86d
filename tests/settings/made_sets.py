"""Small data sets in the layouts of exporters, without readable images."""

import json
import os

from workbench.settings.layouts import find_layout

NAMES = ("a.jpg", "b.jpg")


def coco(*names, **lists):
    """Annotation file with images of these names."""
    images = [{"id": i, "file_name": name, "width": 9, "height": 9} for i, name in enumerate(names)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 2, 2]} for i in range(len(images))]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]} | lists


def make(root, files, *folders, names=NAMES):
    """Make a data set: JSON files by their paths (content, or bytes), and folders with images."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for folder in folders:
        for name in names:
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(b"an image")
    return root


def recognised(root):
    """Name of the layout, and ``annotations → images`` of each part, as paths below the root."""
    layout = find_layout(root)
    parts = {
        split: " → ".join(os.path.relpath(path, root) for path in (files.annotations, files.images))
        for split, files in layout.parts.items()
    }
    return layout.name, parts


EACH = coco(*NAMES)
