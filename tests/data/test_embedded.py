"""The embedded data set: reproducible bytes, statistics, COCO format, and no incomplete data set after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError

from workbench.data import painting, shapes
from workbench.data.embedded import draw_data_set, draw_image
from workbench.settings.data import VARIED, EmbeddedData
from workbench.support.errors import WorkbenchError

SMALL = EmbeddedData(world=5, train_images=24, val_images=9)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Data set that is large enough for statistics."""
    root = tmp_path_factory.mktemp("embedded") / "data"
    draw_data_set(EmbeddedData(train_images=220, val_images=100), root)
    return root


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("embedded") / "small"
    draw_data_set(SMALL, root, processes=1)
    return root


def test_the_number_of_processes_does_not_change_the_bytes(small, tmp_path):
    draw_data_set(SMALL, tmp_path / "two", processes=2)
    assert digests(tmp_path / "two") == digests(small)


def test_another_world_has_other_images(small, tmp_path):
    draw_data_set(SMALL.model_copy(update={"world": 6}), tmp_path / "other", processes=1)
    other = digests(tmp_path / "other")
    assert other.keys() == digests(small).keys()
    assert all(other[name] != digest for name, digest in digests(small).items())


def test_the_first_images_do_not_depend_on_the_number_of_images(small, tmp_path):
    draw_data_set(SMALL.model_copy(update={"train_images": 30, "val_images": 12}), tmp_path / "more", processes=1)
    more = digests(tmp_path / "more")
    assert all(more[name] == digest for name, digest in digests(small).items() if name.endswith(".jpg"))
    for split in ("train2017", "val2017"):
        few, many = annotations(small, split), annotations(tmp_path / "more", split)
        for key in ("images", "annotations"):
            assert many[key][: len(few[key])] == few[key]
            assert len(many[key]) > len(few[key])


def test_train_and_val_have_different_images():
    assert np.asarray(draw_image(SMALL, 0, 0)[0]).tobytes() != np.asarray(draw_image(SMALL, 1, 0)[0]).tobytes()


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_the_data_set_has_the_format_of_coco(data, split):
    content = annotations(data, split)
    assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(c.id, c.name) for c in VARIED]
    assert max(np.diff([category.id for category in VARIED])) > 1
    assert {a["category_id"] for a in content["annotations"]} == {category.id for category in VARIED}
    for image in content["images"]:
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        with Image.open(data / split / image["file_name"]) as picture:
            assert (picture.size, picture.mode) == ((image["width"], image["height"]), "RGB")
    assert {(i["width"], i["height"]) for i in content["images"]} == {(224, 160), (160, 224)}
    assert {path.name for path in (data / split).iterdir()} == {image["file_name"] for image in content["images"]}


def test_image_and_annotation_ids_are_unique(data):
    images = [image["id"] for split in ("train2017", "val2017") for image in annotations(data, split)["images"]]
    assert len(set(images)) == len(images) == 320
    for split in ("train2017", "val2017"):
        ids = [a["id"] for a in annotations(data, split)["annotations"]]
        assert ids == list(range(1, len(ids) + 1))  # not from 0, which pycocotools interprets as "no match"


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_size_ranges_empty_images_and_crowds_have_their_shares(data, split):
    content = annotations(data, split)
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    share = np.bincount(np.digitize([a["area"] for a in objects], [32**2, 96**2])) / len(objects)
    assert (share > [0.3, 0.25, 0.02]).all(), share
    per_image = Counter(a["image_id"] for a in objects)
    assert max(per_image.values()) >= 8
    assert 0.005 < 1 - len({a["image_id"] for a in content["annotations"]}) / len(content["images"]) < 0.07
    crowds = [a for a in content["annotations"] if a["iscrowd"]]
    assert 0.005 < len(crowds) / len(content["images"]) < 0.07


def test_aspect_ratios_range_from_one_fourth_to_four(data):
    ratio = np.array([a["bbox"][2] / a["bbox"][3] for a in annotations(data, "train2017")["annotations"]])
    assert ratio.min() < 1 / 3.8
    assert ratio.max() > 3.8
    assert (ratio > 1).mean() == pytest.approx(0.5, abs=0.08)


