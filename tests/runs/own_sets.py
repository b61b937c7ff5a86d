"""Small data sets of a user and scale files for them, and what a training reads of a data set."""

import hashlib
import json

from tests.commands.pictures import draw
from workbench.data.coco import read_coco
from workbench.settings.files import forget

ROOT = {"id": 0, "name": "animals", "supercategory": "none"}
CAT, DOG, OWL = ({"id": i, "name": n, "supercategory": "animals"} for i, n in ((1, "cat"), (2, "dog"), (5, "owl")))


def export(root, file, names, categories=(ROOT, CAT, DOG), used=(1, 2), images="."):
    """Write an annotation file, and pictures of 60x40 pixels that each have an object of some categories."""
    entries, annotations = [], []
    for number, name in enumerate(names):
        draw(root / images / name, (60, 40), tuple(hashlib.sha256(f"{file}{name}".encode()).digest()[:3]))
        entries.append({"id": number, "file_name": name, "width": 60, "height": 40})
        for id_ in used:
            box = {"id": len(annotations), "image_id": number, "category_id": id_, "bbox": [id_, 2, 20, 10 + number]}
            annotations.append(box)
    content = {"images": entries, "annotations": annotations, "categories": list(categories)}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root


def scale(folder, text, name="farm"):
    """Write a scale file that extends the scale bccd, and return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(f"extends: bccd\ntitle: a farm\n{text}\n")
    forget()
    return path


def contents(root, split):
    """Name, boxes and classes of each image, as a training or an evaluation reads them."""
    data = read_coco(root, split, training=split.startswith("train"))
    return {r.file_name: (r.boxes.tolist(), [data.class_names[i] for i in r.labels]) for r in data.images}


def rewrite(path, change):
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def with_test(hosted, boxes=(1, 2)):
    """The data set with a test split."""
    export(hosted / "test", "_annotations.coco.json", ("t.png",), used=boxes)
    return hosted
