"""Layouts of data sets on disk: those of common exporters are recognised."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.settings.made_sets import EACH, NAMES, coco, make, recognised
from workbench.settings.layout_files import read_categories, split_of
from workbench.settings.layouts import COCO, FILE_EACH, FOLDER_EACH, ONE_FILE, TRAIN_ONLY, find_layout

LAYOUTS = {
    "COCO": (
        {f"annotations/instances_{s}2017.json": EACH for s in ("train", "val", "test")}
        | {"annotations/image_info_test-dev2017.json": {"images": [], "categories": []}}
        | {f"annotations/{kind}_{s}2017.json": EACH for kind in ("captions", "stuff") for s in ("train", "val")},
        ["train2017", "val2017", "test2017"],
        COCO,
        {s: f"annotations/instances_{s}2017.json → {s}2017" for s in ("train", "val", "test")},
    ),
    "COCO of 2014 with files for other tasks": (
        {f"annotations/{k}_{s}2014.json": EACH for k in ("instances", "person_keypoints") for s in ("train", "val")},
        ["train2014", "val2014"],
        FILE_EACH,
        {s: f"annotations/instances_{s}2014.json → {s}2014" for s in ("train", "val")},
    ),
    "folders of two years with equal names": (
        {f"annotations/instances_{s}2017.json": EACH for s in ("train", "val")},
        ["images/train2014", "images/train2017", "images/val2014", "images/val2017"],
        FILE_EACH,
        {s: f"annotations/instances_{s}2017.json → images/{s}2017" for s in ("train", "val")},
    ),
    "COCO's names below images": (
        {f"annotations/instances_{s}2017.json": EACH for s in ("train", "val")},
        ["images/train2017", "images/val2017"],
        FILE_EACH,
        {s: f"annotations/instances_{s}2017.json → images/{s}2017" for s in ("train", "val")},
    ),
    "annotation server, subsets with capitals": (
        {f"annotations/instances_{s}.json": EACH for s in ("Train", "Validation", "Test")},
        ["images/Train", "images/Validation", "images/Test"],
        FILE_EACH,
        {
            "train": "annotations/instances_Train.json → images/Train",
            "val": "annotations/instances_Validation.json → images/Validation",
            "test": "annotations/instances_Test.json → images/Test",
        },
    ),
    "annotation server, one subset": (
        {"annotations/instances_default.json": EACH},
        ["images/default"],
        ONE_FILE,
        {"all": "annotations/instances_default.json → images/default"},
    ),
    "annotation server, images without a subset": (
        {"annotations/instances_default.json": EACH},
        ["images"],
        ONE_FILE,
        {"all": "annotations/instances_default.json → images"},
    ),
    "hosted export": (
        {f"{s}/_annotations.coco.json": EACH for s in ("train", "valid", "test")},
        ["train", "valid", "test"],
        FOLDER_EACH,
        {s: f"{f}/_annotations.coco.json → {f}" for s, f in (("train", "train"), ("val", "valid"), ("test", "test"))},
    ),
    "hosted export without test": (
        {f"{s}/_annotations.coco.json": EACH for s in ("train", "valid")},
        ["train", "valid"],
        FOLDER_EACH,
        {"train": "train/_annotations.coco.json → train", "val": "valid/_annotations.coco.json → valid"},
    ),
    "hosted export of train alone": (
        {"train/_annotations.coco.json": EACH},
        ["train"],
        TRAIN_ONLY,
        {"all": "train/_annotations.coco.json → train"},
    ),
    "labelling tool": (
        {"result.json": coco("images/a.jpg", "images/b.jpg")},
        ["images"],
        ONE_FILE,
        {"all": "result.json → ."},
    ),
    "labelling tool on Windows": (
        {"result.json": coco("images\\a.jpg", "images\\b.jpg")},
        ["images"],
        ONE_FILE,
        {"all": "result.json → ."},
    ),
    "viewer of data sets": ({"labels.json": EACH}, ["data"], ONE_FILE, {"all": "labels.json → data"}),
    "viewer of data sets, with splits": (
        {f"{s}/labels.json": EACH for s in ("train", "validation")},
        ["train/data", "validation/data"],
        FOLDER_EACH,
        {"train": "train/labels.json → train/data", "val": "validation/labels.json → validation/data"},
    ),
    "a file in each folder, and another tool's file": (
        {f"{s}/annotation_coco.json": EACH for s in ("train", "val")}
        | {f"{s}/via_region_data.json": {"a.jpg": {"regions": []}} for s in ("train", "val")},
        ["train", "val"],
        FOLDER_EACH,
        {s: f"{s}/annotation_coco.json → {s}" for s in ("train", "val")},
    ),
    "trainval and test": (
        {"annotations/trainval.json": EACH, "annotations/test.json": EACH},
        ["images"],
        FILE_EACH,
        {"train": "annotations/trainval.json → images", "val": "annotations/test.json → images"},
    ),
    "trainval beside its parts": (
        {f"{s}.json": EACH for s in ("trainval", "train", "val", "all")},
        ["images"],
        FILE_EACH,
        {"train": "train.json → images", "val": "val.json → images"},
    ),
    "a file of any name beside the images": (
        {"My Labels (2).json": EACH, "package.json": {"name": "x"}, "detections.json": [{"image_id": 1}]},
        ["."],
        ONE_FILE,
        {"all": "My Labels (2).json → ."},
    ),
    "names with folders": (
        {"train.json": coco("train/a.jpg"), "val.json": coco("val/a.jpg")},
        ["images/train", "images/val"],
        FILE_EACH,
        {"train": "train.json → images", "val": "val.json → images"},
    ),
    "masks with the names of the images": (
        {f"{s}.json": EACH for s in ("train", "val")},
        ["images", "masks", "depth"],
        FILE_EACH,
        {s: f"{s}.json → images" for s in ("train", "val")},
    ),
    "masks in each split": (
        {f"annotations/{s}.json": EACH for s in ("train", "val")},
        ["masks/train", "images/train", "masks/val", "images/val"],
        FILE_EACH,
        {s: f"annotations/{s}.json → images/{s}" for s in ("train", "val")},
    ),
    "all below a folder of data": (
        {f"data/annotations/{s}.json": EACH for s in ("train", "val")},
        ["data/images/train", "data/images/val"],
        FILE_EACH,
        {s: f"data/annotations/{s}.json → data/images/{s}" for s in ("train", "val")},
    ),
    "equal names in the splits": (
        {"train.json": EACH, "val.json": EACH},
        ["train", "val"],
        FILE_EACH,
        {"train": "train.json → train", "val": "val.json → val"},
    ),
    "both splits in the folder of train": (
        {"train.json": coco("a.jpg"), "val.json": coco("b.jpg")},
        ["train"],
        FILE_EACH,
        {"train": "train.json → train", "val": "val.json → train"},
    ),
    "images of train and test, annotations of train": (
        {"train.json": EACH},
        ["train", "test"],
        TRAIN_ONLY,
        {"all": "train.json → train"},
    ),
    "the first image is missing": (
        {"train.json": coco("lost.jpg", "a.jpg"), "val.json": EACH},
        ["images"],
        FILE_EACH,
        {"train": "train.json → images", "val": "val.json → images"},
    ),
    "annotations of train2014 without images": (
        {f"annotations/instances_{s}.json": coco(f"{s}.jpg") for s in ("train2014", "train2017", "val2017")},
        ["images"],
        FILE_EACH,
        {s: f"annotations/instances_{s}2017.json → images" for s in ("train", "val")},
    ),
    "UTF-16 and a byte order mark": (
        {"train.json": json.dumps(EACH).encode("utf-16"), "val.json": json.dumps(EACH).encode("utf-8-sig")},
        ["images"],
        FILE_EACH,
        {"train": "train.json → images", "val": "val.json → images"},
    ),
    "other files of test": (
        {f"annotations/instances_{s}.json": EACH for s in ("train", "val")}
        | {"annotations/image_info_test.json": {"images": []}, "test_results.json": [{"bbox": [1, 2, 3, 4]}]},
        ["images"],
        FILE_EACH,
        {s: f"annotations/instances_{s}.json → images" for s in ("train", "val")},
    ),
    "no image in a file": (
        {"annotations/train.json": EACH, "annotations/val.json": coco()},
        ["train", "val"],
        FILE_EACH,
        {"train": "annotations/train.json → train", "val": "annotations/val.json → val"},
    ),
}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("TrainSet", "train"),
        ("trainimages", "train"),
        ("VALID", "val"),
        ("pets-validation_2", "val"),
        ("test-dev2017", "test"),
        ("train_val", "trainval"),
        ("VOC07trainval", "trainval"),
        ("train-test", None),
        ("latest", None),
        ("constraint", None),
    ],
)
def test_words_in_a_name_state_the_split(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_layout_is_recognised(case, tmp_path):
    files, folders, name, parts = LAYOUTS[case]
    names = ("train2017.jpg", "val2017.jpg") if "2014 without" in case else NAMES
    assert recognised(make(tmp_path / "set", files, *folders, names=names)) == (name, parts)


def test_a_file_among_the_files_of_each_image_is_found(tmp_path):
    files = {f"{i:03}.json": {"shapes": [], "imagePath": f"{i:03}.jpg"} for i in range(100)}
    make(tmp_path, files | {"pets.json": coco("001.jpg")}, ".", names=[f"{i:03}.jpg" for i in range(100)])
    assert recognised(tmp_path) == (ONE_FILE, {"all": "pets.json → ."})


def test_hidden_files_and_leftovers_of_archives_are_not_seen(tmp_path):
    files, folders, _, parts = LAYOUTS["hosted export"]
    make(tmp_path, files, *folders)
    make(tmp_path, {"train/._annotations.coco.json": b"\0\5", "__MACOSX/train/x.json": EACH, ".train/x.json": EACH})
    assert recognised(tmp_path)[1] == parts


def test_links_to_the_files_of_a_split_are_one_candidate(tmp_path):
    make(
        tmp_path, {"train/_annotations.coco.json": EACH, "annotations/instances_val.json": EACH}, "train", "images/val"
    )
    (tmp_path / "annotations/instances_train.json").symlink_to("../train/_annotations.coco.json")
    (tmp_path / "images/val_2").symlink_to("val")
    (tmp_path / "annotations/instances_val.json").rename(tmp_path / "annotations/val_1.json")
    assert recognised(tmp_path)[1].keys() == {"train", "val"}


def test_notes_state_what_was_decided(tmp_path):
    files, folders, *_ = LAYOUTS["trainval and test"]
    (note,) = find_layout(make(tmp_path / "one", files, *folders)).notes
    assert note == "train and val are in one file by its name, so test is used in place of val"
    files, folders, *_ = LAYOUTS["trainval beside its parts"]
    notes = find_layout(make(tmp_path / "two", files, *folders)).notes
    assert [note.split(" is not used")[0] for note in notes] == ["trainval.json", "all.json"]


def test_a_large_file_is_not_parsed(tmp_path):
    """Names of images behind 60 MB of annotations are found without parsing them."""
    entry = json.dumps({"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2], "x": "y" * 10_000})
    annotations = f'"annotations": [{", ".join([entry] * 6000)}]'
    images = f'"images": {json.dumps(EACH["images"])}, "categories": {json.dumps(EACH["categories"])}'
    make(tmp_path, {"result.json": f"{{{annotations}, {images}}}".encode()}, "images")
    start = time.process_time()
    assert recognised(tmp_path)[1] == {"all": "result.json → images"}
    assert read_categories(tmp_path / "result.json") == EACH["categories"]
    assert time.process_time() - start < 1


def test_cocos_own_folders_are_not_listed(tmp_path, monkeypatch):
    files, folders, *_ = LAYOUTS["COCO"]
    make(tmp_path, files, *folders)
    monkeypatch.setattr(os, "scandir", None)
    monkeypatch.setattr("workbench.settings.layout_files.glance", None)
    assert find_layout(tmp_path).name == COCO


def test_the_start_of_the_pipeline_imports_nothing_heavy():
    code = "import sys, workbench.settings.layouts; print({'numpy', 'pydantic', 'torch'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