def test_boxes_areas_and_polygons_are_consistent_and_inside_the_image(data):
    content = annotations(data, "train2017")
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for a in content["annotations"]:
        (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 0.02  # written to two decimals
        assert y + h <= height + 0.02
        assert 0 < a["area"] <= w * h + 0.5
        if a["iscrowd"]:
            assert sum(a["segmentation"]["counts"]) == width * height
            assert a["segmentation"]["size"] == [height, width]
            continue
        polygon = np.array(a["segmentation"][0]).reshape(-1, 2)
        assert (polygon >= 0).all()
        assert (polygon <= [width, height]).all()
        # The box contains the visible part, the polygon the whole object. Masks are exact to 1/3 pixel.
        assert (polygon.min(axis=0) <= np.array([x, y]) + 0.35).all()
        assert (polygon.max(axis=0) >= np.array([x + w, y + h]) - 0.35).all()


def test_the_box_of_a_fully_visible_object_bounds_its_outline(data):
    """At most 1/3 pixel larger, and less than 3 pixels smaller, because the end of a sharp tip is too thin to paint.

    The area differs by a narrow band along the outline. The last object of an image is in front of all others. Objects
    at the border are left out: points outside the image are moved along the border, away from the visible part.
    """
    content = annotations(data, "train2017")
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    checked = 0
    for a in {a["image_id"]: a for a in content["annotations"] if not a["iscrowd"]}.values():
        polygon = np.array(a["segmentation"][0]).reshape(-1, 2)
        if polygon.min() <= 0 or (polygon.max(0) >= sizes[a["image_id"]]).any():
            continue
        x, y, w, h = a["bbox"]
        inwards = np.concatenate([[x, y] - polygon.min(0), polygon.max(0) - [x + w, y + h]])
        assert (inwards > -0.35).all()
        assert (inwards < 3).all()
        perimeter = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1).sum()
        assert abs(shapes.polygon_area(polygon) - a["area"]) < 0.25 * perimeter
        checked += 1
    assert checked >= 50


def test_painting_changes_the_pixels_of_the_mask_only():
    rng = np.random.Generator(np.random.PCG64(0))
    for name in shapes.OUTLINES:
        points = shapes.outline(name, rng, 280, 1.4, 0.3, 0.1) + np.array([24, 20])  # too small for a shadow
        region = shapes.draw_region([points], 48, 40)
        canvas = np.full((40, 48, 3), 128, np.float32)
        painting.paint_object(rng, canvas, region, points, "checked", 0.2)
        x, y, w, h = region.box()
        rows, columns = np.nonzero(np.abs(canvas - 128).max(axis=-1) > 0.5)
        assert (columns.min(), rows.min()) == (int(x), int(y))
        assert (columns.max() + 1, rows.max() + 1) == (np.ceil(x + w - 1e-9), np.ceil(y + h - 1e-9))


def test_clipping_an_outline_keeps_the_part_inside():
    points = np.array([[-30.0, 10], [70, -20], [35, 80]])
    clipped = shapes.clip_outline(points, 48, 40)
    assert clipped.min() >= 0
    assert (clipped <= [48, 40]).all()
    whole, part = (shapes.draw_region([p], 48, 40).mask for p in (points, clipped))
    assert (whole != part).mean() < 0.01


@pytest.mark.parametrize("name", shapes.OUTLINES)
def test_an_outline_has_the_area_of_its_box_and_the_centre_0(name):
    rng = np.random.default_rng(0)
    for aspect, angle, bend in [(1, 0, 0), (4, 0.7, 0.25), (1 / 6, -2.5, -0.25)]:
        points = shapes.outline(name, rng, 900.0, aspect, angle, bend)
        assert np.ptp(points, axis=0).prod() == pytest.approx(900)
        assert points.min(axis=0) + points.max(axis=0) == pytest.approx(0, abs=1e-9)


def test_a_region_without_another_one_is_the_difference_of_their_masks():
    rng, size = np.random.default_rng(1), (60, 50)
    for _ in range(50):
        places = rng.uniform(-5, 60, (2, 2))
        regions = [
            shapes.draw_region([shapes.outline("star", rng, rng.uniform(50, 900), 1, 0) + place], *size)
            for place in places
        ]
        full = []
        for region in [*regions, regions[0].without(regions[1])]:
            mask = np.zeros((size[1] * shapes.FINE, size[0] * shapes.FINE), bool)
            y, x = region.y * shapes.FINE, region.x * shapes.FINE
            mask[y : y + region.mask.shape[0], x : x + region.mask.shape[1]] = region.mask
            full.append(mask)
        assert (full[2] == (full[0] & ~full[1])).all()


def test_run_lengths_start_with_zeros():
    mask = np.array([[True, False], [True, True]])
    assert shapes.run_lengths(mask) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
    assert shapes.run_lengths(~mask) == {"size": [2, 2], "counts": [2, 1, 1]}


