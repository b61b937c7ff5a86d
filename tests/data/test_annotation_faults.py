"""Faults of annotation files: training and evaluation refuse a file alike, in one line with all its faults."""

from __future__ import annotations

import bz2
import json
import lzma
import os
import pickle

import pytest

from tests.data.test_annotations import SPLIT, first
from workbench.data.coco import annotation_path, read_coco
from workbench.data.document import _not_json
from workbench.data.findings import KINDS
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.support.errors import WorkbenchError

WRONG = {  # content of a file: parts of the message
    "Windows-1252": (
        '{"name": "Kätzchen"}'.encode("cp1252"),
        ["not UTF-8 (byte 0xe4 in line 1)", "Kätzchen", "save the"],
    ),
    "Windows-1251": ('{\n"name": "Кот"}'.encode("cp1251"), ["not UTF-8 (byte 0xca in line 2)", "Windows code page"]),
    "cut in a character": ('{"name": "Kä'.encode()[:-1], ["ends in the middle of a character; copy"]),
    "zip": (b"PK\x03\x04\x14\x00", ["a zip file; unpack it"]),
    "gzip": (b"\x1f\x8b\x08\x00", ["a gzip file; unpack it"]),
    "bzip2": (bz2.compress(b"{}"), ["a bzip2 file; unpack it"]),
    "xz": (lzma.compress(b"{}"), ["an xz file; unpack it"]),
    "zstandard": (b"\x28\xb5\x2f\xfd\x04\x00", ["a zstandard file; unpack it"]),
    "pickle": (pickle.dumps({"images": [0.5]}), ["not text", "use a file in COCO's instances format"]),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ["not text", "use a file in COCO's instances format"]),
    "zeros": (bytes(100), ["not text", "copy the file again"]),
    "empty": (b"", ["the file is empty; copy the file again"]),
    "blank": (b" \n", ["the file is empty; copy the file again"]),
    "cut": (
        b'{"images": [{"id": 1}, ',
        ["not valid JSON at line 1, column 24", "probably incomplete; copy the file again"],
    ),
    "cut in a text": (
        b'{"images": [{"id": "a',
        ["not valid JSON at line 1, column 20", "probably incomplete; copy the file again"],
    ),
    "cut in a word": (b'{"images": [], "annotations": [{"iscrowd": fals', ["incomplete; copy the file again"]),
    "comma at the end": (
        b'{"images": [],}',
        ["column 15 (Expecting property name", "; correct it, or copy the file again"],
    ),
    "quotes of Python": (
        b"{'images': []}",
        ["column 2 (Expecting property name", "; correct it, or copy the file again"],
    ),
    "comment": (b"// all images\n{}", ["line 1, column 1 (Expecting value); correct it, or copy the file again"]),
    "web page": (b"<!DOCTYPE html>", ["line 1, column 1 (Expecting value); correct it, or copy the file again"]),
    "two documents": (b"{}\n{}", ["line 2, column 1 (Extra data); correct it, or copy the file again"]),
    "list twice": (
        b'{"images": [{"id": 1}], "annotations": [], "images": []}',
        ["the key 'images' occurs twice in one object; keep one"],
    ),
    "box twice": (
        b'{"images": [], "annotations": [{"bbox": [1, 2, 3, 4], "bbox": [0, 0, 1, 1]}]}',
        ["the key 'bbox' occurs twice in one object; keep one"],
    ),
    "deep lists": (b"[" * 100_000, ["nested too deeply"]),
    "deep objects": (b'{"images":' * 100_000, ["nested too deeply"]),
    "deep and closed": (b"[" * 5000 + b"]" * 5000, ["nested too deeply"]),
    "long number": (b'{"images": [{"id": ' + b"7" * 5000 + b"}]}", ["contains a number of 5000 digits; correct"]),
    "a number": (b"3", ["no list 'images'"]),
    "null": (b"null", ["no list 'images'"]),
    "lists of null": (
        b'{"images": [null], "annotations": [null], "categories": [null]}',
        ["number 1 of the file is None"],
    ),
    "lists of lists": (
        b'{"images": [[1]], "annotations": [[1]], "categories": [[1]]}',
        ["number 1 of the file is [1]"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_of_the_wrong_form_ends_in_one_line(write, case):
    content, parts = WRONG[case]
    refused(write(content), parts)


def refused(root, parts):
    """The same line from training and evaluation, which names the file."""
    path = annotation_path(root, SPLIT)
    messages = []
    for read in (lambda: read_coco(root, SPLIT, training=True), lambda: evaluate_detections(path, [])):
        with pytest.raises(WorkbenchError) as error:
            read()
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{path}: ")
    assert len(messages[0].splitlines()) == 1
    assert len(messages[0]) < len(str(path)) + 2000
    messages[0].encode()  # no half of a surrogate pair
    for part in parts:
        assert part in messages[0]


NAN = float("nan")
BAD = [[], {}, "x", True, [1], [[1]], {"a": 1}, 10**30, 1e400, NAN, 1.5]
FIELDS = [("images", "id"), ("images", "width"), ("images", "file_name"), ("annotations", "image_id"), ("annotations", "category_id"),
          ("annotations", "bbox"), ("annotations", "area"), ("annotations", "iscrowd"), ("annotations", "ignore"),
          ("categories", "id"), ("categories", "name")]  # fmt: skip
MEANT = {  # values that are fine for these keys
    "file_name": [10**30, 1.5, "x"],
    "name": [10**30, 1.5, "x"],
    "area": [10**30, NAN, 1.5],
    "iscrowd": [True],
    "ignore": [True],
    "id": ["x"],
    "image_id": ["x"],
    "category_id": ["x"],
}


@pytest.mark.parametrize(("kind", "key"), FIELDS)
def test_a_value_of_any_wrong_type_is_a_fault_of_its_entry(write, document, kind, key):
    for value in [v for v in BAD if not any(v is ok or v == ok for ok in MEANT.get(key, ()))]:
        document[kind][0][key] = value
        refused(write(document), [f"'{key}'" if (key, value) != ("area", 1e400) else "infinite"])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (first("annotations", bbox=[1, 2, 3, "4 px"]), "annotation 11 has the 'bbox' [1, 2, 3, '4 px']; use 4 numbers"),
        (first("annotations", bbox=["nan", 2, 3, 4]), "use 4 numbers"),
        (first("annotations", bbox=["1_0", 2, 3, 4]), "use 4 numbers"),
        (first("annotations", bbox=["1,5", 2, 3, 4]), "use 4 numbers"),
        (first("annotations", bbox=[1, [2], 3, 4]), "use 4 numbers"),
        (first("annotations", bbox=[1, True, 3, 4]), "use 4 numbers"),
        (first("annotations", bbox=[1, 2, 1e400, 4]), "annotation 11 has a box with NaN or infinity"),
        (first("annotations", bbox=[1, 2, 10**400, 4]), "annotation 11 has a box with NaN or infinity"),
        (first("annotations", bbox=[1, 2, 1e300, 4]), "annotation 11 has a box with a number over 1e+09"),
        (first("annotations", area=1e400), "annotation 11 has an infinite 'area'"),
        (first("annotations", area=[1200]), "annotation 11 has the 'area' [1200]; use a number"),
        (first("annotations", iscrowd=[1]), "annotation 11 has the 'iscrowd' [1]; use 0 or 1"),
        (first("annotations", iscrowd="no"), "annotation 11 has the 'iscrowd' 'no'; use 0 or 1"),
        (first("annotations", iscrowd=2), "use 0 or 1"),
        (first("annotations", id=2**63), "use a whole number of at most 64 bits"),
        (first("annotations", id=-(2**63) - 1), "use a whole number of at most 64 bits"),
        (first("annotations", image_id=2**64), "use a whole number of at most 64 bits"),
        (first("annotations", image_id="1.jpg"), "annotation 11 has the 'image_id' '1.jpg'"),
        (first("images", id=1.5), "use a whole number"),
        (first("images", file_name="a\0.jpg"), "zero byte or half of a surrogate pair; correct the name"),
        (first("images", file_name="\ud83d.jpg"), "image 1 has the 'file_name' '\\ud83d.jpg' with"),
        (first("categories", name=""), "category 1 has the 'name' ''; enter a name"),
        (first("categories", id=2), "category id 2 occurs 2 times; make the ids unique"),
        (first("images", file_name="2.jpg"), "the images 1 and 2 have the same 'file_name' '2.jpg'"),
        (lambda d: d["images"].append(d["images"][0]), "image id 1 occurs 2 times; make the ids unique"),
    ],
)
def test_a_value_without_a_certain_meaning_is_refused_alike_on_both_sides(write, document, change, part):
    root = write(document)
    change(document)
    (root / "annotations" / f"instances_{SPLIT}.json").write_text(json.dumps(document))
    refused(root, [part])


