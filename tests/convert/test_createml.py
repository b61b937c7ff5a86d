"""CreateML's format: centres and sizes in pixels, a file for each split."""

import pytest

from tests.convert.small import converted, refused, save_image, save_json, save_text

FILE = "_annotations.createml.json"


def thing(label="cat", x=20, y=15, width=10, height=5):
    return {"label": label, "coordinates": {"x": x, "y": y, "width": width, "height": height}}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "createml"
    for split, name in (("train", "a.jpg"), ("valid", "b.jpg")):
        save_image(root / split / name)
        save_json(root / split / FILE, [{"image": name, "annotations": [thing(), thing("dog", 2.5, 3, 5, 6)]}])
    return root


def test_boxes_are_stated_by_their_centres(root):
    objects, report = converted("createml", root)
    boxes = [["cat", 15, 12.5, 10, 5], ["dog", 0, 0, 5, 6]]
    assert objects == {"train": {"a.jpg": boxes}, "val": {"b.jpg": boxes}}
    assert "note" not in report


def test_one_folder_with_any_file_name_older_keys_and_subfolders(tmp_path):
    root = tmp_path / "flat"
    for name in ("ü.JPG", "sub/c.jpg", "unlabelled.jpg"):
        save_image(root / name)
    entries = [{"imagefilename": "ü.jpg", "annotation": [thing()]}, {"image": "c.jpg", "annotations": []}]
    save_json(root / "labels.json", entries)
    objects, report = converted("createml", root)
    assert objects == {"default": {"ü.JPG": [["cat", 15, 12.5, 10, 5]], "sub/c.jpg": []}}
    assert "note: 1 images have no CreateML annotations and are left out (first: unlabelled.jpg)" in report
    assert "put them into folders train and val, each with a file of annotations" in report


def entry(*objects, image="a.jpg"):
    return lambda r: save_json(r / "train" / FILE, [{"image": image, "annotations": list(objects)}])


FAULTS = {
    "broken JSON": (lambda r: save_text(r / "train" / FILE, "["), "annotations are truncated or not JSON"),
    "an object": (lambda r: save_json(r / "train" / FILE, {}), "not a list of images; use"),
    "an entry": (lambda r: save_json(r / "train" / FILE, [3]), "image 1: not an object with 'image' and a list 'annotations'"),
    "no file": (lambda r: (r / "train" / FILE).unlink(), "train: no JSON file of CreateML; put one"),
    "image missing": (entry(image="x.jpg"), "image 1: its image 'x.jpg' is missing; copy"),
    "no label": (entry(thing(label=None)), "image 1 object 1: has the 'label' None; add"),
    "no width": (entry(thing(width=None)), "image 1 object 1: has the 'coordinates' {"),
    "negative width": (entry(thing(width=-1)), "image 1 object 1: has a negative width or height"),
    "no coordinates": (entry({"label": "cat"}), "has the 'coordinates' None; state"),
    "an image twice": (lambda r: save_json(r / "train" / FILE, [{"image": "a.jpg", "annotations": []}] * 2), "train/a.jpg: has annotations twice; keep"),
    "two folders of a split": (lambda r: save_image(r / "val/x.jpg"), "valid: val is val, too; keep one folder for val"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_one_line_and_nothing_is_written(root, name):
    refused("createml", root, *FAULTS[name])
