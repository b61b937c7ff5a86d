"""The embedded data set: reproducible bytes, statistics, and COCO's format."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pydantic import ValidationError

from workbench.data import shapes
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
    assert {(i["width"], i["height"]) for i in content["images"]} == {(192, 160), (160, 192)}
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
    assert (share > [0.2, 0.25, 0.05]).all(), share
    per_image = Counter(a["image_id"] for a in objects)
    assert max(per_image.values()) >= 8
    assert 0.005 < 1 - len({a["image_id"] for a in content["annotations"]}) / len(content["images"]) < 0.07
    crowds = [a for a in content["annotations"] if a["iscrowd"]]
    assert 0.005 < len(crowds) / len(content["images"]) < 0.07


def test_aspect_ratios_range_from_one_third_to_three(data):
    ratio = np.array([a["bbox"][2] / a["bbox"][3] for a in annotations(data, "train2017")["annotations"]])
    assert ratio.min() < 1 / 3
    assert ratio.max() > 3
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


def thickness(polygon, axis, limit):
    """Length of the cut of a polygon with the line where coordinate ``axis`` equals ``limit``."""
    crossings = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (a[axis] < limit) != (b[axis] < limit):
            share = (limit - a[axis]) / (b[axis] - a[axis])
            crossings.append(a[1 - axis] + share * (b[1 - axis] - a[1 - axis]))
    ends = np.sort(crossings)
    return (ends[1::2] - ends[::2]).sum()


def test_the_box_of_a_fully_visible_object_bounds_its_outline(data):
    """At most 1/3 pixel larger. It is smaller only where the end of a sharp tip is less than a pixel thick.

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
        limits = [(0, x), (1, y), (0, x + w), (1, y + h)]
        for (axis, limit), missing in zip(limits, inwards, strict=True):
            assert missing < 0.35 or thickness(polygon, axis, limit) < 1
        perimeter = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1).sum()
        assert abs(shapes.polygon_area(polygon) - a["area"]) < 0.25 * perimeter
        checked += 1
    assert checked >= 50


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
