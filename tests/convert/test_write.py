"""The converted folder: copies of the images, annotations that a training reads, and nothing of a user overwritten."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.convert.small import converted, save_image, save_text
from workbench import cli
from workbench.commands.convert import convert
from workbench.data.coco import read_coco
from workbench.support.errors import WorkbenchError


@pytest.fixture
def root(tmp_path):
    """YOLO's format, with images of train and val."""
    root = tmp_path / "source"
    for name in ("train/a", "train/b", "val/c"):
        save_image(root / f"images/{name}.jpg", (80, 60))
        save_text(root / f"labels/{name}.txt", "1 0.5 0.5 0.25 0.2\n")
    save_text(root / "data.yaml", "train: images/train\nval: images/val\nnames: [unused, cat]\n")
    return root


def test_a_training_reads_the_folder(root, tmp_path):
    convert("yolo", root, tmp_path / "new/out", None)
    train, val = (read_coco(tmp_path / "new/out", f"{s}2017", training=True, headers=True) for s in ("train", "val"))
    assert (train.class_names, train.category_ids) == (val.class_names, val.category_ids) == (("unused", "cat"), (1, 2))
    assert [record.boxes.tolist() for record in train.images] == [[[30, 24, 50, 36]]] * 2
    assert len({record.id for record in train.images + val.images}) == 3
    assert not train.notes
    assert not train.skipped


def test_images_are_copies_with_the_same_bytes(root, tmp_path):
    convert("yolo", root, tmp_path / "out", None)
    source, copy = root / "images/train/a.jpg", tmp_path / "out/train2017/a.jpg"
    assert copy.read_bytes() == source.read_bytes()
    assert not copy.samefile(source)


def test_a_link_becomes_a_copy(root, tmp_path):
    (root / "images/train/a.jpg").rename(tmp_path / "elsewhere.jpg")
    (root / "images/train/a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    convert("yolo", root, tmp_path / "out", None)
    assert not (tmp_path / "out/train2017/a.jpg").is_symlink()


def test_the_same_source_gives_the_same_bytes(root, tmp_path):
    for name in ("one", "two"):
        convert("yolo", root, tmp_path / name, None)
    files = [
        sorted((p.relative_to(f), p.read_bytes()) for p in f.rglob("*.*")) for f in (tmp_path / "one", tmp_path / "two")
    ]
    assert files[0] == files[1]


def occupied(out):
    out.mkdir()
    (out / "mine.txt").write_text("mine")


@pytest.mark.parametrize(
    ("occupy", "message"),
    [
        (occupied, "contains files, and nothing is overwritten; choose a new folder"),
        (lambda out: out.write_text("mine"), "exists and is not a folder, and nothing is overwritten"),
        (lambda out: out.symlink_to("nowhere"), "exists and is not a folder, and nothing is overwritten"),
    ],
)
def test_nothing_is_overwritten(root, tmp_path, occupy, message):
    occupy(tmp_path / "out")
    with pytest.raises(WorkbenchError, match=message):
        convert("yolo", root, tmp_path / "out", None)
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_an_empty_folder_is_filled(root, tmp_path):
    (tmp_path / "converted").mkdir()
    assert converted("yolo", root)[0].keys() == {"train", "val"}


def test_a_folder_in_the_data_set_is_refused(root):
    for out in (root, root / "new/coco"):
        with pytest.raises(WorkbenchError, match=r"contains files|is in the data set .*; choose a folder outside it"):
            convert("yolo", root, out, None)
    assert not (root / "new").exists()


def test_a_full_disk_leaves_nothing(root, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(WorkbenchError, match=r"cannot be copied or written \(No space left on device\); check"):
        convert("yolo", root, tmp_path / "out", None)
    assert os.listdir(tmp_path) == ["source"]


def test_files_that_appear_meanwhile_are_kept(root, tmp_path, monkeypatch):
    copy = shutil.copyfile

    def slow(source, target):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/mine.txt").write_text("mine")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", slow)
    with pytest.raises(WorkbenchError, match="cannot be copied or written"):
        convert("yolo", root, tmp_path / "out", None)
    assert os.listdir(tmp_path / "out") == ["mine.txt"]
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_no_folder_of_the_name(root, tmp_path, sent):
    """A killed process cannot remove its unfinished folder, whose name states this; an interrupted one does."""
    code = (
        "import shutil, signal, sys, time; from pathlib import Path; from workbench.commands.convert import convert\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests in the background ignore Ctrl-C
        "shutil.copyfile = lambda *_: (print('copying', flush=True), time.sleep(60))\n"
        "convert('yolo', Path(sys.argv[1]), Path(sys.argv[2]), None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, root, tmp_path / "out"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"copying\n"
    time.sleep(0.1)
    process.send_signal(sent)
    process.wait()
    left = [f"out.partial-{process.pid}"] if sent == signal.SIGKILL else []
    assert sorted(os.listdir(tmp_path)) == [*left, "source"]


def test_a_name_that_is_not_utf_8_is_refused(root, tmp_path):
    (root / "images/train/a.jpg").rename(root / "images/train" / os.fsdecode(b"\xe9.jpg"))
    (root / "labels/train/a.txt").unlink()
    with pytest.raises(WorkbenchError, match="the name is not UTF-8; rename the file"):
        convert("yolo", root, tmp_path / "out", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["yolo", "nowhere", "out"], "nowhere: no such folder; name the folder of the data set"),
        (["yolo", "source/data.yaml", "out"], "source/data.yaml: not a folder; name the folder of the data set"),
        (["yolo", "source", "out", "--counted-from", "0"], "--counted-from: only files of VOC count pixels; leave it"),
    ],
)
def test_mistakes_on_the_command_line(root, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["workbench", "convert", *arguments])
    with pytest.raises(SystemExit, match=message):
        cli.main()
    assert os.listdir(tmp_path) == ["source"]


def test_train_and_test_without_val_are_written_with_a_note(root):
    save_text(root / "data.yaml", "train: images/train\ntest: images/val\nnames: [unused, cat]\n")
    objects, report = converted("yolo", root)
    assert objects.keys() == {"train", "test"}
    assert "note: there is no split val, and a training needs train and val; state train and val in data.yaml" in report


def test_an_area_is_width_times_height(root):
    converted("yolo", root)
    content = json.loads((root.parent / "converted/annotations/instances_val2017.json").read_text())
    assert content["annotations"] == [
        {
            "id": 3,
            "image_id": 3,
            "category_id": 2,
            "bbox": [30, 24, 20, 12],
            "area": 240,
            "iscrowd": 0,
            "segmentation": [],
        }
    ]
