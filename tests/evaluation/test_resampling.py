"""AP under resampling: to the last digit what pycocotools says of a data set that repeats the images."""

import json

import numpy as np
import pytest

from workbench.evaluation.coco_metrics import run_evaluation
from workbench.evaluation.resampling import RECALLS, _recalls_reached, average_precision, matches_of

CLASSES = 5


def made_up(random, images=12, digits=3):
    """Annotations and detections of a few images with odd ids, in no order: crowds, misses, repeats and noise.

    Images 0 and 1 hold no object, images 1 and 2 have no detection; class 4 has no object, class 5 no detection.
    """
    truth, found = [], []
    for image in range(images):
        for _ in range(0 if image < 2 else random.integers(1, 9)):
            box = np.array([*random.uniform(0, 300, 2), *random.uniform(20, 120, 2)])
            name, crowd = int(random.choice([1, 2, 3, 5])), int(random.random() < 0.2)
            truth.append({"image_id": image, "category_id": name, "bbox": box.tolist(), "iscrowd": crowd})
            for _ in range(int(random.integers(0, 4))):
                moved = box + random.normal(0, 0.08, 4) * box[[2, 3, 2, 3]] - (0.3 * box[2] * crowd, 0, 0, 0)
                found.append({"image_id": image, "category_id": name, "bbox": moved.tolist()})
        for _ in range(random.integers(0, 4)):
            box = [*random.uniform(0, 300, 2).tolist(), 60.0, 60.0]
            found.append({"image_id": image, "category_id": int(random.integers(1, 5)), "bbox": box})
    found = [{**d, "score": round(random.random(), digits)} for d in found if d["image_id"] not in (1, 2)]
    random.shuffle(found)
    found = [d for d in found if d["category_id"] != 5]
    return list(range(images)), truth, found


def evaluation(folder, images, truth, found, copies=None):
    """pycocotools' evaluation of these images, each as often as `copies` says, the copies side by side."""
    copies = np.ones(len(images), dtype=int) if copies is None else copies
    ids = {image: [1000 * image + 7 + c for c in range(n)] for image, n in zip(images, copies, strict=True)}
    dataset = {
        "images": [{"id": i} for image in images for i in ids[image]],
        "annotations": [{**a, "image_id": i} for a in truth for i in ids[a["image_id"]]],
        "categories": [{"id": n + 1, "name": str(n)} for n in range(CLASSES)],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(dataset))
    return run_evaluation(path, [{**d, "image_id": i} for d in found for i in ids[d["image_id"]]])


def said(evaluated):
    return np.nan if evaluated.stats[0] < 0 else evaluated.stats[0]


def ranked(found):
    """The same detections with no two of one score, ties broken as pycocotools breaks them."""
    order = sorted(range(len(found)), key=lambda i: (-found[i]["score"], found[i]["image_id"]))
    return [{**found[i], "score": 1 - rank / len(found)} for rank, i in enumerate(order)]


@pytest.mark.parametrize("seed", range(4))
def test_a_resample_is_pycocotools_on_repeated_images(tmp_path, seed):
    random = np.random.default_rng(seed)
    case = made_up(random)
    matches = matches_of(evaluation(tmp_path, *case))
    weights = random.multinomial(12, np.full(12, 1 / 12), size=12)
    weights[0], weights[1, :2], weights[1, 2:] = 1, 6, 0  # all as they are; none that holds an object
    brute = [said(evaluation(tmp_path, *case, row)) for row in weights]
    assert 0.1 < brute[0] < 0.9
    assert np.isnan(brute[1])
    np.testing.assert_allclose(average_precision(matches, weights), brute, rtol=0, atol=1e-12)


def test_the_cases_have_crowds_that_count_at_some_thresholds_only(tmp_path):
    matches = matches_of(evaluation(tmp_path, *made_up(np.random.default_rng(0))))
    assert len(matches.image_ids) == 12
    assert len(matches.classes) == 4
    assert any((one.ignored.any(axis=0) & ~one.ignored.all(axis=0)).any() for one in matches.classes)
    assert any(one.image.size == 0 for one in matches.classes)
    assert not any((one.matched & one.ignored).any() for one in matches.classes)


