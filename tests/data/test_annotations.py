"""One reader for training and evaluation: what is accepted means the same in both."""

from __future__ import annotations

import codecs
import json

import pytest

from workbench.data.annotations import read_annotations
from workbench.data.coco import annotation_path, read_coco
from workbench.evaluation.coco_metrics import evaluate_detections, run_evaluation

SPLIT = "train2017"


def every(key, **changes):
    """Function that changes all entries of a list."""
    return lambda document: [entry.update(changes) for entry in document[key]]


def first(key, **changes):
    """Function that changes the first entry of a list."""
    return lambda document: document[key][0].update(changes)


def text_of(*keys, kind="annotations"):
    """Function that turns values of all entries of a list into text."""

    def change(document):
        for entry in document[kind]:
            for key in keys:
                value = entry[key]
                entry[key] = [str(part) for part in value] if isinstance(value, list) else str(value)

    return change


def dropped(key, *keys):
    """Function that removes keys of all entries of a list."""
    return lambda document: [entry.pop(k) for entry in document[key] for k in keys]


def named_ids(document):
    """Give all images and categories ids that are text."""
    for image in document["images"]:
        image["id"] = f"picture {image['id']}"
    for category in document["categories"]:
        category["id"] = f"kind {category['id']}"
    for annotation in document["annotations"]:
        annotation["image_id"] = f"picture {annotation['image_id']}"
        annotation["category_id"] = f"kind {annotation['category_id']}"


def judged(root):
    """Metrics of one detection that is a hit and one that is a miss."""
    detections = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [50, 20, 30, 40], "score": 0.5},
    ]
    return evaluate_detections(annotation_path(root, SPLIT), detections)


def trained(root, training=True):
    """Ids, names, boxes and labels of the images to train on."""
    data = read_coco(root, SPLIT, training=training)
    images = [(i.id, i.width, i.height, i.boxes.tolist(), i.labels.tolist()) for i in data.images]
    return data.category_ids, data.class_names, images


SAME = {
    "area as text": (text_of("area"), "'area' of 2 annotation entries is text"),
    "area missing": (dropped("annotations", "area"), "2 annotations state no area above 0"),
    "area null": (every("annotations", area=None), "no area above 0"),
    "area 0": (every("annotations", area=0), "no area above 0"),
    "area negative": (every("annotations", area=-3.5), "no area above 0"),
    "area NaN": (every("annotations", area=float("nan")), "no area above 0"),
    "boxes as text": (text_of("bbox"), "'bbox' of 2 annotation entries is text"),
    "boxes as exponents": (every("annotations", bbox=["1e1", "20.", "+30", "4.0E1"]), "'bbox' of 2"),
    "all numbers as text": (text_of("id", "image_id", "category_id", "bbox", "area"), "'image_id' of 2"),
    "sizes as text": (text_of("width", "height", kind="images"), "'width' of 2 image entries is text"),
    "sizes as fractions": (every("images", width=100.0, height=80.0), ""),
    "ids as text": (text_of("id", kind="images"), "'id' of 2 image entries is text"),
    "category ids as text": (text_of("id", kind="categories"), "'id' of 2 category entries is text"),
    "ids that are names": (named_ids, "ids of image entries are text; they are numbered from 1 in file order"),
    "crowd as text 0": (every("annotations", iscrowd="0"), "'iscrowd' of 2"),
    "crowd as text false": (every("annotations", iscrowd="False"), "'iscrowd' of 2"),
    "crowd false": (every("annotations", iscrowd=False), ""),
    "crowd 0.0": (every("annotations", iscrowd=0.0), ""),
    "crowd null": (every("annotations", iscrowd=None), ""),
    "crowd missing": (dropped("annotations", "iscrowd"), ""),
    "ignore 0": (every("annotations", ignore=0), ""),
    "ignore as text": (every("annotations", ignore="0"), "'ignore' of 2"),
    "annotation ids missing": (dropped("annotations", "id"), "2 annotations have no id"),
    "annotation ids as text": (text_of("id"), "'id' of 2 annotation entries is text"),
    "annotation ids that are names": (
        lambda d: [a.update(id=f"{a['id']}-9f-0a") for a in d["annotations"]],
        "ids of annotation entries are text",
    ),
    "one annotation id missing": (first("annotations", id=None), "1 annotations have no id"),
    "category repeated": (lambda d: d["categories"].append(d["categories"][0]), "1 categories are listed again"),
    "segmentation of the wrong form": (every("annotations", segmentation={"a": [[[]]]}), ""),
}


