"""The page of a data set, ``data.html`` and ``data.png``: complete in itself, and no file of others is replaced."""

import io
import re
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from tests.commands.made_data import Reader, cells
from tests.commands.pictures import draw
from workbench.commands.data_page import PICTURES, chosen
from workbench.commands.data_split import read_all


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
