"""Pascal VOC's format: the origin of its pixels, its lists of splits, and layouts of other tools."""

import json

import pytest

from tests.convert.small import SIZE, converted, refused, save_image, save_text, save_xml, voc_object
from workbench.support.errors import WorkbenchError

WHOLE = ["cat", 0, 0, 40, 30]


@pytest.fixture
def root(tmp_path):
    """Two images of train and one of val."""
    root = tmp_path / "voc"
    for name in ("a", "b", "c"):
        save_image(root / f"JPEGImages/{name}.jpg")
        save_xml(root / f"Annotations/{name}.xml", voc_object("cat", (1, 1, 40, 30)))
    save_text(root / "ImageSets/Main/train.txt", "a\nb\n")
    save_text(root / "ImageSets/Main/val.txt", "c\n")
    return root


def test_pixels_are_counted_from_1_and_the_last_one_belongs_to_the_box(root):
    save_xml(root / "Annotations/a.xml", voc_object("cat", (5, 7, 5, 9)), voc_object("dog", (2.5, 1, 10.5, 2)))
    objects, report = converted("voc", root)
    assert objects["train"] == {"a.jpg": [["cat", 4, 6, 1, 3], ["dog", 1.5, 0, 9, 2]], "b.jpg": [WHOLE]}
    assert "x = xmin - 1, width = xmax - xmin + 1 (--counted-from 1)" in report


def test_counted_from_0_the_corners_are_positions(root):
    for name in "abc":
        save_xml(root / f"Annotations/{name}.xml", voc_object("cat", (0, 0, 40, 30)))
    objects, report = converted("voc", root, counted_from=0)
    assert objects == {"train": {"a.jpg": [WHOLE], "b.jpg": [WHOLE]}, "val": {"c.jpg": [WHOLE]}}
    assert "x = xmin, width = xmax - xmin (--counted-from 0)" in report


def test_boxes_before_pixel_1_are_noted(root):
    save_xml(root / "Annotations/b.xml", voc_object("cat", (0, 3, 9, 9)))
    assert (
        "note: 1 boxes begin before pixel 1; if the files count from 0, add --counted-from 0 (first: "
        in (converted("voc", root)[1])
    )


def test_difficult_objects_are_ignored_and_parts_are_no_objects(root):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    difficult = voc_object("cat", (1, 1, 9, 9), difficult=1)
    save_xml(root / "Annotations/a.xml", difficult, voc_object("cat", (1, 1, 9, 9)).replace("<bnd", f"{part}<bnd"))
    objects, report = converted("voc", root)
    assert objects["train"]["a.jpg"] == [["cat", 0, 0, 9, 9]] * 2
    content = json.loads((root.parent / "converted/annotations/instances_train2017.json").read_text())
    assert [(a.get("ignore"), a["iscrowd"]) for a in content["annotations"]] == [(1, 0), (None, 0), (None, 0)]
    assert "1 objects are difficult and get 'ignore'" in report


def test_a_list_may_name_files_and_flags(root):
    save_text(root / "ImageSets/Main/train.txt", "JPEGImages/a.jpg\r\n\r\nb  1\r\n")
    assert list(converted("voc", root)[0]["train"]) == ["a.jpg", "b.jpg"]


def test_trainval_is_train_if_there_is_no_other_list(root):
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trainval.txt")
    save_text(root / "ImageSets/Main/cat_train.txt", "c 1\n")
    assert list(converted("voc", root)[0]["train"]) == ["a.jpg", "b.jpg"]


def test_annotations_in_no_list_are_left_out_with_a_note(root):
    save_text(root / "ImageSets/Main/train.txt", "a\n")
    objects, report = converted("voc", root)
    assert list(objects["train"]) == ["a.jpg"]
    assert "note: 1 XML files are in no list of ImageSets/Main and are left out (first: b.xml)" in report


def test_without_lists_all_images_are_one_split(root):
    (root / "ImageSets/Main/train.txt").unlink()
    (root / "ImageSets/Main/val.txt").unlink()
    objects, report = converted("voc", root)
    assert {split: list(images) for split, images in objects.items()} == {"default": ["a.jpg", "b.jpg", "c.jpg"]}
    assert (
        "a training tests on a part of the images; to choose it, list them in ImageSets/Main/train.txt and val.txt"
        in report
    )


def test_xml_files_beside_their_images_in_folders_of_splits(tmp_path):
    """Upper case, subfolders, equal names in two folders, and names in any script."""
    root = tmp_path / "export"
    for name in ("train/Käse.JPG", "train/sub/Käse.jpeg", "valid/図.png"):
        save_image(root / name)
        save_xml((root / name).with_suffix(".xml"), voc_object(" cat ", (1, 1, 40, 30)))
    save_image(root / "train/unlabelled.jpg")
    objects, report = converted("voc", root)
    assert objects == {"train": {"Käse.JPG": [WHOLE], "sub/Käse.jpeg": [WHOLE]}, "val": {"図.png": [WHOLE]}}
    assert "note: 1 images have no XML annotations and are left out (first: unlabelled.jpg)" in report


