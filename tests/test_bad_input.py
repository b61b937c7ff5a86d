"""Mistakes in data sets on the command line, and unusual data that train: annotations, images and classes.

Each mistake ends in one line that names the file and a remedy. No file is left with which a step would count as done.
"""

from __future__ import annotations

import shutil

import pytest

from tests.few_images import MINI
from tests.scene import (
    NOT_DETECTED,
    Scene,
    assert_one_line,
    document,
    emptied,
    entry,
    resized,
    swapped_names,
    truncated,
    twice,
    upside_down,
    without_category,
)

TRAIN, VAL = "instances_train2017.json: ", "instances_val2017.json: "
FIRST, SECOND, *_, LAST = MINI.categories

# Mistake: (command, damage to the scene, parts of the message).
MISTAKES = {
    "no data": ("train", lambda s: shutil.rmtree(s.root), ["data: no such data folder", "choose the folder"]),
    "no annotation file": ("train", lambda s: s.annotations().unlink(), [TRAIN, "no such annotation file; put"]),
    "no validation file": ("train", lambda s: s.annotations("val2017").unlink(), [VAL, "no such annotation file; put"]),
    "annotations truncated": ("train", truncated(Scene.annotations), [TRAIN, "incomplete; copy the file again"]),
    "annotations empty": ("train", lambda s: s.annotations().write_text(""), [TRAIN, "not valid JSON", "; copy"]),
    "annotations binary": ("train", lambda s: s.annotations().write_bytes(b"\xff\x00"), [TRAIN, "copy the file again"]),
    "annotations not COCO's": ("train", lambda s: s.annotations().write_text("{}"), [TRAIN, "no list 'images'; use"]),
    "image missing": ("train", lambda s: s.image().unlink(), ["{image}: no such image; copy it there or remove"]),
    "image truncated": ("train", truncated(Scene.image), ["{image}: not a readable", "copy or convert it again"]),
    "image empty": ("train", lambda s: s.image().write_text(""), ["{image}: not a readable", "copy or convert"]),
    "not an image": ("train", lambda s: s.image().write_text("text"), ["{image}: not a readable", "copy or convert"]),
    "image of another size": ("train", resized, ["{image}: the image has 50x40 pixels, but the annotations state"]),
    "validation image missing": ("train", lambda s: s.image("val2017").unlink(), ["val2017/", ": no such image; copy"]),
    "negative width": ("train", entry("annotations", id=901, bbox=[1, 2, -3, 4]), [TRAIN, "annotation 901", "correct"]),
    "NaN in a box": (
        "train",
        entry("annotations", id=901, bbox=[1, float("nan"), 3, 4]),
        [TRAIN, "annotation 901 has a box with NaN", "correct it"],
    ),
    "unknown image": (
        "train",
        entry("annotations", id=901, image_id=902),
        [TRAIN, "annotation 901 belongs to image 902", "add the image or remove the annotation"],
    ),
    "duplicate image id": ("train", twice("images"), [TRAIN, "image id ", " occurs 2 times; make the ids unique"]),
    "duplicate annotation id": ("train", twice("annotations"), [TRAIN, "annotation id ", "make the ids unique"]),
    "duplicate category id": (
        "train",
        document(lambda c: c["categories"].append(c["categories"][0] | {"name": "other"})),
        [TRAIN, "category id ", "make the ids unique"],
    ),
    "no images": ("train", emptied("images", "annotations"), [TRAIN, "no images are left", "check the file"]),
    "no annotations": ("train", emptied("annotations"), [TRAIN, "24 images without annotations", "check the file"]),
    "no categories": ("train", emptied("categories"), [TRAIN, "'categories' is empty", "; add at least one category"]),
    "other classes in validation": (
        "train",
        document(lambda c: (c["categories"].pop(), c["annotations"].clear()), "val2017"),
        [VAL, "instances_train2017.json has ", f"{LAST.id} '{LAST.name}'", "; give both the same categories"],
    ),
    "names of classes swapped in validation": (
        "train",
        document(swapped_names, "val2017"),
        [
            VAL,
            f"categories are {FIRST.id} '{SECOND.name}', {SECOND.id} '{FIRST.name}'",
            f"instances_train2017.json has {FIRST.id} '{FIRST.name}', {SECOND.id} '{SECOND.name}'",
        ],
    ),
    "names of classes swapped later": (
        "detect",
        document(swapped_names, "val2017"),
        [
            f"data: the categories are {FIRST.id} '{SECOND.name}', {SECOND.id} '{FIRST.name}'",
            f"was trained on {FIRST.id} '{FIRST.name}', {SECOND.id} '{SECOND.name}'",
            "; give both",
        ],
    ),
    "validation area is a list": (
        "train",
        entry("annotations", "val2017", area=[3]),
        [VAL, "has the 'area' [3]; use a"],
    ),
    "validation image truncated": (
        "train",
        truncated(lambda s: s.image("val2017")),
        ["/val2017/", ": not a readable", "copy or convert it again"],
    ),
    "test image missing": ("detect", lambda s: s.image("val2017").unlink(), ["val2017/", ": no such image; copy"]),
    "annotations truncated later": ("evaluate", truncated(lambda s: s.annotations("val2017")), NOT_DETECTED),
    "annotations removed later": (
        "evaluate",
        lambda s: s.annotations("val2017").unlink(),
        [VAL, "no such annotation file; put the annotations of val there"],
    ),
    "image removed later": (
        "evaluate",
        document(lambda c: c["images"].pop(), "val2017"),
        NOT_DETECTED,
    ),
    "categories removed later": (
        "evaluate",
        document(lambda c: c["categories"].clear(), "val2017"),
        NOT_DETECTED,
    ),
    "box damaged later": (
        "evaluate",
        entry("annotations", "val2017", bbox=[1, 2, float("nan"), 4]),
        NOT_DETECTED,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_no_result(mistake, scene, capfd):
    assert_one_line(scene, capfd, *MISTAKES[mistake])


UNUSUAL = {
    "box partly outside": (entry("annotations", bbox=[-5, -5, 30, 30]), ""),
    "box outside": (entry("annotations", bbox=[5000, 5, 30, 30]), "data: 1 annotations empty or outside their image"),
    "box without a width": (entry("annotations", bbox=[5, 5, 0, 30]), "data: 1 annotations empty or outside their"),
    "box outside in validation": (
        entry("annotations", "val2017", bbox=[5000, 5, 30, 30]),
        "validation data: 1 annotations empty or outside their image",
    ),
    "box of half a pixel": (entry("annotations", bbox=[5, 5, 0.5, 30]), "data: 1 annotations under 1 pixel"),
    "unknown category": (entry("annotations", category_id=999), "data: 1 annotations of unknown categories"),
    "category without annotations": (document(without_category), ""),
    "no annotations in validation": (document(lambda c: c["annotations"].clear(), "val2017"), "val AP n/a"),
    "area as text": (entry("annotations", "val2017", area="300"), "validation data: 'area' of "),
    "crowd as text": (entry("annotations", "val2017", iscrowd="0"), "validation data: 'iscrowd' of "),
    "byte order mark": (lambda s: s.annotations().write_bytes(b"\xef\xbb\xbf" + s.annotations().read_bytes()), ""),
    "half of a surrogate pair in a name": (
        lambda s: [entry("categories", split, name="a\ud800")(s) for split in ("train2017", "val2017")],
        "data: the name 'a\\ud800' contains half of a surrogate pair",
    ),
    "image turned by its EXIF tag": (upside_down, "data: 1 images are turned by their EXIF orientation"),
    "only one image with a box": (
        document(lambda c: c.update(annotations=c["annotations"][-1:])),
        "23 images without",
    ),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_data_train_and_are_reported(case, scene, capfd):
    spoil, expected = UNUSUAL[case]
    spoil(scene)
    scene.workbench("train")
    assert expected in capfd.readouterr().err
    assert (scene.seed / "model.safetensors").is_file()


def test_the_files_of_a_training_have_the_permissions_of_all_files(scene, tmp_path):
    scene.workbench("train")
    scene.workbench("detect")
    (tmp_path / "usual").write_text("")
    usual = (tmp_path / "usual").stat().st_mode
    files = [path for path in scene.run.rglob("*") if path.is_file()]
    assert {"model.safetensors", "last.pt", "train.json", "detections.json"} <= {path.name for path in files}
    assert not [path for path in files if path.stat().st_mode != usual and path.name != "lock"]
