"""One data set in eleven layouts: boxes, classes and splits are the drawn ones."""

import json
from pathlib import Path

import pytest

from workbench.commands.convert import convert
from workbench.data.annotations import read_annotations
from workbench.settings.layouts import find_layout
from workbench.support.errors import WorkbenchError


@pytest.fixture(scope="module")
def drawn(drawn_layouts):
    """All layouts, and the converted ones beside them."""
    for form in ("voc", "yolo", "createml", "labelme"):
        convert(form, drawn_layouts / form, drawn_layouts / f"{form}-coco", None)
    return drawn_layouts


RECOGNISED = ("coco2017", "split_folders", "hosted_export", "one_folder", "one_file", "default_subset", "bare_fields")


@pytest.mark.parametrize("name", [*RECOGNISED, "voc-coco", "yolo-coco", "createml-coco", "labelme-coco"])
def test_a_drawn_layout_has_the_true_boxes_classes_and_splits(drawn, name):
    expected = json.loads((drawn / "expected.json").read_text())
    layout = find_layout(drawn / name)
    if layout.whole:
        expected = {"all": {image: boxes for images in expected.values() for image, boxes in images.items()}}
    elif name == "coco2017":
        del expected["test"]
    assert layout.parts.keys() == expected.keys()
    for split, files in layout.parts.items():
        c = read_annotations(files.annotations)
        objects = {Path(n).stem.split("_jpg.")[0]: [] for n in c.file_names}
        names = list(objects)
        for image, label, box in zip(c.image_of, c.labels, c.boxes.tolist(), strict=True):
            objects[names[image]].append([c.class_names[label], *box])
        assert all((files.images / n).is_file() for n in c.file_names)
        assert objects.keys() == expected[split].keys()
        for image, true in expected[split].items():
            for one, other in zip(sorted(objects[image]), sorted(true), strict=True):
                assert one[0] == other[0]
                assert one[1:] == pytest.approx(other[1:], abs=0.001 if name == "yolo-coco" else 0)


@pytest.mark.parametrize("form", ["voc", "yolo", "createml", "labelme"])
def test_a_drawn_layout_of_another_tool_names_its_conversion(drawn, form):
    with pytest.raises(WorkbenchError, match=f"workbench convert {form} {drawn / form} {drawn / form}-coco$"):
        find_layout(drawn / form)
