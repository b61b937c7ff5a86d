"""Files are complete or absent, and an unreadable file is reported in one line."""

import errno
import os

import pytest

from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json, write_json_atomically, write_text_atomically


def test_json_is_written_indented_or_compact_and_read_again(tmp_path):
    obj = {"AP": 0.5, "names": ["Würfel"], "none": None}
    write_json_atomically(tmp_path / "new" / "a.json", obj)
    write_json_atomically(tmp_path / "b.json", obj, indent=None)
    assert read_json(tmp_path / "new" / "a.json", "metrics") == obj == read_json(tmp_path / "b.json", "metrics")
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == '{"AP":0.5,"names":["Würfel"],"none":null}\n'
    assert "\n  " in (tmp_path / "new" / "a.json").read_text(encoding="utf-8")


def test_writing_replaces_the_old_file_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "table.md"
    write_text_atomically(path, "old")
    write_text_atomically(path, "new ✓")
    assert path.read_text(encoding="utf-8") == "new ✓"
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]


def test_the_old_file_is_kept_if_the_disk_is_full(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text_atomically(path, "old")

    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(WorkbenchError, match=r"metrics\.json: cannot be written \(No space left on device\)") as error:
        write_text_atomically(path, "new")
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text_atomically(tmp_path / "a", "new")
    assert not list(tmp_path.iterdir())


def test_writing_into_a_folder_that_is_a_file_fails(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(WorkbenchError, match="cannot be written"):
        write_text_atomically(tmp_path / "runs" / "a.json", "{}")


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(tmp_path / "a.json", {"AP": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not found"), (b'[{"image_id": 1', "truncated or not JSON"), (b"", "truncated"), (b"\xff\xfe{", "UTF-8")],
)
def test_unreadable_json_is_reported_in_one_line(tmp_path, content, message):
    path = tmp_path / "detections.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WorkbenchError, match=message) as error:
        read_json(path, "detections")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_reading_a_folder_as_json_fails(tmp_path):
    with pytest.raises(WorkbenchError, match="cannot be read"):
        read_json(tmp_path, "detections")
