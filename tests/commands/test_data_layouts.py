"""``workbench data`` on the layouts of exporters: all splits are described, and near misses are one line."""

import json

import pytest

from tests.commands.made_data import cells
from tests.commands.pictures import draw

CATEGORIES = [
    {"id": 0, "name": "animals", "supercategory": "none"},
    {"id": 1, "name": "cat", "supercategory": "animals"},
    {"id": 2, "name": "dog", "supercategory": "animals"},
]


def export(folder, file, *names, categories=CATEGORIES, split="train"):
    """Write images of 60x40 pixels, each with a cat and a dog, and their annotation file."""
    images, annotations = [], []
    for number, name in enumerate(names):
        draw(folder / name, (60, 40), (number, len(split), ord(split[0])))
        images.append({"id": number, "file_name": name, "width": 60, "height": 40})
        boxes = [{"image_id": number, "category_id": k, "bbox": [k, k, 20 + number, 10]} for k in (1, 2)]
        annotations += [box | {"id": len(annotations) + k} for k, box in enumerate(boxes)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture
def hosted(tmp_path):
    """Export with a folder for each split and a root category."""
    root = tmp_path / "pets"
    for split, names in (("train", ("a.png", "b.png")), ("valid", ("c.png",)), ("test", ("d.png",))):
        export(root / split, root / split / "_annotations.coco.json", *names, split=split)
    return root


def test_all_splits_are_columns(call, hosted, tmp_path):
    code, out, err = call(hosted, "--scale", "bccd", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "Files: a folder for each split\n" in out
    assert cells(out, "train") == ["train/_annotations.coco.json", "train"]
    assert cells(out, "val") == ["valid/_annotations.coco.json", "valid"]
    assert cells(out, "images") == ["2", "1", "1"]
    assert cells(out, "objects (boxes to learn or to test)") == ["4", "2", "2"]
    page = (tmp_path / "out/data.html").read_text()
    assert page.count("<img") == 4
    assert "valid/_annotations.coco.json" in page
    assert "objects, test" in page


def test_a_root_category_is_noted_and_not_counted(call, hosted):
    _, out, _ = call(hosted, "--scale", "bccd")
    assert "note: category 'animals' has no objects and is the supercategory of all others; without it, there " in out
    assert "there are 2 classes\n" in out
    assert "warning: " not in out


def test_a_category_without_objects_that_is_not_the_root_stays(call, tmp_path):
    others = [CATEGORIES[0] | {"name": "wolf"}, *CATEGORIES[1:]]
    export(tmp_path / "x/images", tmp_path / "x/labels.json", "a.png", categories=others)
    _, out, _ = call(tmp_path / "x", "--scale", "bccd")
    assert "classes without objects: 1 of 3 (wolf)" in out
    assert "supercategory" not in out


def test_a_set_without_splits_is_one_column(call, tmp_path):
    export(tmp_path / "x/images/default", tmp_path / "x/annotations/instances_default.json", "a.png", "b.png")
    code, out, err = call(tmp_path / "x", "--scale", "bccd")
    assert (code, err) == (0, "")
    assert "Files: one annotation file without splits\n" in out
    assert cells(out, "all") == ["annotations/instances_default.json", "images/default"]
    assert cells(out, "images") == ["2"]
    assert cells(out, "images also in another split (equal bytes)") == ["–"]


def test_equal_images_are_found_between_any_two_splits(call, hosted):
    for split in ("valid", "test"):
        (hosted / split / "twin.png").write_bytes((hosted / "train/a.png").read_bytes())
        content = json.loads((hosted / split / "_annotations.coco.json").read_text())
        content["images"].append({"id": 9, "file_name": "twin.png", "width": 60, "height": 40})
        (hosted / split / "_annotations.coco.json").write_text(json.dumps(content))
    _, out, _ = call(hosted, "--scale", "bccd")
    assert cells(out, "images also in another split (equal bytes)") == ["1", "1", "1"]
    pairs = [line.split("(first: ")[1].split(");")[0] for line in out.splitlines() if "byte for byte" in line]
    assert pairs == ["val/twin.png = train/a.png", "test/twin.png = train/a.png", "test/twin.png = val/twin.png"]


def test_a_split_that_is_missing_is_a_fault_beside_the_description(call, hosted):
    (hosted / "valid/_annotations.coco.json").unlink()
    code, out, err = call(hosted, "--scale", "bccd")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"workbench: {hosted}/valid/_annotations.coco.json: no such annotation file; put the annot")
    assert cells(out, "images") == ["2", "1"]


def test_other_categories_of_the_test_split_are_a_fault(call, hosted):
    export(hosted / "test", hosted / "test/_annotations.coco.json", "d.png", categories=CATEGORIES[1:], split="test")
    code, _, err = call(hosted, "--scale", "bccd")
    assert code == 1
    assert "but ../train/_annotations.coco.json has 0 'animals', 1 'cat', 2 'dog' (3 in total); give both the" in err


def test_a_layout_of_another_tool_is_one_line(call, tmp_path):
    (tmp_path / "x/Annotations").mkdir(parents=True)
    (tmp_path / "x/Annotations/a.xml").write_text("<annotation></annotation>")
    code, out, _ = call(tmp_path / "x", "--scale", "bccd")
    assert str(code).endswith(f"convert it: workbench convert voc {tmp_path}/x {tmp_path}/x-coco")
    assert out == ""


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train",)])
def test_a_converted_set_is_described(call, tmp_path, splits):
    from workbench.commands.convert import convert

    for split in splits:
        draw(tmp_path / f"voc/{split}/{split}.png", (60, 40), (1, 2, len(split)))
        corners = "<xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax>"
        text = f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
        (tmp_path / f"voc/{split}/{split}.xml").write_text(text)
    convert("voc", tmp_path / "voc", tmp_path / "out", None)
    code, out, _ = call(tmp_path / "out", "--scale", "bccd")
    assert code == 0
    assert cells(out, "images") == ["1"] * len(splits)