def test_ties(tmp_path):
    """One digit: many detections share a score, also those of one class and image, whose copies stay side by side."""
    random = np.random.default_rng(0)
    images, truth, found = made_up(random, digits=1)
    evaluated = evaluation(tmp_path, images, truth, found)
    weights = np.concatenate([np.ones((1, 12), dtype=int), random.multinomial(12, np.full(12, 1 / 12), size=12)])
    ours = average_precision(matches_of(evaluated), weights)
    assert ours[0] == pytest.approx(said(evaluated), abs=1e-12)
    brute = [said(evaluation(tmp_path, images, truth, ranked(found), row)) for row in weights]
    np.testing.assert_allclose(ours, brute, rtol=0, atol=1e-12)


def test_ties_across_images_are_broken_by_the_image(tmp_path):
    random = np.random.default_rng(1)
    images, truth, found = made_up(random, digits=1)
    found = list({(d["image_id"], d["category_id"], d["score"]): d for d in found}.values())
    matches = matches_of(evaluation(tmp_path, images, truth, found))
    weights = random.multinomial(12, np.full(12, 1 / 12), size=12)
    brute = [said(evaluation(tmp_path, images, truth, found, row)) for row in weights]
    np.testing.assert_allclose(average_precision(matches, weights), brute, rtol=0, atol=1e-12)


def test_no_detections_and_no_objects(tmp_path):
    images, truth, found = made_up(np.random.default_rng(2))
    once = np.ones((1, 12), dtype=int)
    assert average_precision(matches_of(evaluation(tmp_path, images, truth, [])), once) == [0.0]
    assert np.isnan(average_precision(matches_of(evaluation(tmp_path, images, [], found)), once))


def test_many_resamples_are_worked_on_in_parts(tmp_path, monkeypatch):
    random = np.random.default_rng(3)
    matches = matches_of(evaluation(tmp_path, *made_up(random)))
    weights = random.integers(0, 4, (50, 12))
    whole = average_precision(matches, weights)
    monkeypatch.setattr("workbench.evaluation.resampling.CELLS", 100)
    assert np.array_equal(average_precision(matches, weights), whole)


def test_recalls_are_reached_as_floats_compare():
    """35 of 100 objects do not reach pycocotools' recall of 0.35, which is 35 times 0.01 and lies above."""
    assert _recalls_reached(np.array([0.34, 0.35, 0.36])).tolist() == [35, 35, 37]
    for objects in [*range(1, 500), 10_000, 36_335, 99_999]:
        recall = np.arange(objects + 1) / objects
        assert np.array_equal(_recalls_reached(recall), np.searchsorted(RECALLS, recall, side="right"))


def coco_detections(path, random):
    """Detections made up of a file's objects: moved, some twice, some of another class."""
    dataset = json.loads(path.read_text())
    classes = [category["id"] for category in dataset["categories"]]
    found = []
    for annotation in dataset["annotations"]:
        for _ in range(int(random.integers(0, 3))):
            x, y, w, h = annotation["bbox"]
            box = np.array([x, y, w, h]) + random.normal(0, 0.07, 4) * (w, h, w, h)
            name = annotation["category_id"] if random.random() < 0.8 else int(random.choice(classes))
            scored = {"bbox": box.tolist(), "score": float(random.random())}
            found.append({"image_id": annotation["image_id"], "category_id": name, **scored})
    return found


def test_the_identity_is_pycocotools_on_coco_s_annotations(shared_data):
    path = shared_data / "coco-tiny" / "annotations" / "instances_val2017.json"
    evaluated = run_evaluation(path, coco_detections(path, np.random.default_rng(0)))
    matches = matches_of(evaluated)
    ours = average_precision(matches, np.ones((1, len(matches.image_ids)), dtype=int))
    assert evaluated.stats[0] > 0.2
    np.testing.assert_allclose(ours, evaluated.stats[:1], rtol=0, atol=1e-9)
