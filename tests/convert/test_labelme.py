"""labelme's format: shapes of all kinds, groups of shapes, and the image of a file."""

import pytest

from tests.convert.small import SIZE, converted, refused, save_image, save_json, save_text


def shape(points, kind="rectangle", label="cat", group=None):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, "flags": {}}


def save(path, *shapes, image="a.jpg", size=SIZE):
    content = {"version": "5.4.1", "imagePath": image, "imageData": None, "shapes": list(shapes)}
    save_json(path, content | {"imageWidth": size[0], "imageHeight": size[1]})


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "labelme"
    for split, name in (("train", "a"), ("val", "b")):
        save_image(root / split / f"{name}.jpg")
        save(root / split / f"{name}.json", shape([[12, 3], [2, 8]]), image=f"{name}.jpg")
    return root


@pytest.mark.parametrize(
    ("points", "kind", "box"),
    [
        ([[12, 3], [2, 8]], "rectangle", [2, 3, 10, 5]),
        ([[2, 8], [12, 3]], "rectangle", [2, 3, 10, 5]),
        ([[2, 3], [12, 3], [12, 8], [2, 8]], "rectangle", [2, 3, 10, 5]),
        ([[2, 3], [7.5, 10], [12, 4]], "polygon", [2, 3, 10, 7]),
        ([[20, 15], [23, 19]], "circle", [15, 10, 10, 10]),
        ([[2, 3], [12, 8]], "mask", [2, 3, 11, 6]),
    ],
)
def test_a_shape_becomes_the_smallest_box_that_contains_it(root, points, kind, box):
    save(root / "train/a.json", shape(points, kind))
    assert converted("labelme", root)[0] == {
        "train": {"a.jpg": [["cat", *box]]},
        "val": {"b.jpg": [["cat", 2, 3, 10, 5]]},
    }


def test_points_and_lines_are_left_out(root):
    save(root / "train/a.json", shape([[2, 3]], "point"), shape([[2, 3], [4, 5]], "line"))
    objects, report = converted("labelme", root)
    assert objects["train"] == {"a.jpg": []}
    assert "note: 2 points and lines are left out (first: train/a.json shape 1)" in report


def test_shapes_of_a_group_are_one_object(root):
    parts = [shape([[2, 3], [6, 8]], group=1), shape([[9, 1], [12, 4]], group=1)]
    save(root / "train/a.json", *parts, shape([[2, 3], [6, 8]], label="dog", group=1), shape([[2, 3], [6, 8]]))
    objects, report = converted("labelme", root)
    assert objects["train"]["a.jpg"] == [["cat", 2, 1, 10, 7], ["dog", 2, 3, 4, 5], ["cat", 2, 3, 4, 5]]
    assert "note: 1 shapes are parts of another shape's object" in report


def test_images_in_other_folders_with_equal_names_and_without_a_true_path(tmp_path):
    root = tmp_path / "one"
    for folder in ("x", "y"):
        save_image(root / f"images/{folder}/a.JPG")
        save(root / f"labels/{folder}/a.json", shape([[2, 3], [6, 8]]), image=f"..\\..\\images\\{folder}\\a.JPG")
    save_image(root / "renamed.jpg")
    save(root / "renamed.json", shape([[2, 3], [6, 8]]), image="old.jpg", size=(0, 0))
    save_image(root / "unlabelled.jpg")
    objects, report = converted("labelme", root)
    expected = {name: [["cat", 2, 3, 4, 5]] for name in ("images/x/a.JPG", "images/y/a.JPG", "renamed.jpg")}
    assert objects == {"default": expected}
    assert "note: 1 images have no labelme annotations and are left out (first: unlabelled.jpg)" in report
    assert "put them into folders train and val, and convert again" in report


def test_files_beside_the_folders_of_splits_are_noted(root):
    save(root / "c.json", shape([[2, 3], [6, 8]]))
    assert (
        "note: 1 .json files are in no folder of a split and are left out (first: c.json)"
        in converted("labelme", root)[1]
    )


FAULTS = {
    "broken JSON": (lambda r: save_text(r / "train/a.json", '{"shapes": ['), "annotations are truncated or not JSON"),
    "another JSON": (lambda r: save_json(r / "train/c.json", {"images": []}), "train/c.json: no list 'shapes'; move"),
    "no points": (lambda r: save(r / "train/a.json", shape([])), "train/a.json shape 1: has the 'points' []; state"),
    "no numbers": (lambda r: save(r / "train/a.json", shape([[1, 2], [3, "x"]])), "shape 1: has the 'points' [[1, 2], [3, 'x']]; state"),
    "no label": (lambda r: save(r / "train/a.json", shape([[1, 2], [3, 4]], label="")), "shape 1: has the 'label' ''; add"),
    "a list": (lambda r: save(r / "train/a.json", []), "shape 1: has the 'label' None; add"),
    "image missing": (lambda r: (r / "train/a.jpg").unlink(), "train/a.json: its image 'a.jpg' is missing; copy"),
    "an image twice": (lambda r: save(r / "train/c.json", shape([[1, 2], [3, 4]])), "train/a.jpg: has annotations twice; keep"),
    "no annotations": (lambda r: (r / "train/a.json").unlink(), "train: no JSON files of labelme; name"),
    "another size": (lambda r: save(r / "train/a.json", shape([[1, 2], [3, 4]]), size=(41, 30)), "the image has 40x30 pixels, but the annotations state 41x30"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_one_line_and_nothing_is_written(root, name):
    refused("labelme", root, *FAULTS[name])
