"""The COCO reader: ids, filters, and a message in one line for each fault of a file."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from workbench.data.coco import read_coco
from workbench.support.errors import WorkbenchError


def read_training(root, **options):
    return read_coco(root, "train2017", training=True, **options)


@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 2, 3), (90, 7, 13)], ids=["0-based", "1-based", "gapped, unordered"])
def test_category_ids_become_contiguous_in_ascending_order(write, document, ids):
    document["categories"] = [{"id": i, "name": f"class {i}"} for i in ids]
    template = document["annotations"][0]
    document["annotations"] = [template | {"id": k, "category_id": i} for k, i in enumerate(ids)]
    data = read_training(write(document))
    assert data.category_ids == tuple(sorted(ids))
    assert data.class_names == tuple(f"class {i}" for i in sorted(ids))
    assert [data.category_ids[label] for label in data.images[0].labels] == list(ids)


def test_records_contain_the_entries_of_the_file(write, document):
    document["annotations"][1] |= {"image_id": 1, "bbox": [-5.5, 70, 20, 30]}
    root = write(document)
    data = read_coco(root, "train2017", training=False)
    first, second = data.images
    assert (first.id, first.file_name, first.width, first.height) == (1, "1.jpg", 100, 80)
    assert first.path == root / "train2017" / "1.jpg"
    np.testing.assert_array_equal(first.boxes, np.float32([[10, 20, 40, 60], [-5.5, 70, 14.5, 100]]))  # not clipped
    assert (first.boxes.dtype, first.labels.dtype, first.labels.tolist()) == (np.float32, np.int64, [0, 1])
    assert (second.boxes.shape, second.labels.shape) == ((0, 4), (0,))
    assert data.skipped == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 99}, "annotations of unknown categories"),
        ({"iscrowd": 1}, "crowd annotations"),
        ({"ignore": 1}, "annotations flagged ignore"),
        ({"bbox": [100, 10, 20, 20]}, "annotations empty or outside their image"),
        ({"bbox": [10, -20, 20, 20]}, "annotations empty or outside their image"),
        ({"bbox": [10, 10, 0.9, 20]}, "annotations under 1 pixel"),
        ({"bbox": [10, 10, 20, 0.9]}, "annotations under 1 pixel"),
    ],
)
def test_unusable_annotations_are_left_out(write, document, change, reason):
    document["annotations"][0] |= change
    root = write(document)
    data = read_coco(root, "train2017", training=False)
    assert data.skipped == {reason: 1}
    assert [len(image.labels) for image in data.images] == [0, 1]
    # An image is kept in training if any annotation has a listed category, even if the annotation is left out.
    expected = [2] if "unknown" in reason else [1, 2]
    assert [image.id for image in read_training(root).images] == expected


def test_annotations_at_the_limits_are_kept(write, document):
    document["annotations"][0] |= {"bbox": [99, 79, 1, 1]}
    document["annotations"][1].pop("iscrowd")
    document["annotations"][1].pop("area")  # the default is width times height
    document["annotations"].append(document["annotations"][1] | {"id": 50, "area": None})
    data = read_training(write(document))
    assert [len(image.labels) for image in data.images] == [1, 2]


def test_unusable_images_are_left_out_of_training(write, document):
    document["images"] += [
        {"id": 3, "file_name": "3.jpg", "width": 200, "height": 31},
        {"id": 4, "file_name": "4.jpg", "width": 200, "height": 32},
        {"id": 5, "file_name": "5.jpg", "width": 200, "height": 200},
    ]
    template = document["annotations"][0]
    document["annotations"] += [template | {"id": 20 + i, "image_id": i, "bbox": [0, 0, 9, 9]} for i in (3, 4)]
    root = write(document)
    data = read_training(root)
    assert [image.id for image in data.images] == [1, 2, 4]
    assert data.skipped == {"images without annotations": 1, "images under 32 pixels": 1}
    assert [image.id for image in read_coco(root, "train2017", training=False).images] == [1, 2, 3, 4, 5]
    assert [image.id for image in read_training(root, limit=2).images] == [1, 2]


def broken(**changes):
    """Function that changes the first entry of lists of the document."""

    def apply(document):
        for name, change in changes.items():
            document[name][0] |= change

    return apply


def without(name, key):
    """Function that deletes a key of the first entry of a list."""

    def apply(document):
        del document[name][0][key]

    return apply


def emptied(*names):
    """Function that empties lists of the document."""

    def apply(document):
        for name in names:
            document[name] = []

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("annotations"), "no list 'annotations'"),
        (lambda d: d.update(images={}), "no list 'images'"),
        (emptied("categories"), "'categories' is empty, and the annotations name 2 categories; add at least one"),
        (lambda d: d.pop("categories"), "no list 'categories', and the annotations name 2 categories; add"),
        (lambda d: d.update(categories="cat"), "'categories' is 'cat'; use a list of objects"),
        (emptied("images", "annotations"), "no images are left"),
        (emptied("annotations"), "no images are left (left out: 2 images without annotations)"),
        (lambda d: [a.update(iscrowd=1) for a in d["annotations"]], "no annotations are left to train on"),
        (broken(images={"id": 2}), "image id 2 occurs 2 times"),
        (broken(annotations={"id": 12}), "annotation id 12 occurs 2 times"),
        (broken(categories={"id": 2}), "category id 2 occurs 2 times; make the ids unique"),
        (broken(images={"file_name": "2.jpg"}), "the images 1 and 2 have the same 'file_name' '2.jpg'; give all"),
        (broken(images={"file_name": "./2.jpg"}), "the images 1 and 2 have the same 'file_name'"),
        (broken(annotations={"bbox": [1, 2, -3, 4]}), "annotation 11 has a box with a negative width or height"),
        (broken(annotations={"bbox": [1, 2, float("nan"), 4]}), "annotation 11 has a box with NaN or infinity"),
        (broken(annotations={"bbox": [1, 2, 3]}), "annotation 11 has the 'bbox' [1, 2, 3]; use 4 numbers"),
        (broken(annotations={"bbox": {"x": 1}}), "annotation 11 has the 'bbox'"),
        (broken(annotations={"area": "big"}), "annotation 11 has the 'area' 'big'; use a number"),
        (broken(annotations={"image_id": 77}), "annotation 11 belongs to image 77"),
        (broken(images={"id": 1.5}), "image number 1 of the file has the 'id' 1.5; use a whole number"),
        (broken(images={"id": True}), "the 'id' True; use a whole number"),
        (broken(annotations={"category_id": 1.5}), "the 'category_id' 1.5"),
        (broken(annotations={"id": 2**70}), "use a whole number"),
        (broken(images={"width": 0}), "image 1 has the size 0x80"),
        (broken(images={"file_name": None}), "image 1 has no 'file_name'; enter a name"),
        (broken(images={"file_name": ["1.jpg"]}), "image 1 has the 'file_name' ['1.jpg']; enter a name"),
        (broken(images={"width": "broad"}), "image 1 has the 'width' 'broad'; use a whole number"),
        (without("images", "id"), "image number 1 of the file has no 'id'; add it"),
        (without("annotations", "bbox"), "annotation 11 has no 'bbox'; add it"),
        (without("annotations", "category_id"), "annotation 11 has no 'category_id'; add it"),
        (without("categories", "name"), "category 1 has no 'name'; enter a name"),
        (lambda d: d["annotations"].insert(0, "x"), "annotation number 1 of the file is 'x'; use an object with keys"),
    ],
)
def test_faults_of_a_file_are_reported_in_one_line(write, document, change, message):
    change(document)
    root = write(document)
    with pytest.raises(WorkbenchError) as error:
        read_training(root)
    text = str(error.value)
    assert message in text
    assert text.startswith(str(root / "annotations" / "instances_train2017.json"))
    assert "\n" not in text


def test_missing_images_are_reported_when_the_file_is_read(write, document):
    """Images that are left out are not checked; an image in a subfolder is checked in the subfolder."""
    document["images"][1] |= {"file_name": "more/2.jpg"}
    document["annotations"][1] |= {"image_id": document["images"][1]["id"]}
    (write({}) / "train2017" / "more").mkdir()
    root = write(document)
    folder = root / "train2017"
    assert [image.path.name for image in read_training(root).images] == ["1.jpg", "2.jpg"]
    (folder / "more" / "2.jpg").rename(folder / "2.jpg")
    with pytest.raises(WorkbenchError, match=r"/more/2\.jpg: no such image; copy it there or remove it from the ann"):
        read_training(root)
    assert len(read_training(root, limit=1).images) == 1
    (folder / "1.jpg").unlink()
    with pytest.raises(
        WorkbenchError, match=r"/1\.jpg: no such image \(2 of 2 images of .+\.json are missing\); copy it"
    ):
        read_training(root)
    (folder / "more").rmdir()
    with pytest.raises(WorkbenchError, match=r"/1\.jpg: no such image \(2 of 2"):
        read_training(root)


def test_missing_and_truncated_files_are_reported(write, document, tmp_path):
    with pytest.raises(WorkbenchError, match="no such data folder"):
        read_training(tmp_path / "nowhere")
    with pytest.raises(WorkbenchError, match=r"instances_val2017\.json: no such annotation file; put"):
        read_coco(write(document), "val2017", training=False)
    with pytest.raises(
        WorkbenchError, match=r"not valid JSON at line 4, column 12 .*probably incomplete; copy the file again"
    ):
        read_training(write(json.dumps(document, indent=1)[:30]))
    with pytest.raises(WorkbenchError, match="no list 'images'"):
        read_training(write("[1, 2]"))


def test_reading_does_not_import_torch():
    code = "import sys, workbench.data.coco, workbench.settings.digest; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_coco_and_bccd_are_read(shared_data):
    data = read_coco(shared_data / "coco-tiny", "train2017", training=True)
    assert (len(data.images), len(data.category_ids), data.category_ids[-1]) == (80, 80, 90)
    assert sum(len(image.labels) for image in data.images) == 705 - sum(data.skipped.values())
    data = read_coco(shared_data / "bccd", "val2017", training=False)
    assert (len(data.images), data.category_ids) == (72, (1, 2, 3))
