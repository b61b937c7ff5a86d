"""The evaluation is equal to pycocotools' bit for bit: all tables, all metrics, and the matches of each detection."""

import json

import numpy as np
import pytest

from tests.evaluation.reference import reference_evaluation, reference_matches
from workbench.evaluation.coco_metrics import METRICS, metrics_of, run_evaluation
from workbench.evaluation.precision import AREAS
from workbench.evaluation.resampling import matches_of


def write(folder, images, truth, classes):
    """Write an annotation file; ids of annotations begin with 0."""
    path = folder / "instances.json"
    document = {
        "images": [{"id": i} for i in images],
        "annotations": [{"id": n, **a} for n, a in enumerate(truth)],
        "categories": [{"id": c, "name": f"class {c}"} for c in classes],
    }
    path.write_text(json.dumps(document))
    return path


def assert_equal_to_pycocotools(path, detections, image_ids=None):
    """Compare every table that the metrics and the bootstrap use, without any tolerance."""
    ours = run_evaluation(path, detections, image_ids)
    theirs = reference_evaluation(path, detections, image_ids)
    precision, recall = theirs.eval["precision"], theirs.eval["recall"]
    for place, area in enumerate(AREAS):
        assert np.array_equal(ours.precision[area], precision[:, :, :, place, -1])
        assert np.array_equal(ours.recall[f"AR{area or 100}"], recall[:, :, place, -1])
    for place, name in enumerate(("AR1", "AR10", "AR100")):
        assert np.array_equal(ours.recall[name], recall[:, :, 0, place])
    metrics = metrics_of(ours)
    assert [-1.0 if metrics[name] is None else metrics[name] for name in METRICS] == theirs.stats.tolist()
    for name, place in (("AP80", 6), ("AP90", 8)):
        table = precision[place, :, :, 0, -1]
        expected = float(np.mean(table[table > -1])) if (table > -1).any() else None
        assert theirs.params.iouThrs[place] == pytest.approx(int(name[2:]) / 100)
        assert metrics[name] == expected
    per_class = [float(np.mean(row)) for row in precision[:, :, :, 0, -1].transpose(2, 0, 1)]
    assert [-1.0 if value is None else value for value in metrics["per_class"].values()] == per_class
    assert metrics["detections"] == len(theirs.cocoDt.anns)
    assert_equal_matches(matches_of(ours), reference_matches(theirs))
    return metrics


def assert_equal_matches(ours, theirs):
    assert ours.image_ids == theirs.image_ids
    assert len(ours.classes) == len(theirs.classes)
    for mine, other in zip(ours.classes, theirs.classes, strict=True):
        for key in ("image", "matched", "ignored", "objects"):
            assert np.array_equal(getattr(mine, key), getattr(other, key)), key


def boxes(random, count, grid):
    """Boxes of all sizes in pixels. Corners on a grid give equal boxes, equal IoU, and areas at the limits."""
    sides = random.choice([8, 16, 32, 64, 96, 128, 200], (count, 2)) + (
        0 if grid else random.uniform(-4, 4, (count, 2))
    )
    corners = random.integers(0, 12, (count, 2)) * 16.0 + (0 if grid else random.uniform(-4, 4, (count, 2)))
    return np.concatenate([corners, sides], axis=1)


def random_case(
    seed, images=5, classes=2, objects=6.0, detections=9.0, crowds=0.2, digits=1, grid=True, first=0, near=0.7
):
    """Random annotations and detections; some detections are near an object, the others are anywhere.

    Args:
        objects, detections: mean number per image.
        crowds: share of the objects that are crowds or ignored.
        digits: digits of a score; few digits give ties.
        grid: whether boxes have corners on a grid.
        first: id of the first image and of the first class.
        near: share of the detections that are near an object, if the image has one.
    """
    random = np.random.default_rng(seed)
    truth, results = [], []
    for image in range(first, first + images):
        here = boxes(random, random.poisson(objects), grid)
        names = random.integers(first, first + classes, len(here)).tolist()
        for box, name in zip(here, names, strict=True):
            area = float(random.choice([box[2] * box[3], 32**2, 96**2, np.nextafter(32**2, 0), 0.6 * box[2] * box[3]]))
            flag = {str(random.choice(["iscrowd", "ignore"])): int(random.random() < crowds)}
            truth.append({"image_id": image, "category_id": name, "bbox": box.tolist(), "area": area, **flag})
        for box in boxes(random, random.poisson(detections), grid):
            name = int(random.integers(first, first + classes))
            if len(here) and random.random() < near:
                chosen = int(random.integers(len(here)))
                shift = random.choice([0, 0, 8], 4) if grid else random.normal(0, 0.06, 4) * here[chosen][[2, 3, 2, 3]]
                box, name = here[chosen] + shift, names[chosen]
            scored = {"bbox": box.tolist(), "score": round(random.random(), digits)}
            results.append({"image_id": image, "category_id": name, **scored})
    random.shuffle(results)
    return list(range(first, first + images)), truth, results, list(range(first, first + classes))


