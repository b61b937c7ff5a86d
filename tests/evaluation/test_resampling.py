"""AP on resampled images agrees with pycocotools on a data set that repeats the images."""

import json

import numpy as np
import pytest

from tests.evaluation.reference import reference_evaluation
from workbench.evaluation.coco_metrics import run_evaluation
from workbench.evaluation.precision import RECALLS
from workbench.evaluation.resampling import _recalls_reached, average_precision, matches_of

CLASSES = 5


def random_case(random, images=12, digits=3):
    """Random annotations and shuffled detections, with crowds, misses, duplicates and noise.

    Images 0 and 1 have no object, images 1 and 2 have no detection. Class 4 has no object, class 5 has no detection.
    """
    truth, detections = [], []
    for image in range(images):
        for _ in range(0 if image < 2 else random.integers(1, 9)):
            box = np.array([*random.uniform(0, 300, 2), *random.uniform(20, 120, 2)])
            name, crowd = int(random.choice([1, 2, 3, 5])), int(random.random() < 0.2)
            truth.append({"image_id": image, "category_id": name, "bbox": box.tolist(), "iscrowd": crowd})
            for _ in range(int(random.integers(0, 4))):
                moved = box + random.normal(0, 0.08, 4) * box[[2, 3, 2, 3]] - (0.3 * box[2] * crowd, 0, 0, 0)
                detections.append({"image_id": image, "category_id": name, "bbox": moved.tolist()})
        for _ in range(random.integers(0, 4)):
            box = [*random.uniform(0, 300, 2).tolist(), 60.0, 60.0]
            detections.append({"image_id": image, "category_id": int(random.integers(1, 5)), "bbox": box})
    detections = [{**d, "score": round(random.random(), digits)} for d in detections if d["image_id"] not in (1, 2)]
    random.shuffle(detections)
    detections = [d for d in detections if d["category_id"] != 5]
    return list(range(images)), truth, detections


def matched(folder, images, truth, detections):
    """Matches of detections and objects."""
    return matches_of(run_evaluation(*written(folder, images, truth, detections)))


def expected_ap(folder, images, truth, detections, copies=None):
    """AP by pycocotools; NaN without objects. See `written`."""
    stats = reference_evaluation(*written(folder, images, truth, detections, copies)).stats
    return np.nan if stats[0] < 0 else stats[0]


def written(folder, images, truth, detections, copies=None):
    """Annotation file and detections with as many copies of each image as `copies` states; copies are consecutive."""
    copies = np.ones(len(images), dtype=int) if copies is None else copies
    ids = {image: [1000 * image + 7 + c for c in range(n)] for image, n in zip(images, copies, strict=True)}
    dataset = {
        "images": [{"id": i} for image in images for i in ids[image]],
        "annotations": [{**a, "image_id": i} for a in truth for i in ids[a["image_id"]]],
        "categories": [{"id": n + 1, "name": str(n)} for n in range(CLASSES)],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(dataset))
    return path, [{**d, "image_id": i} for d in detections for i in ids[d["image_id"]]]


def ranked(detections):
    """Replace the scores by distinct ones in the same order, with ties broken as pycocotools breaks them."""
    order = sorted(range(len(detections)), key=lambda i: (-detections[i]["score"], detections[i]["image_id"]))
    return [{**detections[i], "score": 1 - rank / len(detections)} for rank, i in enumerate(order)]


@pytest.mark.parametrize("seed", range(4))
def test_ap_on_a_resample_agrees_with_pycocotools_on_repeated_images(tmp_path, seed):
    random = np.random.default_rng(seed)
    case = random_case(random)
    matches = matched(tmp_path, *case)
    weights = random.multinomial(12, np.full(12, 1 / 12), size=12)
    weights[0], weights[1, :2], weights[1, 2:] = 1, 6, 0  # every image once; only images without objects
    expected = [expected_ap(tmp_path, *case, row) for row in weights]
    assert 0.1 < expected[0] < 0.9
    assert np.isnan(expected[1])
    np.testing.assert_allclose(average_precision(matches, weights), expected, rtol=0, atol=1e-12)


