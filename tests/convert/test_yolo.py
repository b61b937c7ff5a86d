"""YOLO's format: the paths and classes of data.yaml, and the lines of label files."""

import pytest

from tests.convert.small import converted, refused, save_image, save_text

BOX = "0 0.5 0.5 0.25 0.2\n"
EXPECTED = ["cat", 15, 12, 10, 6]


@pytest.fixture
def root(tmp_path):
    """Two images of train and one of val."""
    root = tmp_path / "yolo"
    for name in ("train/a", "train/b", "val/c"):
        save_image(root / f"images/{name}.jpg")
        save_text(root / f"labels/{name}.txt", BOX)
    settings(root)
    return root


def settings(root, train="images/train", val="images/val", names="[cat, dog]", more=""):
    save_text(root / "data.yaml", f"train: {train}\nval: {val}\nnames: {names}\n{more}")


def test_boxes_in_shares_become_pixels(root):
    save_text(root / "labels/train/b.txt", "1.0 0.05 0.9 0.1 0.2\n\n0 0.5 0.5 1 1\n")
    objects, report = converted("yolo", root)
    assert objects == {
        "train": {"a.jpg": [EXPECTED], "b.jpg": [["dog", 0, 24, 4, 6], ["cat", 0, 0, 40, 30]]},
        "val": {"c.jpg": [EXPECTED]},
    }
    assert "note" not in report


@pytest.mark.parametrize(
    ("train", "more"),
    [
        ("../images/train", ""),  # as exporters write it
        ("images/train", "path: ."),
        ("train", "path: images"),
        ("images/train", "path: /another/machine/data"),
        ("[images/train]", "nc: 2"),
        ("train.txt", ""),
    ],
)
def test_paths_of_data_yaml(root, train, more):
    save_text(root / "train.txt", "./images/train/a.jpg\nimages/train/b.jpg\n")
    settings(root, train=train, val="../images/val" if more == "path: images" else "images/val", more=more)
    assert list(converted("yolo", root)[0]["train"]) == ["a.jpg", "b.jpg"]


def test_a_folder_outside_is_not_taken_for_the_one_inside(root):
    save_image(root.parent / "images/train/other.jpg")
    settings(root, train="../images/train")
    assert list(converted("yolo", root)[0]["train"]) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{1: dog, 0: cat}"])
def test_names_are_a_list_or_a_mapping(root, names):
    settings(root, names=names)
    assert converted("yolo", root)[0]["train"]["a.jpg"] == [EXPECTED]


def test_images_beside_their_labels_in_folders_of_splits(tmp_path):
    """Hosted exports: train/images and train/labels; a test folder that does not exist; subfolders, upper case."""
    root = tmp_path / "export"
    for name in ("train/images/ä.JPG", "train/images/sub/ä.jpg", "valid/images/c.png"):
        save_image(root / name)
        save_text((root / name.replace("images", "labels")).with_suffix(".txt"), BOX)
    save_text(
        root / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['cat']\n",
    )
    objects, report = converted("yolo", root)
    assert objects == {"train": {"ä.JPG": [EXPECTED], "sub/ä.jpg": [EXPECTED]}, "val": {"c.png": [EXPECTED]}}
    assert "note: 1 split is left out, because its folder is missing (first: data.yaml: test: ../test/images" in report


def test_labels_may_be_beside_their_images(tmp_path):
    root = tmp_path / "flat"
    save_image(root / "data/a.jpg")
    save_text(root / "data/a.txt", BOX)
    save_text(root / "data/classes.txt", "cat\n")
    save_text(root / "data.yaml", "train: data\nnames: [cat]\n")
    objects, report = converted("yolo", root)
    assert objects == {"default": {"a.jpg": [EXPECTED]}}
    assert "a training tests on a part of the images; to choose it, state train and val in data.yaml" in report


def test_polygons_become_boxes(root):
    save_text(root / "labels/train/a.txt", "1 0.1 0.2 0.5 0.1 0.3 0.9\n")
    objects, report = converted("yolo", root)
    assert objects["train"]["a.jpg"] == [["dog", 4, 3, 16, 24]]
    assert "note: 1 polygons become the smallest box that contains them" in report


def test_an_image_without_labels_has_no_objects(root):
    (root / "labels/train/a.txt").unlink()
    save_text(root / "labels/train/b.txt", "")
    objects, report = converted("yolo", root)
    assert objects["train"] == {"a.jpg": [], "b.jpg": []}
    assert "note: 1 images have no label file, so they are images without objects (first: images/train/a.jpg)" in report


