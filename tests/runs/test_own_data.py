"""A user's data set at the door: every layout becomes COCO's own folders, and nothing of the user's is changed."""

import hashlib
import json
import os
import shutil

import pytest

from tests.commands.pictures import draw
from workbench.data.coco import read_coco
from workbench.runs.own_data import with_own_data
from workbench.settings.catalog import load_row
from workbench.settings.config import read_config
from workbench.settings.files import forget
from workbench.settings.layouts import find_layout
from workbench.support.errors import WorkbenchError

ROOT = {"id": 0, "name": "animals", "supercategory": "none"}
CAT, DOG, OWL = ({"id": i, "name": n, "supercategory": "animals"} for i, n in ((1, "cat"), (2, "dog"), (5, "owl")))


def export(root, file, names, categories=(ROOT, CAT, DOG), used=(1, 2), images="."):
    """Write an annotation file, and pictures of 60x40 pixels that each have an object of some categories."""
    entries, annotations = [], []
    for number, name in enumerate(names):
        draw(root / images / name, (60, 40), tuple(hashlib.sha256(f"{file}{name}".encode()).digest()[:3]))
        entries.append({"id": number, "file_name": name, "width": 60, "height": 40})
        for id_ in used:
            box = {"id": len(annotations), "image_id": number, "category_id": id_, "bbox": [id_, 2, 20, 10 + number]}
            annotations.append(box)
    content = {"images": entries, "annotations": annotations, "categories": list(categories)}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root


@pytest.fixture
def hosted(tmp_path):
    """Export with a folder for each split and a root category."""
    root = tmp_path / "pets"
    for split, names in (("train", ("a.png", "b.png", "c.png")), ("valid", ("d.png",))):
        export(root / split, "_annotations.coco.json", names)
    return root


@pytest.fixture
def whole(tmp_path):
    """Data set in one file, whose names begin with the folder of the images."""
    return export(tmp_path / "whole", "result.json", [f"images/{i}.png" for i in range(10)], (CAT, DOG))


@pytest.fixture
def door(tmp_path, monkeypatch):
    """Function that resolves ``--config`` as the pipeline does: the settings, and the lines that were said."""
    monkeypatch.chdir(tmp_path)

    def resolve(**config):
        lines = []
        return with_own_data(
            read_config({k: str(v) for k, v in config.items()}), tmp_path / "results", lines.append
        ), lines

    return resolve


def scale(folder, text, name="farm"):
    path = folder / f"{name}.yaml"
    path.write_text(f"extends: bccd\ntitle: a farm\n{text}\n")
    forget()
    return path


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def contents(root, split):
    """Name, boxes and classes of each image, as a training or an evaluation reads them."""
    data = read_coco(root, split, training=split.startswith("train"))
    return {r.file_name: (r.boxes.tolist(), [data.class_names[i] for i in r.labels]) for r in data.images}


def test_a_named_data_set_is_learnt_at_the_scale_own(door, hosted, tmp_path):
    before = tree(hosted)
    settings, lines = door(data_root=hosted)
    assert settings.scale.startswith("own-pets-")
    assert settings.data_root.parent == tmp_path / "results" / settings.scale
    assert lines[0].startswith(
        f"{hosted}: learnt from scratch at scale own (small networks, 256x192); the results are in "
    )
    assert lines[1] == f"{hosted}: without objects and therefore no class: animals"
    row = load_row("table3", "t3_full_vfl", settings.scale, settings.data_root)
    assert row.experiment.data.classes == 2
    assert door(data_root=hosted, scale="coco")[1][-1] == f"{hosted}: 2 classes, not the 80 that scale coco states"
    assert list(contents(settings.data_root, "train2017")) == ["a.png", "b.png", "c.png"]
    assert contents(settings.data_root, "val2017") == {"d.png": ([[1, 2, 21, 12], [2, 2, 22, 12]], ["cat", "dog"])}
    assert door(data_root=hosted, init="mine.pth")[1][0].startswith(f"{hosted}: learnt at scale own (small networks, ")
    assert tree(hosted) == before


def test_the_second_call_and_the_jobs_use_the_same_view(door, hosted, tmp_path):
    first, _ = door(data_root=hosted)
    dates = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert door(data_root=hosted)[0] == first
    job, lines = door(scale=first.scale, data_root=first.data_root)
    assert (job, lines) == (first, [])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")} == dates


def test_a_data_set_that_has_moved_keeps_its_results(door, hosted, tmp_path):
    first, _ = door(data_root=hosted)
    moved = tmp_path / "elsewhere"
    hosted.rename(moved)
    again, _ = door(data_root=moved)
    assert again == first
    assert contents(again.data_root, "val2017")  # the links follow


