"""Layouts of data sets on disk: those of common exporters are recognised, and near misses end in one line."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.data.annotations import read_annotations
from workbench.settings.layout_files import read_categories, split_of
from workbench.settings.layouts import COCO, FILE_EACH, FOLDER_EACH, ONE_FILE, TRAIN_ONLY, find_layout, survey
from workbench.support.errors import WorkbenchError

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
        lambda root: make(root / "coco", *LAYOUTS["COCO"][:1], *LAYOUTS["COCO"][1]),
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


def test_only_one_level_is_searched_below_a_folder_without_a_data_set(tmp_path):
    make(tmp_path, {"a/b/result.json": EACH}, "a/b/images")
    with pytest.raises(WorkbenchError, match="no annotation file"):
        find_layout(tmp_path)


def test_the_start_of_the_pipeline_imports_nothing_heavy():
    code = "import sys, workbench.settings.layouts; print({'numpy', 'pydantic', 'torch'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, shared_data):
    """All layouts of the shared script, the converted ones below ``converted``, and their true boxes."""
    script = shared_data.parent / "cases/layouts/draw.py"
    if not script.is_file():
        pytest.skip(f"the script that draws the layouts is not at {script}: set WORKBENCH_SHARED")
    from workbench.commands.convert import convert

    folder = tmp_path_factory.mktemp("layouts")
    subprocess.run([sys.executable, script, folder], check=True)
    for form in ("voc", "yolo", "createml", "labelme"):
        convert(form, folder / form, folder / f"{form}-coco", None)
    return folder


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
