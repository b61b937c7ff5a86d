"""A user's data set at the door: the scale own, the name of its results, and its test split."""

import shutil

import pytest

from tests.commands.pictures import draw
from tests.runs.own_sets import CAT, DOG, contents, export, rewrite, with_test
from workbench.settings.catalog import load_row
from workbench.support.errors import WorkbenchError


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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


def test_equal_annotations_of_other_pictures_are_another_data_set(door, hosted, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(hosted, other)
    draw(other / "train/a.png", (60, 40), (1, 2, 3), compress_level=0)
    first, second = (door(data_root=root)[0] for root in (hosted, other))
    assert first.scale != second.scale
    assert (first.data_root / "train2017/a.png").resolve() == hosted / "train/a.png"


def test_a_test_split_is_part_of_the_view_and_not_of_what_is_learnt(door, hosted):
    first, _ = door(data_root=hosted)
    second, _ = door(data_root=with_test(hosted), split="test")
    assert second.scale == first.scale
    assert contents(second.data_root, "test2017") == {"t.png": ([[1, 2, 21, 12], [2, 2, 22, 12]], ["cat", "dog"])}
    corrected, _ = door(data_root=with_test(hosted, (2,)), split="test")
    assert corrected.scale == first.scale
    assert len({first.data_root, second.data_root, corrected.data_root}) == 3


@pytest.mark.parametrize(
    ("data", "parts"), [("hosted", "its splits are train and val"), ("whole", "one annotation file without splits")]
)
def test_a_data_set_without_a_test_split_is_one_line(door, request, data, parts, tmp_path):
    root = request.getfixturevalue(data)
    with pytest.raises(WorkbenchError) as error:
        door(data_root=root, split="test")
    remedy = "add annotations and images of test, or leave split=test out"
    assert str(error.value) == f"{root}: no test split ({parts}); {remedy}"
    assert not (tmp_path / "results").exists()


@pytest.fixture
def plain(tmp_path):
    """Data set with three splits, whose categories are all classes."""
    root = tmp_path / "plain"
    for split in ("train", "val", "test"):
        export(root / split, "_annotations.coco.json", ("a.png", "b.png"), (CAT, DOG))
    return root


def change(root, **lists):
    rewrite(root / "test/_annotations.coco.json", lambda content: content.update(lists))


FAULTS = {
    "a missing image": (lambda root: (root / "test/b.png").unlink(), "test2017/b.png: no such image; copy it there"),
    "no objects": (lambda root: change(root, annotations=[]), "instances_test2017.json: no objects to test on; add"),
    "another id": (
        lambda root: change(root, categories=[CAT | {"id": 7}, DOG]),
        "instances_test2017.json: the categories are 2 'dog', 7 'cat' (2 in total), but instances_val2017.json has 1 'cat'",
    ),
    "no box": (lambda root: change(root, annotations=[{"image_id": 0, "category_id": 1}]), "has no 'bbox'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_test_split_are_reported_before_a_training(door, plain, fault):
    spoil, message = FAULTS[fault]
    spoil(plain)
    with pytest.raises(WorkbenchError) as error:
        door(data_root=plain, split="test")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    door(data_root=plain)  # nothing is learnt from it


def test_a_drawn_data_set_has_no_test_split(door):
    with pytest.raises(WorkbenchError, match="scale mini draws no test split: leave split=test out, or name a data se"):
        door(split="test")


def test_results_beside_the_pictures_do_not_change_the_data_set(door, tmp_path):
    export(tmp_path, "result.json", [f"{i}.png" for i in range(5)], (CAT, DOG))
    first, _ = door(data_root=".")
    (tmp_path / "results" / "more.txt").write_text("a result")
    (tmp_path / "README.txt").write_text("about the pictures")
    assert door(data_root=".")[0] == first
    assert sorted(p.name for s in ("train2017", "val2017") for p in (first.data_root / s).iterdir()) == [
        f"{i}.png" for i in range(5)
    ]