def test_other_annotations_are_another_data_set(door, hosted):
    first, _ = door(data_root=hosted)
    export(hosted / "valid", "_annotations.coco.json", ("d.png", "e.png"))
    second, _ = door(data_root=hosted)
    assert second.scale != first.scale
    with pytest.raises(WorkbenchError, match=f"scale {first.scale}: .* is another data set; leave scale out"):
        door(scale=first.scale, data_root=hosted)


def test_a_data_set_in_one_file_gets_a_split(door, whole):
    settings, lines = door(data_root=whole)
    assert lines[1:] == [f"{whole}: one annotation file without splits: 8 images to learn from, 2 to test on"]
    train, val = (contents(settings.data_root, split) for split in ("train2017", "val2017"))
    assert (len(train), len(val)) == (8, 2)
    assert {*train, *val} == {f"images/{i}.png" for i in range(10)}
    assert len(list((settings.data_root / "val2017/images").iterdir())) == 2  # a link to each image of the split
    assert {**train, **val}["images/7.png"] == ([[1, 2, 21, 19], [2, 2, 22, 19]], ["cat", "dog"])


def test_without_a_stated_share_no_split_is_made(door, whole, tmp_path):
    with pytest.raises(WorkbenchError, match=r"result\.json: one annotation file without splits; .*split: 0\.2"):
        door(data_root=whole, scale="bccd")
    share = scale(tmp_path, "data: {kind: coco, split: 0.5}")
    assert len(contents(door(data_root=whole, scale=share)[0].data_root, "val2017")) == 5


def test_classes_are_picked_in_the_stated_order(door, tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "val"):
        export(root, f"{split}.json", (f"{split}.png",), (CAT, DOG, OWL), used=(1, 2, 5), images="images")
    settings, _ = door(data_root=root, scale=scale(tmp_path, "data: {kind: coco, classes: [owl, cat]}"))
    data = read_coco(settings.data_root, "train2017", training=True)
    assert (data.class_names, data.category_ids) == (("owl", "cat"), (1, 2))
    assert contents(settings.data_root, "val2017")["val.png"][1] == ["cat", "owl"]
    picked, _ = door(data_root=root, scale=scale(tmp_path, "data: {kind: coco, classes: [dog, owl]}", "birds"))
    assert read_coco(picked.data_root, "val2017", training=False).category_ids == (2, 5)  # in their order, ids stay
    with pytest.raises(WorkbenchError, match="unknown class 'dogs'; did you mean 'dog'"):
        door(data_root=root, scale=scale(tmp_path, "data: {kind: coco, classes: [dogs]}", "typo"))


def test_unused_categories_are_dropped_on_request(door, tmp_path):
    root = tmp_path / "pets"
    for split in ("train", "val"):
        export(
            root,
            f"{split}.json",
            (f"{split}.png",),
            (CAT, DOG, OWL),
            used=(1,) if split == "train" else (5,),
            images="i",
        )
    kept, _ = door(data_root=root)
    assert load_row("table3", "t3_full_vfl", kept.scale, kept.data_root).experiment.data.classes == 3
    settings, lines = door(data_root=root, scale=scale(tmp_path, "data: {kind: coco, drop_unused: true}"))
    assert lines[0] == f"{root}: without objects and therefore no class: dog"
    assert read_coco(settings.data_root, "train2017", training=True).class_names == ("cat", "owl")


def test_files_may_be_stated_one_by_one(door, tmp_path):
    for split, folder in (("train", "here"), ("val", "there")):
        export(tmp_path, f"{folder}/boxes.json", (f"{split}.png",), (CAT, DOG), images=f"pictures of {split}")
    stated = {
        s: {"annotations": f"{f}/boxes.json", "images": f"pictures of {s}"}
        for s, f in (("train", "here"), ("val", "there"))
    }
    file = scale(tmp_path, f"data: {json.dumps({'kind': 'coco', 'classes': 2} | stated)}")
    settings, _ = door(scale=file)
    assert list(contents(settings.data_root, "val2017")) == ["val.png"]
    assert settings.data_root.parent == tmp_path / "results/farm"
    stated["val"]["images"] = "nowhere"
    with pytest.raises(WorkbenchError, match=r"nowhere: no such folder of images; correct data\.val of the scale"):
        door(scale=scale(tmp_path, f"data: {json.dumps({'kind': 'coco', 'classes': 2} | stated)}", "wrong"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {kind: coco, clases: 2}", r"wrong.yaml: data.clases: unknown key; did you mean 'classes'"),
        ("data: {kind: coco, split: 1.5}", r"wrong.yaml: data.split: input should be less than 1"),
        ("data: {kind: coco, classes: [cat, cat]}", r"wrong.yaml: data: classes names a category twice"),
        ("data: {kind: coco, train: {annotations: a, images: b}}", "data: state annotations and images of both"),
    ],
)
def test_mistakes_in_a_scale_name_file_and_key(door, hosted, tmp_path, text, message):
    with pytest.raises(WorkbenchError, match=message):
        door(data_root=hosted, scale=scale(tmp_path, text, "wrong"))


