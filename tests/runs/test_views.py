"""Views of data sets: every layout becomes COCO's own folders, and nothing of the user's is changed."""

import json
import os
from itertools import chain

import pytest

from tests.runs.own_sets import CAT, DOG, ROOT, contents, export, rewrite, scale
from workbench.data.coco import read_coco
from workbench.support.errors import WorkbenchError


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_data_set_in_one_file_gets_a_split(door, whole):
    settings, lines = door(data_root=whole)
    assert lines[1:] == [f"{whole}: one annotation file without splits: 8 images to learn from, 2 to test on"]
    train, val = (contents(settings.data_root, split) for split in ("train2017", "val2017"))
    assert (len(train), len(val)) == (8, 2)
    assert {*train, *val} == {f"images/{i}.png" for i in range(10)}
    assert len(list((settings.data_root / "val2017/images").iterdir())) == 2  # a link to each image of the split
    assert {**train, **val}["images/7.png"] == ([[1, 2, 21, 19], [2, 2, 22, 19]], ["cat", "dog"])


def test_the_second_call_and_the_jobs_use_the_same_view(door, hosted, tmp_path):
    first, _ = door(data_root=hosted)
    dates = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert door(data_root=hosted)[0] == first
    job, lines = door(scale=first.scale, data_root=first.data_root)
    assert (job, lines) == (first, [])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")} == dates


