"""Small data set in COCO's own folders for ``workbench data``, and readers of its output and its page."""

import json
import re
from html.parser import HTMLParser

from tests.commands.pictures import draw


class DataSet:
    """Small data set below a folder, written by ``write``; images are of one colour each, so that their bytes differ."""

    def __init__(self, root):
        self.root = root
        self.categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
        self.images = {"train2017": [], "val2017": []}
        self.annotations = {"train2017": [], "val2017": []}

    def add(self, split, *boxes, size=(100, 80), **options):
        """Add an image with boxes ``(category, x, y, w, h)``, or dictionaries with further keys; return its path."""
        number = len(self.images[split]) + 1
        name = f"{number}.png"
        colour = (number, 10 * len(self.images["val2017"]), 99 if split == "train2017" else 0)
        self.images[split].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for box in boxes:
            entry = box if isinstance(box, dict) else {"category_id": box[0], "bbox": list(box[1:])}
            entry = {"area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0} | entry
            self.annotations[split].append(entry | {"id": len(self.annotations[split]) + 1, "image_id": number})
        return draw(self.root / split / name, size, colour, compress_level=0, **options)

    def write(self, split=None, **changes):
        """Write the annotation files, or the file of one split with changed lists."""
        (self.root / "annotations").mkdir(parents=True, exist_ok=True)
        for name in [split] if split else self.images:
            lists = {"images": self.images[name], "annotations": self.annotations[name], "categories": self.categories}
            (self.root / f"annotations/instances_{name}.json").write_text(json.dumps(lists | changes))


def cells(output, name):
    """Numbers of a line of the first table."""
    (line,) = [line for line in output.splitlines() if re.match(rf"{re.escape(name)}  ", line)]
    return re.split(r" {2,}", line)[1:]


class Reader(HTMLParser):
    """Reader of a page: images, and addresses of any kind."""

    def __init__(self, text):
        super().__init__()
        self.images, self.addresses, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.addresses += [values[key] for key in ("src", "href", "srcset", "data") if key in values]
