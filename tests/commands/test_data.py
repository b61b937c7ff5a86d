"""``workbench data`` on data sets on disk: numbers, notes and warnings."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.commands.made_data import Reader, cells
from workbench.commands.data_facts import Facts
from workbench.commands.data_page import PICTURES
from workbench.commands.data_split import read_all
from workbench.data.coco import read_coco
from workbench.settings.data import ImageSize

TURNED = 6  # EXIF orientation: a quarter


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_data_set_without_faults_is_described(call, data_set, tmp_path):
    before = tree(data_set.root)
    code, out, err = call(data_set.root, "--scale", "bccd")
    assert (code, err) == (0, "")
    assert cells(out, "images") == ["3", "1"]
    assert cells(out, "images without objects") == ["1", "0"]
    assert cells(out, "objects (boxes to learn or to test)") == ["3", "2"]
    assert cells(out, "objects of an image (median, most)") == ["1, 2", "2, 2"]
    assert cells(out, "largest image") == ["100x80", "100x80"]
    assert cells(out, "object size in pixels (10, 50, 90 %)") == ["23, 35, 55", "21, 27, 33"]
    assert cells(out, "object size at 320x240 (10, 50, 90 %)") == ["69, 104, 165", "64, 82, 100"]  # times 3
    assert "boxes under 1 pixel wide or high" not in out
    assert "warning" not in out
    assert cells(out, "distances below 1 stride")  # the geometry beside COCO's
    assert tree(data_set.root) == before
    (page,) = (tmp_path / "results/bccd/data").glob("pets-*/data.html")
    assert str(page.relative_to(tmp_path)) in out


def test_the_last_line_is_the_command_that_trains_on_it(call, data_set):
    command = f"snakemake --cores all t3_full_vfl --config data_root={data_set.root}"
    assert call(data_set.root)[1].endswith(f"{command}\n")
    assert call(data_set.root, "--scale", "bccd")[1].endswith(f"{command} scale=bccd\n")
    assert "snakemake" not in call(data_set.root, "--scale", "mini")[1]  # draws its own data set


@pytest.fixture
def odd(data_set):
    """Data set with one annotation of each kind that is not an object, and a turned image."""
    data_set.add(
        "train2017",
        {"category_id": 3, "bbox": [0, 0, 50, 50], "iscrowd": 1, "area": 100},
        {"category_id": 3, "bbox": [0, 0, 50, 50], "ignore": 1},
        {"category_id": 99, "bbox": [0, 0, 50, 50]},
        {"category_id": 3, "bbox": [200, 0, 50, 50]},
        {"category_id": 3, "bbox": [0, 0, 50, 0.5]},
        {"category_id": 3, "bbox": [0, 0, 10, 10], "area": 101},  # by 1 % above: rounded
        {"category_id": 3, "bbox": [0, 0, 10, 10], "area": 102},
        {"category_id": 3, "bbox": [0, 0, 10, 10], "area": 0},
        {"category_id": 3, "bbox": [0, 0, 10, 10], "area": -1},
    )
    exif = Image.Exif()
    exif[0x112] = TURNED
    path = data_set.add("train2017", (7, 0, 0, 20, 70), size=(80, 100), exif=exif)
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(path, exif=exif)
    data_set.categories.append({"id": 8, "name": "empty"})
    data_set.write()
    return data_set


def test_each_kind_of_annotation_is_counted(call, odd):
    code, out, _ = call(odd.root, "--scale", "bccd")
    assert code == 0
    assert cells(out, "objects (boxes to learn or to test)")[0] == "8"
    assert cells(out, "crowds") == ["1", "0"]
    assert cells(out, "boxes with the flag ignore") == ["1", "0"]
    assert cells(out, "boxes of classes that are not listed") == ["1", "0"]
    assert cells(out, "boxes empty or outside their image") == ["1", "0"]
    assert cells(out, "boxes under 1 pixel wide or high") == ["1", "0"]
    assert cells(out, "images turned by EXIF") == ["1", "0"]
    assert cells(out, "classes") == ["3", "3"]
    assert cells(out, "classes without objects") == ["1", "1"]
    assert cells(out, "area above width x height by over 1 %") == ["1", "0"]
    assert "1 annotations state an area above width x height of their box by more than 1 % (first: image 4.png)" in out
    assert "instances_train2017.json: 2 annotations state no area above 0" in out
    assert "classes without objects: 1 of 3 (empty)" in out


def test_objects_are_those_of_the_reader(odd, shared_data):
    """The rule is stated a second time, so that a data set with faults is described, too."""
    for root in (odd.root, shared_data / "coco-tiny", shared_data / "bccd"):
        for split in read_all(root, print)[1]:
            records = read_coco(root, split.name, training=False).images
            for index, record in enumerate(records):
                boxes, labels = split.ground_truth(index)
                np.testing.assert_array_equal(boxes, record.boxes)
                np.testing.assert_array_equal(labels, record.labels)
            assert split.objects.sum() == sum(len(record.boxes) for record in records)


def test_objects_under_a_stride_are_counted_at_the_scales_size(call, data_set):
    data_set.add("val2017", (3, 0, 0, 40, 40), (3, 0, 0, 20, 20), (3, 0, 0, 7, 7), size=(1000, 400))
    data_set.write()
    _, out, _ = call(data_set.root, "--scale", "bccd")
    assert cells(out, "objects under 8 pixels at 320x240") == ["0", "2 (40.0%)"]  # 0.32 of their size
    (line,) = [line for line in out.splitlines() if line.startswith("warning: objects at 320x240")]
    assert "2 (25.0%) of 8 are smaller than 8 pixels, the finest stride (1 are so small in their files, too); " in line


def test_sides_of_images_of_many_sizes(data_set):
    data_set.add("train2017", (3, 0, 0, 10, 10), size=(320, 40))
    data_set.add("train2017", (3, 0, 0, 10, 10), size=(160, 120))
    data_set.write()
    split = read_all(data_set.root, print)[1][0]
    sides = Facts(split, ImageSize(long=320, short=240), 0).sides
    assert sides[-2:].tolist() == [10, 20]


def test_equal_files_of_both_splits_are_counted(call, data_set):
    """Other bytes of equal number are not equal; a link is equal to its file."""
    train, val = (data_set.root / split for split in ("train2017", "val2017"))
    assert (train / "1.png").stat().st_size == (val / "1.png").stat().st_size
    assert cells(call(data_set.root)[1], "images also in another split (equal bytes)") == ["0", "0"]
    (train / "3.png").write_bytes((train / "2.png").read_bytes())
    data_set.add("val2017")
    (val / "2.png").unlink()
    (val / "2.png").symlink_to(train / "3.png")
    data_set.write()
    code, out, _ = call(data_set.root)
    assert code == 0
    assert cells(out, "images also in another split (equal bytes)") == ["2", "1"]
    assert "instances_val2017.json: 1 of 2 images are also in train2017, byte for byte " in out
    assert "(first: val2017/2.png = train2017/2.png); keep them in one split" in out


@pytest.mark.parametrize("name", ["bccd", "coco-tiny"])
def test_real_data_sets_have_no_faults(call, shared_data, tmp_path, name):
    code, out, err = call(shared_data / name, "--scale", "bccd", "--images", 20, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert cells(out, "images") == {"bccd": ["292", "72"], "coco-tiny": ["80", "80"]}[name]
    assert cells(out, "crowds") == {"bccd": ["0", "0"], "coco-tiny": ["6", "11"]}[name]
    assert "Geometry of 20 images" in out
    assert len(Reader((tmp_path / "out/data.html").read_text()).images) == 2 * PICTURES


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ("plain", ""),
        ("area_zero", "instances_train2017.json: 2 annotations state no area above 0; "),
        ("backslashes", ""),
        ("exif_6", "1 images are turned by their EXIF orientation"),
        (
            "names_swapped",
            "the categories are 1 'b', 2 'a' (2 in total), but instances_train2017.json has 1 'a', 2 'b'",
        ),
        ("surrogate_name", "contains half of a surrogate pair"),
    ],
)
def test_small_odd_data_sets(call, shared_data, tmp_path, case, line):
    script = shared_data.parent / "cases/draw.py"
    if not script.is_file():
        pytest.skip(f"the script that draws the pictures is not at {script}: set WORKBENCH_SHARED")
    for file in (script.parent / case).glob("*.json"):
        target = tmp_path / case / "annotations" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    subprocess.run([sys.executable, script, "pictures", tmp_path / case], check=True)
    code, out, err = call(tmp_path / case)
    assert code == (case == "names_swapped")
    assert line in out + err
    assert list((tmp_path / "results/own/data").glob(f"{case}-*/data.png"))
