"""``workbench data`` on data sets on disk: numbers, warnings, all faults at once, and the page of pictures."""

import io
import json
import re
import subprocess
import sys
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.commands.pictures import draw
from workbench.commands.data_facts import Facts
from workbench.commands.data_page import PICTURES, chosen
from workbench.commands.data_split import read_all
from workbench.data.coco import read_coco
from workbench.settings.data import ImageSize

TURNED = 6  # EXIF orientation: a quarter


class DataSet:
    """Small data set below a folder, written by ``write``; images are of one colour each, so that their bytes differ."""

    def __init__(self, root):
        self.root = root
        self.categories = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
        self.images = {"train2017": [], "val2017": []}
        self.annotations = {"train2017": [], "val2017": []}

    def add(self, split, *boxes, size=(100, 80), **options):
        """Add an image with boxes ``(category, x, y, w, h)``, or dictionaries with further keys; return its path."""
        number = len(self.images[split]) + 1
        name = f"{number}.png"
        colour = (number, 10 * len(self.images["val2017"]), 99 if split == "train2017" else 0)
        self.images[split].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for box in boxes:
            entry = box if isinstance(box, dict) else {"category_id": box[0], "bbox": list(box[1:])}
            entry = {"area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0} | entry
            self.annotations[split].append(entry | {"id": len(self.annotations[split]) + 1, "image_id": number})
        return draw(self.root / split / name, size, colour, compress_level=0, **options)

    def write(self, split=None, **changes):
        """Write the annotation files, or the file of one split with changed lists."""
        (self.root / "annotations").mkdir(parents=True, exist_ok=True)
        for name in [split] if split else self.images:
            lists = {"images": self.images[name], "annotations": self.annotations[name], "categories": self.categories}
            (self.root / f"annotations/instances_{name}.json").write_text(json.dumps(lists | changes))


@pytest.fixture
def data_set(tmp_path):
    """Data set of three training images and a test image, without any fault; call ``write`` after a change."""
    data = DataSet(tmp_path / "pets")
    data.add("train2017", (3, 10, 10, 40, 30), (7, 50, 20, 20, 20))
    data.add("train2017", (7, 0, 0, 60, 60))
    data.add("train2017")
    data.add("val2017", (3, 10, 10, 40, 30), (7, 50, 20, 20, 20))
    data.write()
    return data


def cells(output, name):
    """Numbers of a line of the first table."""
    (line,) = [line for line in output.splitlines() if re.match(rf"{re.escape(name)}  ", line)]
    return re.split(r" {2,}", line)[1:]


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


def test_all_faults_of_all_files_are_reported_at_once(call, data_set, tmp_path):
    """The page of a split without faults is written, and states the faults, too."""
    data_set.annotations["train2017"][0]["bbox"] = [1, 2]
    data_set.annotations["train2017"][1]["image_id"] = 99
    data_set.add("val2017").write_bytes(b"letters")
    data_set.add("val2017").unlink()
    data_set.write()
    code, out, err = call(data_set.root, "--out", tmp_path / "out")
    assert code == 1
    train, val = err.splitlines()
    assert train.startswith("workbench: ")
    assert "instances_train2017.json: 2 kinds of faults: (1) " in train
    assert "2.png: not a readable JPEG" in val
    assert "2 of 3 images" in val
    assert "1 x no such image (first: 3.png)" in val
    assert cells(out, "images") == ["3"]  # of val2017
    assert cells(out, "images also in another split (equal bytes)") == ["–"]
    page = (tmp_path / "out/data.html").read_text()
    assert "2 kinds of faults" in page
    assert "1 x no such image" in page
    assert page.count("<img") == 1


def test_a_split_without_its_file_is_a_fault_beside_the_faults_of_the_other(call, data_set):
    (data_set.root / "annotations/instances_train2017.json").unlink()
    (data_set.root / "annotations/instances_val2017.json").write_text("{")
    code, out, err = call(data_set.root)
    assert code == 1
    assert "instances_train2017.json: no such annotation file; put" in err
    assert "instances_val2017.json: not valid JSON" in err
    assert len(err.splitlines()) == 2
    assert "data.html" not in out


def test_a_data_set_without_an_object_or_an_image_has_faults(call, data_set):
    data_set.annotations["train2017"].clear()
    data_set.write("train2017")
    data_set.write("val2017", images=[], annotations=[])
    code, _, err = call(data_set.root)
    assert code == 1
    assert "instances_train2017.json: no objects to learn; add some" in err
    assert "instances_val2017.json: no images to test on; add some" in err


def test_a_missing_folder_is_one_line(call, tmp_path):
    code, out, _ = call(tmp_path / "nowhere")
    assert str(code).startswith(f"workbench: {tmp_path}/nowhere: no such data folder; choose")
    assert out == ""


class Reader(HTMLParser):
    """Reader of a page: images, and addresses of any kind."""

    def __init__(self, text):
        super().__init__()
        self.images, self.addresses, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.addresses += [values[key] for key in ("src", "href", "srcset", "data") if key in values]


def test_the_page_is_complete_in_itself(call, data_set, tmp_path):
    data_set.categories[0]["name"] = '<script>"dog'
    data_set.write()
    code, out, _ = call(data_set.root, "--out", tmp_path / "out")
    assert code == 0
    assert "4 images with their true boxes: " in out
    text = (tmp_path / "out/data.html").read_text()
    page = Reader(text)
    assert len(page.images) == 4
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert "script" not in page.tags
    assert not re.search(r"@import|url\(|https?://", text)
    assert page.images[0]["alt"] == 'train2017/1.png with true boxes: 1 <script>"dog, 1 cat'
    assert page.images[2]["alt"] == "train2017/3.png with true boxes: no objects"
    picture = Image.open(io.BytesIO(b64decode(page.images[0]["src"].partition(",")[2])))
    assert picture.size == (700, 560)
    with Image.open(tmp_path / "out/data.png") as sheet:
        assert sheet.width > 4 * 480


def test_a_second_call_replaces_its_own_files_and_no_other(call, data_set, tmp_path):
    out = tmp_path / "out"
    call(data_set.root, "--out", out)
    first = tree(out)
    assert call(data_set.root, "--out", out)[0] == 0
    assert tree(out) == first  # the same data give the same bytes
    data_set.add("val2017", (3, 0, 0, 40, 40))
    data_set.write()
    assert call(data_set.root, "--out", out)[0] == 0
    assert all(tree(out)[name] != content for name, content in first.items())


@pytest.mark.parametrize("name", ["data.html", "data.png"])
@pytest.mark.parametrize("change", ["foreign", "edited", "link"])
def test_files_of_others_are_not_replaced(call, data_set, tmp_path, name, change):
    out = tmp_path / "out"
    file = out / name
    if change == "edited":
        call(data_set.root, "--out", out)
        if name == "data.html":
            file.write_text(file.read_text().replace("cat", "dog", 1))
        else:
            file.write_bytes(file.read_bytes()[:5000])
    else:
        out.mkdir()
        draw(tmp_path / "mine.png")
        (file.symlink_to if change == "link" else file.hardlink_to)(tmp_path / "mine.png")
    before = tree(tmp_path)
    code, text, _ = call(data_set.root, "--out", out)
    assert str(code).startswith(f"workbench: {file}: not written by workbench data, or changed since then; ")
    assert text == ""
    assert tree(tmp_path) == before


def test_drawn_data_have_no_page(call, tmp_path):
    code, _, _ = call("--images", 2, "--out", tmp_path / "out")
    assert str(code).startswith("workbench: --out: a drawn data set has no page; ")
    code, out, _ = call("--images", 2)
    assert code == 0
    assert cells(out, "locations of an image")
    assert not (tmp_path / "results").exists()


def test_images_are_chosen_for_the_rarest_classes_first(data_set):
    for number in range(40):
        data_set.add("train2017", (3, 0, 0, 40, 40), *([(7, 0, 0, 9, 9)] if number == 33 else []))
    data_set.categories.append({"id": 8, "name": "rare"})
    data_set.add("train2017", (8, 0, 0, 40, 40))
    data_set.write()
    split = read_all(data_set.root, print)[1][0]
    picked = chosen(split)
    assert len(set(picked)) == PICTURES
    assert picked[0] == 0
    assert 43 in picked
    assert np.diff(picked).max() <= 5


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
