"""Scales for a user's data set: files anywhere, chosen classes, a share of a split, files that are stated one by one."""

import json

import pytest

from tests.runs.own_sets import CAT, DOG, OWL, contents, export, scale
from workbench.data.coco import read_coco
from workbench.settings.catalog import load_row
from workbench.support.errors import WorkbenchError


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


def test_a_scale_without_its_data_set_is_one_line(door, hosted):
    with pytest.raises(WorkbenchError, match="scale mini draws its own data set: leave data_root out"):
        door(data_root=hosted, scale="mini")
    with pytest.raises(WorkbenchError, match="scale own-pets-12345678: no data set is named"):
        door(scale="own-pets-12345678")
    with pytest.raises(WorkbenchError, match="unknown scale 'own-x'"):
        door(scale="own-x")