@pytest.mark.parametrize("case", SAME)
def test_an_unusual_spelling_means_the_same_in_training_and_evaluation(write, document, case):
    change, note = SAME[case]
    for annotation in document["annotations"]:  # equal boxes and area w x h, so that no area changes nothing
        annotation.update(bbox=[10, 20, 30, 40], area=1200)
    plain = write(document)
    before = trained(plain), judged(plain)
    change(document)
    root = write(document)
    assert (trained(root), judged(root)) == before
    notes = read_coco(root, SPLIT, training=True).notes
    assert any(note in line for line in notes) if note else not notes


@pytest.mark.parametrize("value", [1, True, 1.0, "1", "true", " True "], ids=repr)
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_a_crowd_or_an_ignored_object_is_left_out_of_training_and_of_the_count_of_objects(write, document, key, value):
    document["annotations"][0][key] = value
    root = write(document)
    assert [len(image.labels) for image in read_coco(root, SPLIT, training=True).images] == [0, 1]
    assert run_evaluation(annotation_path(root, SPLIT), []).objects.sum() == 1


def test_one_class_without_a_list_of_categories_is_named_object(write, document):
    del document["categories"]
    for annotation in document["annotations"]:
        annotation["category_id"] = 7
    root = write(document)
    data = read_coco(root, SPLIT, training=True)
    assert (data.category_ids, data.class_names) == ((7,), ("object",))
    assert data.notes == ("no list 'categories'; all annotations are of one class, named 'object'",)
    detection = {"image_id": 1, "category_id": 7, "bbox": [10, 20, 30, 40], "score": 0.9}
    assert evaluate_detections(annotation_path(root, SPLIT), [detection])["per_class"] == {
        "object": pytest.approx(51 / 101)
    }


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", codecs.BOM_UTF8), ("utf-16", b""), ("utf-16-le", codecs.BOM_UTF16_LE), ("utf-16-be", codecs.BOM_UTF16_BE),
     ("utf-16-le", b""), ("utf-32", b"")],
)  # fmt: skip
def test_encodings_of_unicode_are_read(write, document, encoding, mark):
    document["categories"][0]["name"] = "Kätzchen"
    root = write(mark + json.dumps(document, ensure_ascii=False).encode(encoding))
    for image in document["images"]:
        (root / SPLIT / image["file_name"]).touch()
    assert read_coco(root, SPLIT, training=True).class_names == ("Kätzchen", "dog")
    assert "Kätzchen" in judged(root)["per_class"]


def test_boxes_that_look_like_corners_are_noted(write, document):
    for annotation in document["annotations"]:
        annotation["bbox"] = [60, 50, 90, 70]
    notes = read_annotations(annotation_path(write(document), SPLIT)).notes
    assert notes == (
        "2 of 2 boxes end outside their image and look like corners x1, y1, x2, y2; COCO's boxes are x, y, width, height",
    )
    document["annotations"] += [{**document["annotations"][0], "id": 20, "bbox": [60, 50, 20, 20], "area": 400}]
    notes = read_annotations(annotation_path(write(document), SPLIT)).notes  # most boxes: this one is no corner
    assert notes[0].startswith("2 of 3 boxes end outside their image and look like corners")
    document["annotations"] = document["annotations"][1:]
    assert not read_annotations(annotation_path(write(document), SPLIT)).notes


def test_half_of_a_surrogate_pair_in_a_class_name_is_replaced(write, document):
    document["categories"][0]["name"] = "cat \ud83d"
    root = write(document)
    data = read_coco(root, SPLIT, training=True)
    assert data.class_names == ("cat \N{REPLACEMENT CHARACTER}", "dog")
    assert "contains half of a surrogate pair" in data.notes[0]
    "".join([*data.class_names, *data.notes]).encode()
    assert list(judged(root)["per_class"]) == ["cat \N{REPLACEMENT CHARACTER}", "dog"]


def test_categories_with_equal_names_are_noted(write, document):
    document["categories"][1]["name"] = "cat"
    assert read_annotations(annotation_path(write(document), SPLIT)).notes == (
        "2 categories are named 'cat' (ids 1, 2); they are different classes",
    )


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_the_files_of_coco_need_no_note(shared_data, split):
    assert read_annotations(annotation_path(shared_data / "coco-tiny", split)).notes == ()