def test_nothing_half_written_counts_as_a_view(door, whole, monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.data.view_files._document", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        door(data_root=whole)
    assert list((tmp_path / "results").glob("*/*")) == []


def test_cocos_own_folders_need_no_view(door, tiny_data, tmp_path):
    settings, _ = door(data_root=tiny_data, scale="coco")
    assert settings.data_root == tiny_data
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", ["{}", "[]", '{"url": "x"}', "{", "null"])
def test_a_user_may_have_a_file_of_the_markers_name(door, hosted, content):
    (hosted / "source.json").write_text(content)
    assert door(data_root=hosted)[0].scale.startswith("own-pets-")


@pytest.mark.parametrize("damage", ["{}", "[]", "{", None])
def test_a_damaged_view_is_made_again(door, hosted, damage):
    first, _ = door(data_root=hosted)
    if damage is None:
        (first.data_root / "annotations/instances_val2017.json").unlink()
    else:
        (first.data_root / "source.json").write_text(damage)
    assert door(data_root=hosted)[0] == first
    assert contents(first.data_root, "val2017")
    assert [path.name for path in first.data_root.parent.iterdir()] == [first.data_root.name]


def test_splits_with_other_categories_are_refused_before_a_view_is_made(door, hosted, tmp_path):
    file = hosted / "valid/_annotations.coco.json"
    rewrite(file, lambda c: c.update(categories=[ROOT, CAT | {"name": "dog"}, DOG | {"name": "cat"}]))
    with pytest.raises(WorkbenchError, match=rf"{file}: the categories are .* but _annotations\.coco\.json has "):
        door(data_root=hosted)
    assert not list((tmp_path / "results").glob("*/*"))


@pytest.mark.parametrize("form", [str, float, lambda id_: f"{id_}.0", lambda id_: f"0{id_}"])
def test_ids_are_those_of_the_reader(door, hosted, form):
    """Ids as text or as fractions, as some exporters write them: the view has every box."""
    expected = contents(door(data_root=hosted)[0].data_root, "train2017")

    def change(content):
        for box in content["annotations"]:
            box["image_id"], box["category_id"] = form(box["image_id"]), form(box["category_id"])

    for split in ("train", "valid"):
        rewrite(hosted / split / "_annotations.coco.json", change)
    assert contents(door(data_root=hosted)[0].data_root, "train2017") == expected


def test_a_root_with_objects_is_a_class(door, tmp_path):
    pets, cat = {"id": "pets", "name": "pets"}, {"id": "c", "name": "cat", "supercategory": "pets"}
    for split in ("train", "val"):
        export(tmp_path / "pets", f"{split}.json", (f"{split}.png",), (pets, cat), used=(), images="images")
        boxes = [{"id": i, "image_id": 0, "category_id": k, "bbox": [1, 2, 9, 9]} for i, k in enumerate(("pets", "c"))]
        rewrite(tmp_path / f"pets/{split}.json", lambda c, boxes=boxes: c.update(annotations=boxes))
    settings, lines = door(data_root=tmp_path / "pets")
    assert len(lines) == 1
    assert contents(settings.data_root, "train2017")["train.png"][1] == ["pets", "cat"]


def test_a_root_may_have_the_name_of_a_class(door, tmp_path):
    cats = ({"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "cat"})
    for split in ("train", "val"):
        export(tmp_path / "cats", f"{split}.json", (f"{split}.png",), cats, used=(1,), images="images")
    picked, _ = door(data_root=tmp_path / "cats", scale=scale(tmp_path, "data: {kind: coco, classes: [cat]}"))
    for settings in (picked, door(data_root=tmp_path / "cats")[0]):
        assert contents(settings.data_root, "val2017")["val.png"][1] == ["cat"]
    for split in ("train", "val"):
        export(tmp_path / "cats", f"{split}.json", (f"{split}.png",), cats, used=(0, 1), images="images")
    with pytest.raises(WorkbenchError, match="the categories 0 and 1 have the name 'cat'; give them different names"):
        door(data_root=tmp_path / "cats", scale=scale(tmp_path, "data: {kind: coco, classes: [cat]}"))


OUTSIDE = {
    "one file": ("result.json",),
    "files beside the images": ("train.json", "val.json"),
    "a folder for each split": ("train/_annotations.coco.json", "valid/_annotations.coco.json"),
}


@pytest.mark.parametrize("form", ["absolute", "above"])
@pytest.mark.parametrize("kind", OUTSIDE)
def test_images_outside_their_folder_are_read(door, tmp_path, kind, form):
    """Pictures of one folder, which data sets name by absolute paths, or by paths with ``..``."""
    files = OUTSIDE[kind]
    for file in files:
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        above = "../" * (1 + file.count("/"))
        pictures = f"{tmp_path}/pictures" if form == "absolute" else f"{above}pictures"
        names = [f"{pictures}/{file[:1]}{i}.png" for i in range(4 // len(files))]
        export(tmp_path / "set", file, names, (CAT, DOG), images=file.rpartition("/")[0])
    before = tree(tmp_path / "pictures")
    view = door(data_root=tmp_path / "set")[0].data_root
    paths = [image.path for s in ("train2017", "val2017") for image in read_coco(view, s, training=False).images]
    assert {path.read_bytes() for path in paths} == set(before.values())
    assert len(paths) == len(before) == 4
    assert tree(tmp_path / "pictures") == before
    assert {path.relative_to(view).parts[1] for path in paths} == {"outside"}


def test_a_missing_image_is_one_line(door, whole):
    (whole / "images/4.png").unlink()
    with pytest.raises(WorkbenchError, match=r"images/4\.png: no such image; copy it there or remove it"):
        door(data_root=whole)


def test_an_empty_split_is_a_fault_of_the_users_file(door, hosted):
    rewrite(hosted / "valid/_annotations.coco.json", lambda c: c.update(images=[], annotations=[]))
    settings, _ = door(data_root=hosted)
    assert settings.data_root.is_dir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: os.mkfifo(path), "not a regular file; put the annotation file there"),
        (lambda path: path.symlink_to("nowhere"), "the annotation file cannot be read"),
        (lambda path: path.mkdir(), "not a regular file; put the annotation file there"),
        (lambda path: path.write_bytes(b""), "instances_val2017"),
        (lambda path: path.write_bytes(b"\xff\xfe{\x00\xd8"), "instances_val2017"),
    ],
)
def test_an_annotation_file_that_is_no_file_is_one_line(door, tiny_data, tmp_path, damage, message):
    root = tmp_path / "set"
    (root / "annotations").mkdir(parents=True)
    for name in ("train2017", "val2017", "annotations/instances_train2017.json"):
        (root / name).symlink_to(tiny_data / name)
    damage(root / "annotations/instances_val2017.json")

    def evaluate():
        return read_coco(door(data_root=root, scale="coco")[0].data_root, "val2017", training=False)

    with pytest.raises(WorkbenchError, match=message):
        evaluate()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures_for_a_split_are_one_line(door, tmp_path, count):
    root = export(tmp_path / "few", "result.json", ["images/a.png"][:count], (CAT,), used=(1,))
    with pytest.raises(WorkbenchError, match=r"result\.json: .*two different pictures; add images"):
        door(data_root=root)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("coco2017", ("train", "val")),
        *((name, ("train", "val", "test")) for name in ("split_folders", "hosted_export", "one_folder", "bare_fields")),
        *((name, None) for name in ("one_file", "default_subset")),
    ],
)
def test_the_drawn_layouts_have_the_expected_boxes(door, drawn_layouts, name, splits):
    expected = json.loads((drawn_layouts / "expected.json").read_text())
    expected = {s: {image: sorted(boxes) for image, boxes in images.items()} for s, images in expected.items()}
    view, read = door(data_root=drawn_layouts / name)[0].data_root, {}
    for split in splits or ("train", "val"):
        for file, (boxes, classes) in contents(view, f"{split}2017").items():
            image = file.rsplit("/")[-1].split("_jpg.")[0].removesuffix(".jpg")
            sides = sorted([c, x, y, a - x, b - y] for c, (x, y, a, b) in zip(classes, boxes, strict=True))
            read.setdefault(split, {})[image] = sides
    if splits is None:  # a split is made of all images
        assert len(read["val"]) == 7
        read, expected = (dict(chain(*(images.items() for images in part.values()))) for part in (read, expected))
    assert read == {split: expected[split] for split in splits or expected}
