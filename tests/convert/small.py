"""Small data sets in the formats of other tools, written by hand, and their conversion."""

import json
from pathlib import Path

import pytest
from PIL import Image

from workbench.commands.convert import convert
from workbench.support.errors import WorkbenchError

SIZE = (40, 30)


def save_image(path, size=SIZE, orientation=None):
    """Save an image with a colour of its own, and an EXIF orientation if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    colour = tuple(sum(map(ord, str(path))) * factor % 256 for factor in (1, 3, 7))
    Image.new("RGB", size, colour).save(path, format="JPEG", exif=exif)


def voc_object(name, box, difficult=0):
    """XML of an object with the corners ``xmin, ymin, xmax, ymax``."""
    corners = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def save_xml(path, *objects, size=SIZE, filename=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"<filename>{filename}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
    path.write_text(f"<annotation>{head}{''.join(objects)}</annotation>", encoding="utf-8")


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def save_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def converted(form, root, counted_from=None):
    """Convert a data set, and return its objects and the report.

    Returns:
        ``{split: {file name: [[class, x, y, w, h], …]}}``, and the report.
    """
    out = Path(root).with_name("converted")
    report = convert(form, root, out, counted_from)
    return objects_of(out), report


def refused(form, root, damage, message):
    """Damage a data set with a function of its folder; its conversion must state the fault and write nothing."""
    damage(root)
    with pytest.raises(WorkbenchError) as caught:
        converted(form, root)
    assert message in str(caught.value)
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def objects_of(out):
    """Objects of a converted data set; its images must be in their folders."""
    result = {}
    for file in sorted((out / "annotations").iterdir()):
        split = file.stem.removeprefix("instances_").removesuffix("2017")
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        images = {entry["id"]: entry["file_name"] for entry in content["images"]}
        result[split] = {name: [] for name in images.values()}
        for entry in content["annotations"]:
            result[split][images[entry["image_id"]]].append([names[entry["category_id"]], *entry["bbox"]])
        folder = out / ("images/default" if split == "default" else f"{split}2017")
        stored = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert stored == set(images.values())
    return result
