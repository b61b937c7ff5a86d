"""Both splits are checked before the first step: categories, and the header of every image."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from workbench.data import images
from workbench.data.coco import read_coco
from workbench.data.headers import Header, read_header
from workbench.data.splits import read_splits, refuse_other_categories
from workbench.data.transforms import decode_image
from workbench.support.errors import WorkbenchError

CLASSES = 2


@pytest.fixture
def root(write, document):
    """Data set with two images in both splits."""
    write(document, images=True, split="val2017")
    return write(document, images=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Cache folder of a user, for data sets of any size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "CACHED_FROM", 1)
    return tmp_path / "cache" / "vfnet-workbench"


def picture(path, width=100, height=80, orientation=None, **options):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][274] = orientation
    Image.fromarray(pixels).save(path, **options)


def test_sound_splits_are_read_without_a_note(root):
    train, val = read_splits(root, CLASSES)
    assert [len(split.images) for split in (train, val)] == [2, 2]
    assert train.notes == val.notes == ()
    assert (train.split, val.split) == ("train2017", "val2017")


SWAPPED = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
OTHER = {  # categories of val2017 and parts of the message
    "names swapped": (SWAPPED, ["are 1 'dog', 2 'cat' (2 in total)", "has 1 'cat', 2 'dog' (2 in total)"]),
    "names reordered": (SWAPPED[::-1], ["are 1 'dog', 2 'cat'", "has 1 'cat', 2 'dog'"]),
    "one name": (
        [{"id": 1, "name": "Cat"}, {"id": 2, "name": "dog"}],
        ["are 1 'Cat', 2 'dog'", "has 1 'cat', 2 'dog'"],
    ),
    "ids": ([{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], ["are 0 'cat', 1 'dog'", "has 1 'cat', 2 'dog'"]),
    "one more": ([*SWAPPED[::-1], {"id": 3, "name": "cow"}], ["3 'cow' (3 in total)", "2 'dog' (2 in total)"]),
    "half of a pair": ([{"id": 1, "name": "\n|$x$"}, {"id": 2, "name": "dog"}], ["are 1 '\\n|$x$', 2 'dog'"]),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_categories_in_the_splits_are_refused_with_both_lists(root, write, document, case):
    categories, parts = OTHER[case]
    document["categories"], document["annotations"] = categories, []
    write(document, images=True, split="val2017")
    message = refusal(root)
    assert message.startswith(f"{root}/annotations/instances_val2017.json: the categories are ")
    for part in (*parts, "but instances_train2017.json has", "give both the same categories"):
        assert part in message


def test_long_lists_of_categories_are_shown_from_the_first_difference(root, write, document):
    names = [f"class {i}" for i in range(80)]
    for split, swapped in (("train2017", names), ("val2017", [*names[:50], names[51], names[50], *names[52:]])):
        document["categories"] = [{"id": i, "name": name} for i, name in enumerate(swapped)]
        write(document, images=True, split=split)
    message = refusal(root, 80)
    assert "…, 50 'class 51', 51 'class 50'," in message
    assert "…, 50 'class 50', 51 'class 51'," in message
    assert len(message) < 800


def test_categories_of_a_training_are_compared_by_name(root):
    data = read_coco(root, "val2017", training=False)
    refuse_other_categories(data, [1, 2], ["cat", "dog"], "x", "the training has")
    with pytest.raises(
        WorkbenchError, match=r"^x: the categories are 1 'cat', 2 'dog' .+, but the training has 1 'dog', 2"
    ):
        refuse_other_categories(data, [1, 2], ["dog", "cat"], "x", "the training has")


def refusal(root, classes=CLASSES):
    with pytest.raises(WorkbenchError) as error:
        read_splits(root, classes)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replaced(write):
    """Function that removes an image and puts something else there."""

    def change(path):
        path.unlink()
        write(path)

    return change


def in_place(**options):
    return lambda path: picture(path, **options)


def deep(path):
    Image.fromarray(np.zeros((80, 100), dtype=np.uint16)).save(path, format="PNG")


FAULTY = {  # damage to an image, part of the message
    "missing": (lambda p: p.unlink(), "no such image; copy it there or remove it from the annotations"),
    "empty": (
        lambda p: p.write_bytes(b""),
        "not a readable JPEG, PNG, WebP or GIF image (empty file); copy or convert",
    ),
    "text": (lambda p: p.write_text("no image at all"), "not a readable JPEG, PNG, WebP or GIF image (unknown format)"),
    "JPEG cut in two": (cut, "image file is truncated"),
    "JPEG cut in its header": (lambda p: p.write_bytes(p.read_bytes()[:100]), "not a readable JPEG"),
    "JPEG of padding": (lambda p: p.write_bytes(b"\xff\xd8" + b"\xff" * 9_000_000), "no frame header"),
    "JPEG of zeros": (lambda p: p.write_bytes(b"\xff\xd8\xff" + bytes(9_000_000)), "no frame header"),
    "JPEG of markers": (lambda p: p.write_bytes(b"\xff\xd8" + b"\xff\xd0" * 4_000_000), "no frame header"),
    "PNG cut in two": (lambda p: (picture(p, format="PNG"), cut(p)), "not a readable JPEG"),
    "PNG cut in its header": (lambda p: (picture(p, format="PNG"), p.write_bytes(p.read_bytes()[:20])), "truncated"),
    "BMP": (in_place(format="BMP"), "unknown format"),
    "TIFF": (in_place(format="TIFF"), "unknown format"),
    "16 bits": (deep, "not a single image with 8 bits per colour; convert it"),
    "damaged WebP": (lambda p: (picture(p, format="WEBP"), p.write_bytes(p.read_bytes()[:40])), "not a readable JPEG"),
    "animated": (
        in_place(format="GIF", save_all=True, append_images=[Image.new("RGB", (100, 80))]),
        "not a single image",
    ),
    "another size": (in_place(width=50, height=40), "has 50x40 pixels, but the annotations state 100x80; correct one"),
    "quarter turn without a tag": (
        in_place(width=80, height=100),
        "has 80x100 pixels, but the annotations state 100x80",
    ),
    "neither size fits": (
        in_place(width=50, height=40, orientation=6),
        "has 50x40 pixels (40x50 if turned by its EXIF orientation 6), but the annotations state 100x80",
    ),
    "folder": (replaced(lambda p: p.mkdir()), "not a regular file; put the image there"),
    "pipe": (replaced(os.mkfifo), "not a regular file; put the image there"),
    "link to nothing": (replaced(lambda p: p.symlink_to("nowhere")), "no such image"),
}


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("case", FAULTY)
def test_an_unusable_image_of_either_split_is_refused_before_the_first_step(root, case, split):
    damage, part = FAULTY[case]
    path = root / split / "1.jpg"
    damage(path)
    message = refusal(root)
    assert message.startswith(f"{path}: ")
    assert part in message


@pytest.mark.parametrize("case", sorted(FAULTY.keys() - {"folder", "pipe", "missing", "link to nothing"}))
def test_the_check_of_headers_agrees_with_the_decoder(root, case):
    """Whatever the decoder refuses is refused before."""
    path = root / "train2017" / "1.jpg"
    FAULTY[case][0](path)
    with pytest.raises(WorkbenchError):
        decode_image(path, 80, 100)


def test_each_kind_of_faulty_image_is_counted(root):
    (root / "train2017" / "1.jpg").unlink()
    picture(root / "train2017" / "2.jpg", 30, 20)
    message = refusal(root)
    assert message.startswith(
        f"{root}/train2017/1.jpg: no such image (2 of 2 images of {root}/annotations/instances_train"
    )
    assert "have faults: 1 x no such image (first: 1.jpg), 1 x of another size (first: 2.jpg))" in message


TURNED = {3: (100, 80), 6: (80, 100), 2: (100, 80), 8: (80, 100), 7: (80, 100)}


@pytest.mark.parametrize("orientation", TURNED)
def test_images_that_are_turned_by_their_orientation_are_counted(root, orientation):
    width, height = TURNED[orientation]
    picture(root / "train2017" / "1.jpg", width, height, orientation)
    picture(root / "val2017" / "2.jpg", width, height, orientation)
    train, val = read_splits(root, CLASSES)
    assert train.notes == val.notes == ("1 images are turned by their EXIF orientation",)


def test_images_that_are_not_turned_in_spite_of_their_orientation_are_counted(root):
    picture(root / "train2017" / "1.jpg", 100, 80, 6)
    assert "1 images are not turned by their EXIF orientation" in read_splits(root, CLASSES)[0].notes[0]


def test_a_missing_size_is_that_of_the_shown_image(root, write, document):
    document["images"][0].pop("width")
    document["images"][1]["height"] = None
    write(document)
    picture(root / "train2017" / "1.jpg", 100, 80, 6)
    picture(root / "train2017" / "2.jpg", 60, 90)
    data = read_coco(root, "train2017", training=True)
    assert [(i.width, i.height) for i in data.images] == [(80, 100), (60, 90)]
    assert data.notes == ("2 images have no width or height in the file; their size is read from the images",)
    assert decode_image(data.images[0].path, 100, 80).shape == (3, 100, 80)
    (root / "train2017" / "2.jpg").write_text("text")
    with pytest.raises(WorkbenchError, match=r"2\.jpg: not a readable JPEG"):
        read_coco(root, "train2017", training=True)


@pytest.mark.parametrize("name", ["images\\1.jpg", ".\\images\\1.jpg"])
def test_backslashes_are_slashes_where_only_that_image_exists(root, write, document, name):
    folder = root / "train2017"
    (folder / "images").mkdir()
    shutil.move(folder / "1.jpg", folder / "images" / "1.jpg")
    document["images"][0]["file_name"] = name
    write(document)
    (folder / name).unlink()
    train = read_splits(root, CLASSES)[0]
    assert train.images[0].path == folder / name.replace("\\", "/")
    assert train.notes == ("1 names of images have backslashes, which are read as slashes",)
    train.images[0].path.rename(folder / name)  # a file name on this system
    assert read_coco(root, "train2017", training=True).images[0].path == folder / name
    (folder / name).unlink()
    for headers in (True, False):
        with pytest.raises(WorkbenchError, match="no such image, nor one with slashes for the backslashes of Windows"):
            read_coco(root, "train2017", training=True, headers=headers)


def test_headers_are_cached_by_the_state_of_the_files(root, cache, monkeypatch):
    read_splits(root, CLASSES)
    assert len(list(cache.iterdir())) == 2
    moved = root.with_name("moved")
    shutil.copytree(root, moved)  # with the dates of the files
    monkeypatch.setattr(images, "read_header", lambda path: pytest.fail(f"{path} is read again"))
    assert [len(split.images) for split in read_splits(moved, CLASSES)] == [2, 2]
    monkeypatch.undo()
    os.utime(moved / "train2017" / "1.jpg", (0, 0))
    picture(moved / "train2017" / "1.jpg", 10, 10)
    with pytest.raises(WorkbenchError, match="10x10 pixels"):
        read_splits(moved, CLASSES)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "[[100], [80], [1]]",
        "[[100, 100], [80, 80]]",
        '[[100, 100], [80, 80], ["1", 1]]',
        "[" * 9999,
        "null",
    ],
)
def test_a_broken_cache_is_ignored(root, cache, content):
    read_splits(root, CLASSES)
    for file in cache.iterdir():
        file.write_text(content)
    assert [len(split.images) for split in read_splits(root, CLASSES)] == [2, 2]


def test_a_cache_that_cannot_be_written_is_no_fault(root, cache):
    cache.parent.write_text("")
    assert [len(split.images) for split in read_splits(root, CLASSES)] == [2, 2]


def test_faults_are_not_cached(root, cache):
    cut(root / "train2017" / "1.jpg")
    refusal(root)
    assert not cache.exists()


def test_other_data_behind_an_image_is_no_fault(root):
    path = root / "train2017" / "1.jpg"
    path.write_bytes(path.read_bytes() + b"video" * 1000)
    read_splits(root, CLASSES)
    assert decode_image(path, 80, 100).shape == (3, 80, 100)


@pytest.mark.parametrize("order", ["big", "little"])
def test_damaged_exif_data_are_no_orientation(tmp_path, order):
    """The first directory is behind the end, or has more entries than bytes."""
    mark = b"MM\0*" if order == "big" else b"II*\0"
    for place, count in ((1000, 1), (8, 65535)):
        exif = b"Exif\0\0" + mark + place.to_bytes(4, order) + count.to_bytes(2, order)
        picture(tmp_path / "a.jpg", exif=exif)
        assert read_header(tmp_path / "a.jpg") == Header(100, 80, 1)


def test_progress_is_reported(root, monkeypatch):
    monkeypatch.setattr(images, "REPORT_SECONDS", -1)
    lines = []
    read_splits(root, CLASSES, lines.append)
    assert lines == ["data: headers of 2/2 images are read"] * 2


def test_the_headers_of_coco_are_those_that_its_annotations_state(shared_data):
    train = read_coco(shared_data / "coco-tiny", "train2017", training=True, headers=True)
    assert (len(train.images), train.notes) == (80, ())