def test_an_image_that_exif_turns_is_read_as_shown(root):
    save_image(root / "images/train/a.jpg", (30, 40), orientation=6)
    assert converted("yolo", root)[0]["train"]["a.jpg"] == [EXPECTED]


def test_boxes_without_a_size_or_outside_their_image_are_left_out(root):
    save_text(root / "labels/train/a.txt", "0 0.5 0.5 0 0.2\n0 1 0.5 0 0\n0 1.005 0.5 0.004 0.2\n0 0 0 0.1 0.2\n")
    objects, report = converted("yolo", root)
    assert objects["train"]["a.jpg"] == [["cat", -2, -3, 4, 6]]  # a part of it is inside
    assert "note: 2 boxes have no width or no height and are left out (first: labels/train/a.txt line 1)" in report
    assert "note: 1 boxes are outside their image and are left out (first: labels/train/a.txt line 3)" in report
    assert report.splitlines()[1].split()[4:7] == ["5", "->", "2"]


LABELS = "labels/train/a.txt"
FAULTS = {
    "class": (lambda r: save_text(r / LABELS, "2 0.5 0.5 0.1 0.1"), "a.txt line 1: has the class 2; use the numbers of the classes, 0 to 1"),
    "half a class": (lambda r: save_text(r / LABELS, "0.5 0.5 0.5 0.1 0.1"), "has the class 0.5; use"),
    "word": (lambda r: save_text(r / LABELS, f"{BOX}cat 0.5 0.5 0.1 0.1"), "a.txt line 2: has the value 'cat'; use numbers"),
    "pixels": (lambda r: save_text(r / LABELS, "0 20 15 10 6"), "has the value 20; use shares of the image's width"),
    "negative": (lambda r: save_text(r / LABELS, "0 0.5 0.5 -0.1 0.1"), "has the value -0.1; use shares"),
    "few values": (lambda r: save_text(r / LABELS, "0 0.5 0.5 0.1"), "has 4 values; use a class and 4 numbers"),
    "confidence": (lambda r: save_text(r / LABELS, "0 0.5 0.5 0.1 0.1 0.9"), "has 6 values; use a class and 4 numbers"),
    "no text": (lambda r: (r / LABELS).write_bytes(b"\xff\xff"), "a.txt: labels are not text in UTF-8"),
    "image missing": (lambda r: (r / "images/train/a.jpg").unlink(), "labels/train/a.txt: its image is missing in images/train/; copy"),
    "labels missing": (lambda r: (r / "labels").rename(r / "texts"), "no label files for the 2 images of train (looked for labels/train/a.txt) (and 1 more of this kind); put"),
    "two images": (lambda r: save_image(r / "images/train/a.png"), "a.txt: belongs to images/train/a.jpg and images/train/a.png; give"),
    "no settings": (lambda r: (r / "data.yaml").unlink(), "no data.yaml; put one there that states names, train and val"),
    "broken settings": (lambda r: settings(r, names="[cat"), "data.yaml, line "),
    "no names": (lambda r: settings(r, names="cat"), "data.yaml: names is 'cat'; list the names"),
    "equal names": (lambda r: settings(r, names="[cat, cat]"), "two classes are called 'cat'; give"),
    "keys of names": (lambda r: settings(r, names="{1: cat, 2: dog}"), "names: the keys are ['1', '2']; number the classes from 0"),
    "count": (lambda r: settings(r, more="nc: 3"), "nc is 3, but names has 2 classes; correct"),
    "keypoints": (lambda r: settings(r, more="kpt_shape: [4, 2]"), "kpt_shape: labels with keypoints are not converted; export"),
    "no folder": (lambda r: settings(r, val="../valid/images"), "val: ../valid/images does not exist (looked for valid/images and ../valid/images); correct"),
    "one folder twice": (lambda r: settings(r, val="images/train"), "images/train/a.jpg: is in train and in val (and 1 more of this kind); remove"),
    "no image in a list": (lambda r: (settings(r, train="t.txt"), save_text(r / "t.txt", "\nx.jpg\n")), "t.txt line 2: the image 'x.jpg' is missing; copy"),
    "no objects": (lambda r: [save_text(f, "") for f in r.glob("labels/*/*.txt")], "no objects are left (nothing is annotated); check"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_one_line_and_nothing_is_written(root, name):
    refused("yolo", root, *FAULTS[name])