def test_a_folder_of_scale_files_may_have_any_name(door, hosted, tmp_path):
    (tmp_path / "own-scales").mkdir()
    scale(tmp_path / "own-scales", "")
    settings, _ = door(data_root=hosted, scale="own-scales/farm.yaml")
    assert settings.scale == "own-scales/farm.yaml"
    assert settings.data_root.parent == tmp_path / "results/farm"
    assert door(scale="own-scales/farm.yaml")[0].data_root is None


def test_a_scale_file_has_a_name_of_its_own(door, hosted, tmp_path):
    with pytest.raises(
        WorkbenchError, match=r"bccd.yaml: experiments/scales has a scale of this name; rename the file"
    ):
        door(data_root=hosted, scale=scale(tmp_path, "", "bccd"))
    with pytest.raises(WorkbenchError, match=r"nowhere\.yaml"):
        door(data_root=hosted, scale=tmp_path / "nowhere.yaml")


def test_nothing_half_written_counts_as_a_view(door, whole, monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.data.view_files._document", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        door(data_root=whole)
    assert list((tmp_path / "results").glob("*/*")) == []


def test_a_missing_image_is_one_line(door, whole):
    (whole / "images/4.png").unlink()
    with pytest.raises(WorkbenchError, match=r"images/4\.png: no such image; copy it there or remove it"):
        door(data_root=whole)


def test_cocos_own_folders_need_no_view(door, tiny_data, tmp_path):
    settings, _ = door(data_root=tiny_data, scale="coco")
    assert settings.data_root == tiny_data
    assert not (tmp_path / "results").exists()


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


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


def test_equal_annotations_of_other_pictures_are_another_data_set(door, hosted, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(hosted, other)
    draw(other / "train/a.png", (60, 40), (1, 2, 3), compress_level=0)
    first, second = (door(data_root=root)[0] for root in (hosted, other))
    assert first.scale != second.scale
    assert (first.data_root / "train2017/a.png").resolve() == hosted / "train/a.png"


def test_results_beside_the_pictures_do_not_change_the_data_set(door, tmp_path):
    export(tmp_path, "result.json", [f"{i}.png" for i in range(5)], (CAT, DOG))
    first, _ = door(data_root=".")
    (tmp_path / "results" / "more.txt").write_text("a result")
    (tmp_path / "README.txt").write_text("about the pictures")
    assert door(data_root=".")[0] == first
    assert sorted(p.name for s in ("train2017", "val2017") for p in (first.data_root / s).iterdir()) == [
        f"{i}.png" for i in range(5)
    ]


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


def test_a_scale_without_its_data_set_is_one_line(door, hosted):
    with pytest.raises(WorkbenchError, match="scale mini draws its own data set: leave data_root out"):
        door(data_root=hosted, scale="mini")
    with pytest.raises(WorkbenchError, match="scale own-pets-12345678: no data set is named"):
        door(scale="own-pets-12345678")
    with pytest.raises(WorkbenchError, match="unknown scale 'own-x'"):
        door(scale="own-x")


def test_the_drawn_layouts_have_the_expected_boxes(door, drawn_layouts):
    expected = json.loads((drawn_layouts / "expected.json").read_text())
    for name in (
        "coco2017",
        "split_folders",
        "hosted_export",
        "one_folder",
        "one_file",
        "default_subset",
        "bare_fields",
    ):
        root = drawn_layouts / name
        settings, _ = door(data_root=root)
        read = {}
        for split in ("train2017", "val2017"):
            for file, (boxes, classes) in contents(settings.data_root, split).items():
                stem = file.rsplit("/")[-1].split("_jpg.")[0].removesuffix(".jpg")
                read[stem] = sorted([c, x, y, a - x, b - y] for c, (x, y, a, b) in zip(classes, boxes, strict=True))
        whole = find_layout(root).whole is not None
        splits = ("train", "val", "test") if whole else ("train", "val")
        assert read == {image: sorted(boxes) for split in splits for image, boxes in expected[split].items()}, name
