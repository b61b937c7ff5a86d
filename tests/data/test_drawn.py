"""Folder of a drawn data set: files of the user stay, and a killed or failed process leaves nothing behind."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.data.embedded import draw_data_set
from workbench.settings.data import EmbeddedData
from workbench.support.errors import WorkbenchError

FEW = EmbeddedData(train_images=2, val_images=1)


def test_a_data_set_or_its_empty_folders_are_replaced(tmp_path):
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)  # empty folders, as a workflow manager makes them
    draw_data_set(FEW, root, processes=1)
    draw_data_set(FEW.model_copy(update={"train_images": 1}), root, processes=1)
    assert len(list((root / "train2017").iterdir())) == 1
    assert sorted(path.name for path in root.iterdir()) == ["annotations", "embedded.json", "train2017", "val2017"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder with its kind, and the digest or the target of its content."""
    content = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            content[str(path)] = f"link to {os.readlink(path)}"
        elif path.is_file():
            content[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content[str(path)] = "folder" if path.is_dir() else "other"
    return content


def written(name, text="mine"):
    """Function that writes a user's file into a folder."""

    def write(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return write


def linked(name, target):
    """Function that makes a link in a folder."""

    def link(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)

    return link


def moved_behind_a_link(root):
    (root / "train2017").rename(root.parent / "pictures")
    (root / "train2017").symlink_to(root.parent / "pictures")


MARKER = FEW.model_dump_json(indent=2) + "\n"
FOREIGN = {  # a folder of the user that has no data set of the workbench
    "a file": written("precious.txt"),
    "an empty folder": lambda root: (root / "notes").mkdir(parents=True),
    "a file in a folder of images": written("train2017/000000000001.jpg"),
    "a link to nothing": linked("link", "nowhere"),
    "a link to itself": lambda root: root.symlink_to(root),
    "a link to a folder": linked("train2017", ".."),
    "a pipe": lambda root: (root.mkdir(), os.mkfifo(root / "pipe")),
    "a pipe in a folder": lambda root: ((root / "val2017").mkdir(parents=True), os.mkfifo(root / "val2017" / "pipe")),
    "a marker of another tool": written("embedded.json", '{"fonts": []}'),
    "an empty marker": written("embedded.json", ""),
    "an empty object as a marker": written("embedded.json", "{}"),
    "a list as a marker": written("embedded.json", "[" * 5000),
    "a marker with other spacing": written("embedded.json", MARKER + "\n"),
    "a marker of another version": written("embedded.json", MARKER.replace('"drawing": 4', '"drawing": 3')),
    "a marker without the number of a world": written("embedded.json", MARKER.replace('"world": 0', '"world": "seed"')),
    "a folder as a marker": written("embedded.json/file"),
    "a pipe as a marker": lambda root: (root.mkdir(), os.mkfifo(root / "embedded.json")),
    "a link as a marker": lambda root: (written("../marker", MARKER)(root), linked("embedded.json", "../marker")(root)),
}
ADDED = {  # what a user puts into a data set of the workbench
    "a file": written("notes.txt"),
    "a hidden file": written(".notes"),
    "another split": written("annotations/instances_test2017.json", "{}"),
    "own annotations": written("annotations/instances_train2017.json", '{"images": []}'),
    "a picture": written("train2017/mine.jpg"),
    "a picture with a number of COCO's": written("train2017/000000000009.jpg"),
    "a picture with an even number in train": written("train2017/000000000002.jpg"),
    "a folder": lambda root: (root / "val2017" / "more").mkdir(),
    "a link to a picture": linked("val2017/000000000004.jpg", "000000000002.jpg"),
    "a link for the images": moved_behind_a_link,
    "a pipe": lambda root: os.mkfifo(root / "train2017" / "pipe"),
}


def refused(root, before):
    with pytest.raises(
        WorkbenchError, match=r"contains files that are not an embedded data set .+; choose another folder$"
    ):
        draw_data_set(FEW, root, processes=1)
    assert tree(root.parent) == before


@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_of_the_user_stays_as_it_is(tmp_path, case):
    FOREIGN[case](tmp_path / "data")
    refused(tmp_path / "data", tree(tmp_path))


@pytest.mark.parametrize("case", ADDED)
def test_a_data_set_with_files_of_the_user_stays_as_it_is(tmp_path, case):
    draw_data_set(FEW, tmp_path / "data", processes=1)
    ADDED[case](tmp_path / "data")
    refused(tmp_path / "data", tree(tmp_path))


@pytest.mark.parametrize("name", ["data", "d*ta", "[abc]", "?", "."], ids=["plain", "star", "brackets", "mark", "here"])
def test_neighbours_of_the_user_stay_as_they_are(tmp_path, name, monkeypatch):
    """Neighbours with the names of unfinished data sets, older than an hour, are not the workbench's by their names."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = Path(name).resolve()
    neighbours = [
        root.with_name(f"{stem}.partial-{end}")
        for stem in (root.name, "data", "dxta", "a", "b")
        for end in ("1", "old")
    ]
    for neighbour in set(neighbours):
        written("train2017/000000000001.jpg")(neighbour)
    root.with_name(f"{root.name}.partial-2").symlink_to(neighbours[0])
    written("embedded.json", MARKER)(root.with_name(f"{root.name}.partial-3"))
    written("annotations/mine.txt")(root.with_name(f"{root.name}.partial-3"))
    os.mkfifo(root.with_name(f"{root.name}.partial-4"))
    before = tree(root.parent)
    for path in before:
        os.utime(path, (0, 0), follow_symlinks=False)
    draw_data_set(FEW, root, processes=1)
    after = tree(root.parent)
    drawn = {path for path in after if Path(path) == root or root in Path(path).parents}
    assert {path: content for path, content in after.items() if path not in drawn} == {
        path: content for path, content in before.items() if path not in drawn
    }


def test_the_unfinished_data_set_of_a_killed_process_is_removed_after_an_hour(tmp_path):
    unfinished = tmp_path / "data.partial-1"
    draw_data_set(FEW, unfinished, processes=1)
    (unfinished / "annotations" / "instances_val2017.json").unlink()
    (unfinished / "annotations" / "instances_train2017.json").write_text('{"info": {"desc')
    draw_data_set(FEW, tmp_path / "data", processes=1)
    assert unfinished.is_dir()
    for path in (unfinished, *unfinished.iterdir()):
        os.utime(path, (0, 0))
    draw_data_set(FEW, tmp_path / "data", processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_a_user_adds_while_the_data_set_is_drawn_stays(tmp_path):
    root = tmp_path / "data"
    draw_data_set(FEW, root, processes=1)
    with pytest.raises(WorkbenchError, match=r"contains files that are not an embedded data set \(mine\.txt\)"):
        draw_data_set(FEW, root, processes=1, progress=lambda *_: written("mine.txt")(root))
    assert (root / "mine.txt").read_text() == "mine"
    assert sum(path.is_file() for path in root.rglob("*")) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_failure_leaves_no_files_and_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="cannot be written") as error:
        draw_data_set(FEW, tmp_path / "file" / "data", processes=1)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "file") in str(error.value)

    def stop(done: int, total: int) -> None:
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_data_set(FEW, tmp_path / "data", processes=1, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_killed_process_leaves_no_data_set_and_no_process(tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "from pathlib import Path\n"
        "from workbench.data.embedded import EmbeddedData, draw_data_set\n"
        "if __name__ == '__main__':\n"
        f"    draw_data_set(EmbeddedData(train_images=100_000), Path({str(tmp_path / 'data')!r}), processes=2)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)
    unfinished = tmp_path / f"data.partial-{process.pid}"
    wait_until(lambda: any(unfinished.glob("train2017/*.jpg")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "data").exists()
    wait_until(lambda: drawing_stopped(unfinished))
    for path in (unfinished, *unfinished.iterdir()):
        os.utime(path, (0, 0))  # older than an hour, so that the next call removes it
    draw_data_set(EmbeddedData(train_images=1, val_images=1), tmp_path / "data", processes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "draw.py"]


def drawing_stopped(folder: Path) -> bool:
    """Whether the number of images stays the same for 0.3 s."""
    before = len(list(folder.glob("train2017/*.jpg")))
    time.sleep(0.3)
    return len(list(folder.glob("train2017/*.jpg"))) == before


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.05)