def test_the_random_case_has_crowds_that_are_matched_at_some_thresholds_only(tmp_path):
    matches = matched(tmp_path, *random_case(np.random.default_rng(0)))
    assert len(matches.image_ids) == 12
    assert len(matches.classes) == 4
    assert any((one.ignored.any(axis=0) & ~one.ignored.all(axis=0)).any() for one in matches.classes)
    assert any(one.image.size == 0 for one in matches.classes)
    assert not any((one.matched & one.ignored).any() for one in matches.classes)


def test_ties_within_an_image_are_broken_as_by_pycocotools(tmp_path):
    """Scores with one digit, so that detections of one class and image have ties; their copies stay consecutive."""
    random = np.random.default_rng(0)
    images, truth, detections = random_case(random, digits=1)
    weights = np.concatenate([np.ones((1, 12), dtype=int), random.multinomial(12, np.full(12, 1 / 12), size=12)])
    ours = average_precision(matched(tmp_path, images, truth, detections), weights)
    assert ours[0] == pytest.approx(expected_ap(tmp_path, images, truth, detections), abs=1e-12)
    expected = [expected_ap(tmp_path, images, truth, ranked(detections), row) for row in weights]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)


def test_ties_across_images_are_broken_by_the_order_of_the_images(tmp_path):
    random = np.random.default_rng(1)
    images, truth, detections = random_case(random, digits=1)
    detections = list({(d["image_id"], d["category_id"], d["score"]): d for d in detections}.values())
    matches = matched(tmp_path, images, truth, detections)
    weights = random.multinomial(12, np.full(12, 1 / 12), size=12)
    expected = [expected_ap(tmp_path, images, truth, detections, row) for row in weights]
    np.testing.assert_allclose(average_precision(matches, weights), expected, rtol=0, atol=1e-12)


def test_ap_is_zero_without_detections_and_nan_without_objects(tmp_path):
    images, truth, detections = random_case(np.random.default_rng(2))
    once = np.ones((1, 12), dtype=int)
    assert average_precision(matched(tmp_path, images, truth, []), once) == [0.0]
    assert np.isnan(average_precision(matched(tmp_path, images, [], detections), once))


def test_resamples_in_chunks_have_the_same_ap(tmp_path, monkeypatch):
    random = np.random.default_rng(3)
    matches = matched(tmp_path, *random_case(random))
    weights = random.integers(0, 4, (50, 12))
    whole = average_precision(matches, weights)
    monkeypatch.setattr("workbench.evaluation.resampling.CHUNK", 100)
    assert np.array_equal(average_precision(matches, weights), whole)


def test_recall_points_are_compared_as_floats():
    """35 of 100 objects do not reach pycocotools' recall point 35 × 0.01, which is larger than 0.35."""
    assert _recalls_reached(np.array([0.34, 0.35, 0.36])).tolist() == [35, 35, 37]
    for objects in [*range(1, 500), 10_000, 36_335, 99_999]:
        recall = np.arange(objects + 1) / objects
        assert np.array_equal(_recalls_reached(recall), np.searchsorted(RECALLS, recall, side="right"))


def coco_detections(path, random):
    """Random detections near the objects of a file: shifted, some duplicated, some of another class."""
    dataset = json.loads(path.read_text())
    classes = [category["id"] for category in dataset["categories"]]
    detections = []
    for annotation in dataset["annotations"]:
        for _ in range(int(random.integers(0, 3))):
            x, y, w, h = annotation["bbox"]
            box = np.array([x, y, w, h]) + random.normal(0, 0.07, 4) * (w, h, w, h)
            name = annotation["category_id"] if random.random() < 0.8 else int(random.choice(classes))
            scored = {"bbox": box.tolist(), "score": float(random.random())}
            detections.append({"image_id": annotation["image_id"], "category_id": name, **scored})
    return detections


def test_ap_on_the_images_agrees_with_pycocotools_on_coco(shared_data):
    path = shared_data / "coco-tiny" / "annotations" / "instances_val2017.json"
    detections = coco_detections(path, np.random.default_rng(0))
    matches, theirs = matches_of(run_evaluation(path, detections)), reference_evaluation(path, detections).stats
    ours = average_precision(matches, np.ones((1, len(matches.image_ids)), dtype=int))
    assert theirs[0] > 0.2
    np.testing.assert_allclose(ours, theirs[:1], rtol=0, atol=1e-9)
