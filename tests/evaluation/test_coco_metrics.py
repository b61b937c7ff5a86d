"""COCO metrics agree with worked examples and pycocotools, also on incomplete and empty data."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from workbench.evaluation.coco_metrics import METRICS, STRICT_METRICS, evaluate_detections, read_detections
from workbench.support.errors import WorkbenchError


def ground_truth(image_id, bbox, category_id=1, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def detection(image_id, bbox, score, category_id=1):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


@pytest.fixture
def annotation_file(tmp_path):
    """Function that writes an annotation file; annotations are numbered in their order."""

    def write(image_ids, annotations, names=("cat", "dog"), first_id=1):
        dataset = {
            "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in image_ids],
            "annotations": [{"id": n, **a} for n, a in enumerate(annotations, start=first_id)],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
        }
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(dataset))
        return path

    return write


def random_case(seed=0, image_ids=(3, 17, 400, 9_000_000_001)):
    """Boxes of all sizes in images with non-consecutive ids; detections are shifted objects, duplicates and noise."""
    random = np.random.default_rng(seed)
    truth, detections = [], []
    for image_id in image_ids:
        for _ in range(8):
            width, height = random.uniform(8, 200, 2)
            bbox = [*random.uniform(0, 200, 2), width, height]
            category, crowd = int(random.integers(1, 3)), int(random.random() < 0.1)
            truth.append(ground_truth(image_id, bbox, category, area=width * height * 0.7, iscrowd=crowd))
            for _ in range(int(random.integers(0, 3))):
                jittered = np.array(bbox) + random.normal(0, 4, 4)
                detections.append(detection(image_id, jittered.clip(1).tolist(), float(random.random()), category))
        detections.append(detection(image_id, [300.0, 300.0, 50.0, 50.0], float(random.random()), 2))
    return list(image_ids), truth, detections


def test_ap_of_a_worked_example(annotation_file):
    """Two objects. By score: a hit, a miss, a hit of IoU 0.8. Precision is 1 up to recall 1/2, then 2/3 or 0."""
    path = annotation_file([5], [ground_truth(5, [0, 0, 100, 100]), ground_truth(5, [200, 200, 100, 100])], ["cat"])
    detections = [
        detection(5, [0, 0, 100, 100], 0.9),
        detection(5, [400, 0, 100, 100], 0.8),
        detection(5, [200, 200, 100, 80], 0.7),  # a hit at the IoU thresholds up to 0.8, which is its IoU
    ]
    metrics = evaluate_detections(path, detections)
    both, first = (51 + 50 * 2 / 3) / 101, 51 / 101  # 51 of the 101 recall points are in [0, 0.5]
    assert metrics["AP50"] == pytest.approx(both)
    assert metrics["AP75"] == metrics["AP80"] == pytest.approx(both)
    assert metrics["AP90"] == pytest.approx(first)
    assert metrics["AP"] == pytest.approx((7 * both + 3 * first) / 10)
    assert metrics["APL"] == pytest.approx(metrics["AP"])
    assert metrics["APS"] is None
    assert metrics["ARM"] is None
    assert metrics["AR1"] == pytest.approx(0.5)
    assert metrics["AR100"] == pytest.approx((7 * 1 + 3 * 0.5) / 10)
    assert metrics["per_class"] == {"cat": pytest.approx(metrics["AP"])}
    assert (metrics["images"], metrics["detections"]) == (1, 3)


@pytest.mark.parametrize("subset", [None, [17, 9_000_000_001]])
def test_metrics_agree_with_pycocotools(annotation_file, subset, capsys):
    ids, truth, detections = random_case()
    path = annotation_file(ids, truth)
    metrics = evaluate_detections(path, detections, subset)
    assert capsys.readouterr().out == ""

    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(path)
        theirs = COCOeval(dataset, dataset.loadRes([dict(d) for d in detections]), "bbox")
        theirs.params.imgIds = subset or ids
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = [-1 if metrics[name] is None else metrics[name] for name in METRICS]
    np.testing.assert_allclose(ours, theirs.stats)
    assert np.mean(list(metrics["per_class"].values())) == pytest.approx(metrics["AP"])
    assert metrics["images"] == len(subset or ids)
    assert metrics["detections"] == sum(d["image_id"] in (subset or ids) for d in detections)


def test_the_detections_are_not_changed(annotation_file):
    ids, truth, detections = random_case()
    before = json.dumps(detections)
    evaluate_detections(annotation_file(ids, truth), detections)
    assert json.dumps(detections) == before


def test_metrics_without_detections_are_zero(annotation_file):
    metrics = evaluate_detections(annotation_file([1], [ground_truth(1, [0, 0, 50, 50])]), [])
    assert metrics["AP"] == metrics["AP50"] == metrics["APM"] == metrics["AR100"] == 0.0
    assert metrics["APL"] is None
    assert metrics["per_class"] == {"cat": 0.0, "dog": None}
    assert (metrics["images"], metrics["detections"]) == (1, 0)


def test_false_positives_on_an_image_without_objects_count(annotation_file):
    path = annotation_file([1, 2], [ground_truth(1, [0, 0, 50, 50])])
    hit, miss = detection(1, [0, 0, 50, 50], 0.5), detection(2, [0, 0, 50, 50], 0.9)
    assert evaluate_detections(path, [hit])["AP"] == pytest.approx(1.0)
    assert evaluate_detections(path, [hit, miss])["AP"] == pytest.approx(0.5)
    assert evaluate_detections(path, [hit, miss], image_ids=[1])["AP"] == pytest.approx(1.0)


def test_metrics_without_ground_truth_are_none(annotation_file):
    metrics = evaluate_detections(annotation_file([1], []), [detection(1, [0, 0, 5, 5], 0.5)])
    assert all(metrics[name] is None for name in (*METRICS, *STRICT_METRICS))


def test_an_evaluation_without_images_is_refused(annotation_file):
    with pytest.raises(WorkbenchError, match="no images to evaluate"):
        evaluate_detections(annotation_file([], []), [])
    with pytest.raises(WorkbenchError, match="no images to evaluate"):
        evaluate_detections(annotation_file([1], []), [], image_ids=[])


def test_optional_keys_of_annotations_may_be_missing(annotation_file):
    """No `info`, `iscrowd` or `area`, null values, and an annotation with id 0, which pycocotools itself never matches."""
    boxes = [[0, 0, 20, 20], [100, 0, 50, 50], [200, 0, 120, 120]]
    sloppy = [ground_truth(1, boxes[0]), ground_truth(1, boxes[1], area=None, iscrowd=None), ground_truth(1, boxes[2])]
    path = annotation_file([1], sloppy, ["cat"], first_id=0)
    metrics = evaluate_detections(path, [detection(1, box, 0.5) for box in boxes])
    assert all(metrics[name] == pytest.approx(1.0) for name in ("AP", "APS", "APM", "APL", "AR100"))


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_a_detection_of_a_crowd_or_of_an_ignored_object_is_neither_hit_nor_miss(annotation_file, key):
    truth = [ground_truth(1, [0, 0, 50, 50]), ground_truth(1, [100, 0, 200, 200], **{key: 1})]
    detections = [detection(1, [110, 10, 50, 50], 0.9), detection(1, [0, 0, 50, 50], 0.5)]
    assert evaluate_detections(annotation_file([1], truth), detections)["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "box",
    [[60, 60, 0, 40], [60, 60, 40, 0], [0, 0, 0, 0], [640, 0, 50, 50], [0, 500, 50, 50], [-60, 0, 50, 50]],
    ids=["no width", "no height", "no size", "right of it", "below it", "left of it"],
)
def test_an_object_of_which_no_part_is_in_its_image_is_left_out_as_in_training(annotation_file, box):
    path = annotation_file([1], [ground_truth(1, [0, 0, 50, 50]), ground_truth(1, box, area=900)])
    assert evaluate_detections(path, [detection(1, [0, 0, 50, 50], 0.5)])["AP"] == pytest.approx(1.0)


def test_an_image_without_a_size_has_no_end(annotation_file):
    path = annotation_file([1], [ground_truth(1, [700, 500, 50, 50])])
    path.write_text(path.read_text().replace('"width": 640, "height": 480, ', ""))
    assert evaluate_detections(path, [detection(1, [700, 500, 50, 50], 0.5)])["AP"] == pytest.approx(1.0)


def test_classes_with_equal_names_are_distinguished_by_their_ids(annotation_file):
    path = annotation_file([1], [ground_truth(1, [0, 0, 50, 50], 2)], ["cat", "cat"])
    assert evaluate_detections(path, [])["per_class"] == {"cat (1)": None, "cat (2)": 0.0}


def test_unknown_ids_are_refused(annotation_file):
    path = annotation_file([1], [ground_truth(1, [0, 0, 50, 50])])
    box = [0, 0, 50, 50]
    with pytest.raises(WorkbenchError, match=r"images not in the file \(ids 7, 8, 9, …\)"):
        evaluate_detections(path, [detection(i, box, 0.5) for i in (10, 9, 8, 7)])
    with pytest.raises(WorkbenchError, match=r"unknown categories \(ids 80\)"):
        evaluate_detections(path, [detection(1, box, 0.5, 80)])
    with pytest.raises(WorkbenchError, match=r"images to evaluate that are not in the file \(ids 4\)"):
        evaluate_detections(path, [], image_ids=[1, 4])


@pytest.mark.parametrize(
    "content", ["[]", '{"images": [], "categories": []}', '{"images": 3}', '{"images": [{"width": 4}]}']
)
def test_files_that_are_not_annotations_are_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(WorkbenchError, match="no list '"):
        evaluate_detections(path, [])


@pytest.mark.parametrize("broken", [{"bbox": [1, 2, 3]}, {"bbox": None}, {"image_id": None}], ids=str)
def test_an_incomplete_annotation_is_named(annotation_file, broken):
    entry = {k: v for k, v in (ground_truth(1, [0, 0, 5, 5]) | broken).items() if k == "bbox" or v is not None}
    with pytest.raises(WorkbenchError, match="annotation 1 has "):
        evaluate_detections(annotation_file([1], [entry]), [])


def test_detections_are_read(tmp_path):
    path = tmp_path / "detections.json"
    detections = random_case()[2]
    path.write_text(json.dumps(detections))
    assert read_detections(path) == detections


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1', "truncated"),
        ('{"detections": []}', "not a list"),
        ("[3]", "detection 0 is not an object"),
        ('[{"image_id": 1, "bbox": [0, 0, 1, 1]}]', "detection 0 lacks category_id, score"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1], "score": 1}]', "four finite numbers"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, NaN], "score": 1}]', "the number NaN"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": null}]', "score"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": true}]', "score"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1e400}]', "the number 1e400"),
        (f'[{{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, {"9" * 400}], "score": 1}}]', "more than 64 bits"),
        ('[{"image_id": true, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "whole number"),
        ('[{"image_id": "1", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "whole number"),
    ],
)
def test_unusable_detections_are_reported_in_one_line(tmp_path, content, message):
    path = tmp_path / "detections.json"
    path.write_text(content)
    with pytest.raises(WorkbenchError, match=message) as error:
        read_detections(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_detections_are_reported(tmp_path):
    with pytest.raises(WorkbenchError, match="not found"):
        read_detections(tmp_path / "detections.json")