CASES = {
    "plain": {"digits": 16, "grid": False, "crowds": 0, "first": 1},
    "crowds": {"crowds": 0.6},
    "only crowds": {"crowds": 1},
    "ties in scores": {"digits": 0},
    "equal boxes": {"near": 1, "detections": 40},
    "ids 0": {"first": 0},
    "large ids": {"first": 9_000_000_001, "grid": False},
    "one class": {"classes": 1, "grid": False},
    "many classes": {"classes": 90, "objects": 12},
    "one image": {"images": 1, "objects": 20, "detections": 60},
    "empty images": {"images": 12, "objects": 0.5, "detections": 0.7},
    "no detections": {"detections": 0},
    "no objects": {"objects": 0},
    "nothing": {"objects": 0, "detections": 0},
    "more than 100 detections": {"classes": 1, "images": 3, "detections": 260, "objects": 30, "digits": 2},
    "more than 100 detections, no ties": {"classes": 2, "images": 3, "detections": 400, "digits": 16, "grid": False},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_the_evaluation_is_equal_to_pycocotools_bit_for_bit(tmp_path, settings):
    for seed in range(3):
        images, truth, results, classes = random_case(seed, **settings)
        path = write(tmp_path, images, truth, classes)
        assert_equal_to_pycocotools(path, results)
        assert_equal_to_pycocotools(path, results, image_ids=images[: 1 + len(images) // 2])


def test_the_evaluation_is_equal_to_pycocotools_on_hundreds_of_small_data_sets(tmp_path):
    for seed in range(300):
        random = np.random.default_rng([seed, 1])
        settings = {
            "images": int(random.integers(1, 7)),
            "classes": int(random.integers(1, 5)),
            "objects": float(random.choice([0, 1, 3, 8])),
            "detections": float(random.choice([0, 2, 8, 25])),
            "crowds": float(random.choice([0, 0.1, 0.5, 1])),
            "digits": int(random.choice([0, 1, 2, 16])),
            "grid": bool(random.random() < 0.6),
            "near": float(random.choice([0.2, 0.7, 1])),
        }
        images, truth, results, classes = random_case(seed, **settings)
        assert_equal_to_pycocotools(write(tmp_path, images, truth, classes), results)


@pytest.mark.parametrize("seed", range(2))
def test_the_evaluation_is_equal_to_pycocotools_on_coco(shared_data, seed):
    path = shared_data / "coco-tiny" / "annotations" / "instances_val2017.json"
    document, random = json.loads(path.read_text()), np.random.default_rng(seed)
    results = []
    for annotation in document["annotations"]:
        box = np.array(annotation["bbox"])
        for _ in range(int(random.integers(0, 5))):
            shifted = (box + random.normal(0, 0.08, 4) * box[[2, 3, 2, 3]]).tolist()
            scored = {"bbox": shifted, "score": round(random.random(), 2)}
            results.append({"image_id": annotation["image_id"], "category_id": annotation["category_id"], **scored})
    assert assert_equal_to_pycocotools(path, results)["AP"] > 0.2


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_objects_with_equal_iou_the_last_one_is_matched(tmp_path, order):
    """The first detection has the IoU 0.6 with both objects. The second one can match the first of them only."""
    truth = [{"image_id": 1, "category_id": 1, "bbox": box} for box in ([0, 0, 20, 10], [10, 0, 20, 10])[::order]]
    boxes_by_score = [[5, 0, 20, 10], truth[0]["bbox"]]
    results = [{**truth[0], "bbox": box, "score": score} for box, score in zip(boxes_by_score, (0.9, 0.8), strict=True)]
    metrics = assert_equal_to_pycocotools(write(tmp_path, [1], truth, [1]), results)
    assert metrics["AP50"] == 1.0