def test_all_faults_of_a_file_are_reported_at_once(write, document):
    document["annotations"] = [document["annotations"][0] | {"id": 100 + i, "bbox": "x"} for i in range(5)]
    document["annotations"][1] |= {"area": "big", "iscrowd": "maybe"}
    document["annotations"][2] |= {"image_id": 77}
    document["annotations"][3] |= {"category_id": None}
    document["images"][0] |= {"width": 0}
    parts = ["6 kinds of faults: ", "annotation 100 has the 'bbox' 'x' (and 4 more of this kind); use 4 numbers"]
    parts += [
        "annotation 101 has the 'area' 'big'",
        "annotation 101 has the 'iscrowd'",
        "annotation 102 belongs to image 77",
    ]
    refused(write(document), [*parts, "annotation 103 has no 'category_id'", "image 1 has the size 0x80"])


def test_a_message_is_short_however_many_and_however_large_the_faults_are(write, document):
    huge = [["x" * 500] * 10] * 3
    keys = ("bbox", "area", "iscrowd", "ignore", "image_id", "category_id", "id")
    document["annotations"] = [dict.fromkeys(keys, huge)] * 50
    document["images"] = [dict.fromkeys(("width", "height", "file_name", "id"), huge)] * 50
    document["categories"] = [dict.fromkeys(("id", "name"), huge)]
    refused(write(json.dumps(document)), [" more kinds are not listed.", f"({KINDS}) "])


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_folder_or_a_pipe_is_not_read(write, document, kind):
    root = write(document)
    path = annotation_path(root, SPLIT)
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    refused(root, ["this is a folder" if kind == "folder" else "this is a pipe", "; put the file there"])


def test_a_file_that_was_cut_at_any_place_is_called_incomplete():
    text = '{"a": [1.25, -3.5e-3, "x", true, {"b": null}]}'
    for length in range(1, len(text)):
        with pytest.raises(json.JSONDecodeError) as cut:
            json.loads(text[:length])
        assert "probably incomplete; copy the file again" in _not_json(cut.value), text[:length]
