"""Folders that are nearly a data set end in one line that states what was searched and what to do."""

import json
from pathlib import Path

import pytest

from tests.settings.made_sets import EACH, coco, make
from workbench.settings.layouts import find_layout, survey
from workbench.support.errors import WorkbenchError

VIA = {"a.jpg12": {"filename": "a.jpg", "size": 12, "regions": [], "file_attributes": {}}}


def voc(root):
    make(root, {"Annotations/a.xml": b"<annotation><object/></annotation>"}, "JPEGImages")


NEAR_MISSES = {
    "nothing there": (lambda root: None, "no such data folder; choose the folder of a data set"),
    "a file": (lambda root: root.write_text(""), "not a folder; name the folder of the data set"),
    "an empty folder": (lambda root: root.mkdir(), "an empty folder; choose the folder of a data set"),
    "images alone": (
        lambda root: make(root, {}, "images"),
        "no annotation file (looked for .json files here, in annotations/, and in folders named train, val, ",
    ),
    "other JSON files alone": (
        lambda root: make(root, {"package.json": {"name": 1}, "detections.json": [{"bbox": [1, 2, 3, 4]}]}, "images"),
        "no annotation file in COCO's format (detections.json is a list, not an object with 'images', package.json "
        "has no list 'images'); put the annotations there, such as annotations/instances_train.json, in COCO's",
    ),
    "a folder above": (
        lambda root: make(root, {"pets/result.json": EACH}, "pets/images"),
        "no data set, but one level below is {root}/pets; name it in place of {root}",
    ),
    "a folder above two": (
        lambda root: [make(root, {f"{n}/result.json": EACH}, f"{n}/images") for n in "ab"],
        "no data set, but one level below is {root}/a, {root}/b; name one of them in place of {root}",
    ),
    "a folder above COCO's own": (
        lambda root: make(
            root / "coco",
            {f"annotations/instances_{s}2017.json": EACH for s in ("train", "val")},
            *("train2017", "val2017"),
        ),
        "one level below is {root}/coco; name it",
    ),
    "val without its file": (
        lambda root: make(root, {"annotations/instances_train.json": EACH}, "images/train", "images/val"),
        "{root}/annotations/instances_val.json: no such annotation file; put the annotations of val there (looked in "
        "annotations/ for .json files with val in the name of the file or its folder)",
    ),
    "val without its file in its folder": (
        lambda root: make(root, {"train/_annotations.coco.json": EACH}, "train", "valid"),
        "{root}/valid/_annotations.coco.json: no such annotation file; put the annotations of val there (looked in tr",
    ),
    "trainval and val": (
        lambda root: make(root, {"trainval.json": EACH, "val.json": EACH}, "images"),
        "{root}/train.json: no such annotation file; put the annotations of train there",
    ),
    "val alone": (
        lambda root: make(root, {"annotations/val.json": EACH}, "val"),
        "{root}/annotations/train.json: no such annotation file; put the annotations of train there",
    ),
    "valid alone": (
        lambda root: make(root, {"valid/_annotations.coco.json": EACH}, "valid"),
        "{root}/train/_annotations.coco.json: no such annotation file; put the annotations of train there",
    ),
    "test alone": (
        lambda root: make(root, {"test/_annotations.coco.json": EACH}, "test"),
        "{root}/train/_annotations.coco.json: no such annotation file; put the annotations of train there",
    ),
    "val and a file without a split": (
        lambda root: make(root, {"labels.json": EACH, "val.json": EACH}, "images"),
        "{root}/train.json: no such annotation file; put the annotations of train there (looked in ./ for .json files "
        "with train in the name of the file or its folder; the name of labels.json states no split)",
    ),
    "train and a file without a split": (
        lambda root: make(root, {"train.json": EACH, "holdout.json": EACH}, "images"),
        "{root}/holdout.json: its name states no split, and train.json is train alone; write val in its name if it is",
    ),
    "train and test": (
        lambda root: make(root, {"train.json": EACH, "test.json": EACH}, "images"),
        "annotations of train and test, but none of val, on which a training is validated; to use test for it, write "
        "val for test in the name of test.json, or move some images of train to a split val",
    ),
    "val is a list of detections": (
        lambda root: make(root, {"train.json": EACH, "val.json": [{"bbox": [1, 2, 3, 4]}]}, "images"),
        "{root}/val.json: is a list, not an object with 'images'; copy the file again, in COCO's instances format",
    ),
    "val was cut": (
        lambda root: make(root, {"train.json": EACH, "val.json": json.dumps(EACH).encode()[:-9]}, "images"),
        "{root}/val.json: not valid JSON, probably incomplete; copy the file again",
    ),
    "val was cut, and another file states no split": (
        lambda root: make(root, {"labels.json": EACH, "train.json": b"{", "val.json": b"{"}, "images"),
        "{root}/train.json: not valid JSON, probably incomplete; copy the file again",
    ),
    "the only file was cut": (
        lambda root: make(root, {"result.json": b'{"images": ['}, "images"),
        "{root}/result.json: not valid JSON, probably incomplete; copy",
    ),
    "two files of train": (
        lambda root: make(root, {f"annotations/{n}.json": EACH for n in ("instances_train", "train", "val")}, "images"),
        "{root}: 2 annotation files for train, annotations/instances_train.json and annotations/train.json; keep one",
    ),
    "two files without splits": (
        lambda root: make(root, {"a.json": EACH, "b.json": EACH}, "images"),
        "{root}: 2 annotation files whose names state no split, a.json and b.json; keep one of them, or add the split",
    ),
    "two folders of images": (
        lambda root: make(root, {"train.json": EACH, "val.json": EACH}, "photos", "copy"),
        "{root}/train.json: its images, such as 'a.jpg', are in copy and in photos; keep one of these folders",
    ),
    "images elsewhere": (
        lambda root: make(root, {"annotations/train.json": EACH, "annotations/val.json": EACH}, "train", "val/x/y"),
        "{root}/annotations/val.json: the image 'a.jpg' does not exist (looked in {root} and its folders annotations, val, "
        "val/x); put the images into one of them, or into images/val",
    ),
    "names with another folder in front": (
        lambda root: make(root, {"result.json": coco("home/me/a.jpg")}, "images"),
        "{root}/result.json: the image 'home/me/a.jpg' does not exist, but images/a.jpg does; remove 'home/me/' from "
        "file_name, or move the images",
    ),
    "images of val in the folder of train, which has others of these names": (
        lambda root: make(root, {"train.json": EACH, "val.json": EACH}, "train"),
        "{root}/val.json: the image 'a.jpg' does not exist",
    ),
    "voc": (voc, "a data set in the format of Pascal VOC (Annotations/a.xml), not of COCO; convert it: workbench "),
    "voc one level below": (
        lambda root: voc(root / "VOC2007"),
        "convert it: workbench convert voc {root}/VOC2007 {root}/V",
    ),
    "voc beside the images": (
        lambda root: make(root, {"train/a.xml": b"<annotation></annotation>"}, "train"),
        "convert it: workbench convert voc {root} {root}-coco",
    ),
    "yolo": (
        lambda root: make(root, {"data.yaml": b"names: [cat]", "train/labels/a.txt": b"0 0 0 1 1"}, "train/images"),
        "the format of YOLO (data.yaml), not of COCO; convert it: workbench convert yolo {root} {root}-coco",
    ),
    "yolo without its settings": (
        lambda root: make(root, {"labels/train/a.txt": b"0 0 0 1 1"}, "images/train"),
        "(labels/train/a.txt), not of COCO; add data.yaml with names, train and val, then convert it: workbench con",
    ),
    "createml": (
        lambda root: make(root, {"train/_annotations.createml.json": [{"image": "a", "annotations": []}]}, "train"),
        "convert it: workbench convert createml {root} {root}-coco",
    ),
    "VIA's annotations": (
        lambda root: make(root, {"train/via_region_data.json": VIA}, "train"),
        "the format of VIA (train/via_region_data.json), not of COCO; export it from VIA in COCO's format",
    ),
    "VIA's project": (
        lambda root: make(root, {"cells.json": {"_via_settings": {}, "_via_img_metadata": VIA}}, "images"),
        "the format of VIA (cells.json), not of COCO; export it from VIA in COCO's format",
    ),
    "Supervisely's project": (
        lambda root: make(root, {"meta.json": {"classes": [], "projectType": "images"}}, "ds0/img"),
        "the format of Supervisely (meta.json), not of COCO; export it from Supervisely in COCO's format",
    ),
    "a data set of Supervisely's project": (
        lambda root: make(root, {"ann/a.jpg.json": {"objects": [{"classTitle": "cat"}], "size": {}}}, "img"),
        "the format of Supervisely (ann/a.jpg.json), not of COCO; export it from Supervisely in COCO's format",
    ),
    "YOLO beside a project of VIA": (
        lambda root: make(root, {"data.yaml": b"names: [cat]", "via.json": {"_via_settings": {}}}, "train/images"),
        "the format of YOLO (data.yaml), not of COCO; convert it: workbench convert yolo {root} {root}-coco",
    ),
    "train in COCO's format and val in VIA's": (
        lambda root: make(root, {"train/a.json": EACH, "val/a.json": VIA}, "train", "val"),
        "{root}/val/a.json: has no list 'images'; copy the file again, in COCO's instances format",
    ),
    "dev beside train": (
        lambda root: make(root, {f"{s}/_annotations.coco.json": EACH for s in ("train", "dev")}, "train", "dev"),
        "{root}/dev/_annotations.coco.json: the name of its folder states no split, and there are no annotations of val; "
        "rename the folder to val if it is the other split, else move it out of the data set",
    ),
    "dev beside train and test": (
        lambda root: make(root, {f"{s}/a.json": EACH for s in ("train", "dev", "test")}, "train", "dev", "test"),
        "{root}/dev/a.json: the name of its folder states no split, and there are no annotations of val; rename",
    ),
    "more JSON files than are opened": (
        lambda root: make(root, {f"{i:02}.json": {"name": i} for i in range(50)} | {"pets.json": EACH}, "images"),
        "03.json has no list 'images'; of the 51 .json files in ./, 40 are opened); put the annotations there, such as "
        "annotations/instances_train.json, in COCO's instances format, or write annotations in the name of the annotati",
    ),
    "labelme": (
        lambda root: make(root, {"a.json": {"shapes": [], "imagePath": "a.jpg"}}, "."),
        "the format of labelme (a.json), not of COCO; convert it: workbench convert labelme {root} {root}-coco",
    ),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_a_near_miss_is_one_line_that_states_what_to_do(case, tmp_path):
    spoil, message = NEAR_MISSES[case]
    root = tmp_path / "set"
    spoil(root)
    with pytest.raises(WorkbenchError) as caught:
        find_layout(root)
    text = str(caught.value)
    assert message.replace("{root}", str(root)) in text
    assert text.startswith(str(root))
    assert len(text.splitlines()) == 1


def test_the_command_for_a_conversion_can_be_typed_for_any_folder(tmp_path, monkeypatch):
    voc(tmp_path / "my cells")
    with pytest.raises(
        WorkbenchError, match=f"workbench convert voc '{tmp_path}/my cells' '{tmp_path}/my cells-coco'$"
    ):
        find_layout(tmp_path / "my cells")
    monkeypatch.chdir(tmp_path / "my cells")
    with pytest.raises(WorkbenchError, match=r"workbench convert voc \. './../my cells-coco'$"):
        find_layout(Path("."))


def test_faults_of_one_split_leave_the_others(tmp_path):
    make(tmp_path, {"train.json": EACH, "val.json": coco("lost.jpg"), "test.json": b"{"}, "images")
    layout, faults = survey(tmp_path)
    assert layout.parts.keys() == {"train"}
    assert [str(fault).split(":")[0] for fault in faults] == [f"{tmp_path}/val.json", f"{tmp_path}/test.json"]


def test_a_missing_train_is_the_only_fault_beside_test(tmp_path):
    assert len(survey(make(tmp_path, {"test.json": EACH}, "images"))[1]) == 1


def test_a_file_of_many_is_found_by_a_word_in_its_name(tmp_path):
    make(tmp_path, {f"{i:02}.json": {"name": i} for i in range(50)} | {"pets_annotations.json": EACH}, "images")
    assert find_layout(tmp_path).whole.annotations == tmp_path / "pets_annotations.json"


def test_a_folder_beside_train_without_annotations_is_no_split(tmp_path):
    make(tmp_path, {"train/a.json": EACH, "dev/notes.json": {"by": "me"}}, "train", "dev")
    assert find_layout(tmp_path).whole.annotations == tmp_path / "train/a.json"


def test_only_one_level_is_searched_below_a_folder_without_a_data_set(tmp_path):
    make(tmp_path, {"a/b/result.json": EACH}, "a/b/images")
    with pytest.raises(WorkbenchError, match="no annotation file"):
        find_layout(tmp_path)