def test_the_image_of_an_annotation_is_found_by_its_stem_then_by_its_filename(tmp_path):
    root = tmp_path / "flat"
    for name in ("a.jpg", "a.png", "b.jpg"):
        save_image(root / name)
    save_xml(root / "a.xml", voc_object("cat", (1, 1, 40, 30)), filename="a.png")
    save_xml(root / "other.xml", voc_object("cat", (1, 1, 40, 30)), filename=r"C:\pictures\b.jpg")
    assert converted("voc", root)[0]["default"] == {"a.png": [WHOLE], "b.jpg": [WHOLE]}


@pytest.mark.parametrize(("size", "stated"), [((30, 40), (40, 30)), ((40, 30), (40, 30)), ((30, 40), (0, 0))])
def test_an_image_that_exif_turns_has_its_stated_size(root, size, stated):
    """Stored as 30x40 and shown as 40x30, or stored as 40x30; a size of 0 states nothing."""
    save_image(root / "JPEGImages/a.jpg", size, orientation=6)
    save_xml(root / "Annotations/a.xml", voc_object("cat", (1, 1, 40, 30)), size=stated)
    assert converted("voc", root)[0]["train"]["a.jpg"] == [WHOLE]
    content = json.loads((root.parent / "converted/annotations/instances_train2017.json").read_text())
    assert (content["images"][0]["width"], content["images"][0]["height"]) == SIZE


XML = "Annotations/a.xml"
FAULTS = {
    "broken XML": (lambda r: save_text(r / XML, "<annotation><obj"), "a.xml: not valid XML (unclosed token"),
    "another XML": (lambda r: save_text(r / XML, "<kml/>"), "a.xml: not an annotation of Pascal VOC but <kml>; move"),
    "no corners": (lambda r: save_xml(r / XML, "<object><name>x</name></object>"), "a.xml object 1: has no xmin in a bndbox; state"),
    "no number": (lambda r: save_xml(r / XML, voc_object("x", (1, "nan", 3, 4))), "a.xml object 1: has the ymin 'nan'; state"),
    "huge number": (lambda r: save_xml(r / XML, voc_object("x", (1, 2, "1e300", 4))), "a.xml object 1: has the xmax '1e300'; state"),
    "no name": (lambda r: save_xml(r / XML, voc_object(" ", (1, 2, 3, 4))), "a.xml object 1: has no name; add"),
    "exchanged corners": (lambda r: save_xml(r / XML, voc_object("x", (9, 1, 3, 4))), "ends before it begins (9, 1, 3, 4); exchange"),
    "image missing": (lambda r: (r / "JPEGImages/a.jpg").unlink(), "Annotations/a.xml: its image a is missing; copy"),
    "annotation missing": (lambda r: (r / XML).unlink(), "train.txt line 1: 'a' has no XML file in Annotations/; add"),
    "two images": (lambda r: save_image(r / "JPEGImages/a.png"), "a.xml: belongs to JPEGImages/a.jpg and JPEGImages/a.png; give"),
    "in two lists": (lambda r: save_text(r / "ImageSets/Main/val.txt", "a\nc\n"), "JPEGImages/a.jpg: is in train and in val; remove"),
    "another size": (lambda r: save_image(r / "JPEGImages/a.jpg", (50, 30)), "the image has 50x30 pixels, but the annotations state 40x30"),
    "damaged image": (lambda r: (r / "JPEGImages/a.jpg").write_bytes(b"no"), "a.jpg: not a readable JPEG, PNG, WebP or GIF image"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_one_line_and_nothing_is_written(root, name):
    refused("voc", root, *FAULTS[name])


def test_one_message_lists_each_kind_of_fault(root):
    for name in "ab":
        (root / f"JPEGImages/{name}.jpg").unlink()
    save_xml(root / "Annotations/c.xml", voc_object("", (1, 2, 3, 4)))
    with pytest.raises(WorkbenchError, match=r"voc: 2 kinds of faults: \(1\) .*a\.xml.*\(and 1 more of this kind\)"):
        converted("voc", root)


def test_a_folder_of_data_sets_and_a_folder_without_any(root, tmp_path):
    with pytest.raises(WorkbenchError, match=r"contains 1 data sets of Pascal VOC; name one of them, such as .*voc"):
        converted("voc", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WorkbenchError, match="no XML files in Annotations/, train/"):
        converted("voc", tmp_path / "empty")