def test_the_ground_truth_as_detections_has_an_ap_of_1(data):
    coco = COCO(str(data / "annotations" / "instances_val2017.json"))
    keys = ("image_id", "category_id", "bbox")
    truth = [{**{key: a[key] for key in keys}, "score": 1.0} for a in coco.anns.values() if not a["iscrowd"]]
    evaluation = COCOeval(coco, coco.loadRes(truth), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1.0
    assert (evaluation.stats[3:6] > -1).all()  # all three size ranges have objects


def test_pycocotools_reads_polygons_and_crowds(data):
    coco = COCO(str(data / "annotations" / "instances_train2017.json"))
    for a in coco.anns.values():
        area = coco.annToMask(a).sum()
        assert area > 0
        if a["iscrowd"]:
            assert area == pytest.approx(a["area"], rel=0.15)


FEW = EmbeddedData(train_images=2, val_images=1)


def test_a_data_set_or_its_empty_folders_are_replaced(tmp_path):
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)  # empty folders, as a workflow manager makes them
    draw_data_set(FEW, root, processes=1)
    draw_data_set(FEW.model_copy(update={"train_images": 1}), root, processes=1)
    assert len(list((root / "train2017").iterdir())) == 1
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "embedded.json", "train2017", "val2017"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder with its kind, and the digest or the target of its content."""
    content = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            content[str(path)] = f"link to {os.readlink(path)}"
        elif path.is_file():
            content[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content[str(path)] = "folder" if path.is_dir() else "other"
    return content


def written(name, text="mine"):
    """Function that writes a user's file into a folder."""

    def write(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return write


def linked(name, target):
    """Function that makes a link in a folder."""

    def link(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)

    return link


def moved_behind_a_link(root):
    (root / "train2017").rename(root.parent / "pictures")
    (root / "train2017").symlink_to(root.parent / "pictures")


MARKER = FEW.model_dump_json(indent=2) + "\n"
FOREIGN = {  # a folder of the user that has no data set of the workbench
    "a file": written("precious.txt"),
    "an empty folder": lambda root: (root / "notes").mkdir(parents=True),
    "a file in a folder of images": written("train2017/000000000001.jpg"),
    "a link to nothing": linked("link", "nowhere"),
    "a link to itself": lambda root: root.symlink_to(root),
    "a link to a folder": linked("train2017", ".."),
    "a pipe": lambda root: (root.mkdir(), os.mkfifo(root / "pipe")),
    "a pipe in a folder": lambda root: ((root / "val2017").mkdir(parents=True), os.mkfifo(root / "val2017" / "pipe")),
    "a marker of another tool": written("embedded.json", '{"fonts": []}'),
    "an empty marker": written("embedded.json", ""),
    "an empty object as a marker": written("embedded.json", "{}"),
    "a list as a marker": written("embedded.json", "[" * 5000),
    "a marker with other spacing": written("embedded.json", MARKER + "\n"),
    "a marker of another version": written("embedded.json", MARKER.replace('"drawing": 3', '"drawing": 2')),
    "a marker without the number of a world": written("embedded.json", MARKER.replace('"world": 0', '"world": "seed"')),
    "a folder as a marker": written("embedded.json/file"),
    "a pipe as a marker": lambda root: (root.mkdir(), os.mkfifo(root / "embedded.json")),
    "a link as a marker": lambda root: (written("../marker", MARKER)(root), linked("embedded.json", "../marker")(root)),
}
ADDED = {  # what a user puts into a data set of the workbench
    "a file": written("notes.txt"),
    "a hidden file": written(".notes"),
    "another split": written("annotations/instances_test2017.json", "{}"),
    "own annotations": written("annotations/instances_train2017.json", '{"images": []}'),
    "a picture": written("train2017/mine.jpg"),
    "a picture with a number of COCO's": written("train2017/000000000009.jpg"),
    "a picture with an even number in train": written("train2017/000000000002.jpg"),
    "a folder": lambda root: (root / "val2017" / "more").mkdir(),
    "a link to a picture": linked("val2017/000000000004.jpg", "000000000002.jpg"),
    "a link for the images": moved_behind_a_link,
    "a pipe": lambda root: os.mkfifo(root / "train2017" / "pipe"),
}


def refused(root, before):
    with pytest.raises(
        WorkbenchError, match=r"contains files that are not an embedded data set .+; choose another folder$"
    ):
        draw_data_set(FEW, root, processes=1)
    assert tree(root.parent) == before


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_of_the_user_stays_as_it_is(tmp_path, case):
    FOREIGN[case](tmp_path / "data")
    refused(tmp_path / "data", tree(tmp_path))


@pytest.mark.parametrize("case", ADDED)
def test_a_data_set_with_files_of_the_user_stays_as_it_is(tmp_path, case):
    draw_data_set(FEW, tmp_path / "data", processes=1)
    ADDED[case](tmp_path / "data")
    refused(tmp_path / "data", tree(tmp_path))


@pytest.mark.parametrize("name", ["data", "d*ta", "[abc]", "?", "."], ids=["plain", "star", "brackets", "mark", "here"])
def test_neighbours_of_the_user_stay_as_they_are(tmp_path, name, monkeypatch):
    """Neighbours with the names of unfinished data sets, older than an hour, are not the workbench's by their names."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = Path(name).resolve()
    neighbours = [
        root.with_name(f"{stem}.partial-{end}")
        for stem in (root.name, "data", "dxta", "a", "b")
        for end in ("1", "old")
    ]
    for neighbour in set(neighbours):
        written("train2017/000000000001.jpg")(neighbour)
    root.with_name(f"{root.name}.partial-2").symlink_to(neighbours[0])
    written("embedded.json", MARKER)(root.with_name(f"{root.name}.partial-3"))
    written("annotations/mine.txt")(root.with_name(f"{root.name}.partial-3"))
    os.mkfifo(root.with_name(f"{root.name}.partial-4"))
    before = tree(root.parent)
    for path in before:
        os.utime(path, (0, 0), follow_symlinks=False)
    draw_data_set(FEW, root, processes=1)
    after = tree(root.parent)
    drawn = {path for path in after if Path(path) == root or root in Path(path).parents}
    assert {path: content for path, content in after.items() if path not in drawn} == {
        path: content for path, content in before.items() if path not in drawn
    }


def test_the_unfinished_data_set_of_a_killed_process_is_removed_after_an_hour(tmp_path):
    unfinished = tmp_path / "data.partial-1"
    draw_data_set(FEW, unfinished, processes=1)
    (unfinished / "annotations" / "instances_val2017.json").unlink()
    (unfinished / "annotations" / "instances_train2017.json").write_text('{"info": {"desc')
    draw_data_set(FEW, tmp_path / "data", processes=1)
    assert unfinished.is_dir()
    for path in (unfinished, *unfinished.iterdir()):
        os.utime(path, (0, 0))
    draw_data_set(FEW, tmp_path / "data", processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_user_adds_while_the_data_set_is_drawn_stays(tmp_path):
    root = tmp_path / "data"
    draw_data_set(FEW, root, processes=1)
    with pytest.raises(WorkbenchError, match=r"contains files that are not an embedded data set \(mine\.txt\)"):
        draw_data_set(FEW, root, processes=1, progress=lambda *_: written("mine.txt")(root))
    assert (root / "mine.txt").read_text() == "mine"
    assert len(digests(root)) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failure_leaves_no_files_and_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="cannot be written") as error:
        draw_data_set(SMALL, tmp_path / "file" / "data", processes=1)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "file") in str(error.value)

    def stop(done: int, total: int) -> None:
        assert total == 33
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_data_set(SMALL, tmp_path / "data", processes=1, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_killed_process_leaves_no_data_set_and_no_process(tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "from pathlib import Path\n"
        "from workbench.data.embedded import EmbeddedData, draw_data_set\n"
        "if __name__ == '__main__':\n"
        f"    draw_data_set(EmbeddedData(train_images=100_000), Path({str(tmp_path / 'data')!r}), processes=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    unfinished = tmp_path / f"data.partial-{process.pid}"
    wait_until(lambda: any(unfinished.glob("train2017/*.jpg")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "data").exists()
    wait_until(lambda: drawing_stopped(unfinished))
    for path in (unfinished, *unfinished.iterdir()):
        os.utime(path, (0, 0))  # older than an hour, so that the next call removes it
    draw_data_set(EmbeddedData(train_images=1, val_images=1), tmp_path / "data", processes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "draw.py"]


def drawing_stopped(folder: Path) -> bool:
    """Whether the number of images stays the same for 0.3 s."""
    before = len(list(folder.glob("train2017/*.jpg")))
    time.sleep(0.3)
    return len(list(folder.glob("train2017/*.jpg"))) == before


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "settings",
    [
        {"world": -1},
        {"world": 100_000},
        {"world": "0"},
        {"world": "seeds"},
        {"train_images": 0},
        {"short_side": 300},
        {"colour": "red"},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        EmbeddedData(**settings)


def test_a_data_set_is_drawn_of_one_world(tmp_path):
    with pytest.raises(WorkbenchError, match=f"^{tmp_path}/data: no world is named; name the number of a world$"):
        draw_data_set(EmbeddedData(world="seed"), tmp_path / "data", processes=1)
    assert list(tmp_path.iterdir()) == []


def test_drawing_does_not_import_torch():
    code = "import sys, workbench.data.embedded; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
