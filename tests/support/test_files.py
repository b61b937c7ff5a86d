"""Files are complete or absent, and an unreadable file is reported in one line."""

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from workbench.support.errors import WorkbenchError
from workbench.support.files import (
    read_csv,
    read_json,
    read_object,
    write_atomically,
    write_bytes_atomically,
    write_json_atomically,
    write_text_atomically,
)


def error_of(function, *arguments) -> str:
    with pytest.raises(WorkbenchError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


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


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_the_permissions(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_bytes_atomically(tmp_path / "model.safetensors", b"weights")
        write_json_atomically(tmp_path / "train.json", {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_the_file_and_its_folder_are_synced_around_the_move(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def moved(source, target):
        events.append("moved")
        assert source.read_bytes() == b"new"  # nothing is left in a buffer
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", moved)
    write_atomically(tmp_path / "last.pt", lambda file: file.write(b"new"))
    content, move, folder = events
    assert (content.parent, move, folder) == (tmp_path, "moved", tmp_path)


def test_a_full_disk_behind_the_error_of_a_library_is_reported(tmp_path):
    def write(_):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 10")  # noqa: B904

    message = (
        f"{tmp_path}/last.pt: cannot be written (No space left on device); free some space or choose another folder"
    )
    assert error_of(write_atomically, tmp_path / "last.pt", write) == message
    assert not list(tmp_path.iterdir())


def test_another_error_while_writing_is_raised_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", lambda _: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    kept = {".last.pt.9.tmp", ".last.pt.mine.tmp", ".last.pt.8-mine.tmp", ".best.pt.8.tmp", "last.pt.7.tmp"}
    for name in (*kept, ".last.pt.8.tmp", ".last.pt.8-01234abc.tmp"):
        (tmp_path / name).write_text("")
        if name != ".last.pt.9.tmp":
            os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    write_text_atomically(tmp_path / "last.pt", "")
    assert {path.name for path in tmp_path.iterdir()} == kept | {"last.pt"}


def test_processes_of_equal_id_on_two_machines_write_files_of_their_own(tmp_path):
    """On a shared disk both writers may be in progress at once. Each new content is complete."""
    names = []

    def write(file):
        names.append(Path(file.name).name)
        if len(names) == 1:
            write_atomically(tmp_path / "a", write)
        file.write(b"complete")

    write_atomically(tmp_path / "a", write)
    assert len(set(names)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"complete"


def test_a_name_that_is_not_utf_8_is_written_as_an_escape(tmp_path):
    write_json_atomically(tmp_path / "a.json", ["caf\udce9.jpg"])
    assert (tmp_path / "a.json").read_bytes() == b'[\n  "caf\\udce9.jpg"\n]\n'


WRONG_JSON = {
    "missing": (None, "not found"),
    "cut": (b'[{"image_id": 1', "truncated or not JSON"),
    "empty": (b"", "truncated or not JSON"),
    "blank": (b" \n", "truncated or not JSON"),
    "UTF-16": ("[1]".encode("utf-16"), "in UTF-16, not in UTF-8; save the file in UTF-8"),
    "Windows code page": ('["café"]'.encode("cp1252"), "not text in UTF-8 (line 1)"),
    "binary": (bytes(range(256)), "not text in UTF-8"),
    "nested deeply": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "nested deeply in objects": (b'{"a":' * 100_000, "nested too deeply"),
    "5,000 digits": (b"[" + b"9" * 5000 + b"]", "the number 99999999999999999999…, which has more than 64 bits"),
    "65 bits": (b"[9223372036854775808]", "more than 64 bits"),
    "1e400": (b"[1e400]", "the number 1e400, which is too large"),
    "-1e400": (b"[-1e400]", "the number -1e400, which is too large"),
    "NaN": (b'{"AP": NaN}', "the number NaN, which JSON does not have"),
    "Infinity": (b'{"AP": -Infinity}', "the number -Infinity, which JSON does not have"),
    "duplicate key": (b'{"AP": 1, "AP": 2}', "the key 'AP' twice in one object"),
    "lone surrogate": (b'["\\ud800"]', "half of a surrogate pair"),
    "lone surrogate as a key": (b'{"\\uDfff": 1}', "half of a surrogate pair"),
    "raw lone surrogate": (b'["\xed\xa0\x80"]', "not text in UTF-8"),
    "two documents": (b"{} {}", "truncated or not JSON"),
}


@pytest.mark.parametrize("case", WRONG_JSON)
def test_unreadable_json_is_reported_in_one_line(tmp_path, case):
    content, expected = WRONG_JSON[case]
    path = tmp_path / "detections.json"
    if content is not None:
        path.write_bytes(content)
    message = error_of(read_json, path, "detections")
    assert message.startswith(f"{path}: detections ")
    assert expected in message
    assert "; " in message


def test_json_as_other_tools_write_it_is_read(tmp_path):
    text = '{"score": 1e-400, "id": -9223372036854775808, "smile": "\\ud83d\\ude00", "x": [{"a": 1}, {"a": 1}]}'
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_json(tmp_path / "a.json", "settings") == {
        "score": 0.0,
        "id": -(2**63),
        "smile": "😀",
        "x": [{"a": 1}, {"a": 1}],
    }


def make_fifo(path):
    os.mkfifo(path)


NO_FILES = {
    "folder": (Path.mkdir, "this is a folder, not a file"),
    "pipe": (make_fifo, "this is a pipe or a device, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "this is a pipe or a device, not a file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "not found; check the path"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be read ("),
    "file as a folder": (lambda path: path.symlink_to("beside/x"), "cannot be read (Not a directory)"),
}


@pytest.mark.parametrize("case", NO_FILES)
@pytest.mark.parametrize("read", [read_json, lambda path, content: read_csv(path, content, ("step",))])
def test_what_is_not_a_file_is_reported_without_waiting(tmp_path, case, read):
    make, expected = NO_FILES[case]
    (tmp_path / "beside").write_text("")
    make(tmp_path / "a.json")
    message = error_of(read, tmp_path / "a.json", "metrics")
    assert message.startswith(f"{tmp_path}/a.json: metrics ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "metrics are not an object; delete the file, and run"),
        ('"AP"', "metrics are not an object; delete the file, and run"),
        ("null", "metrics are not an object; delete the file, and run"),
        ("{}", "metrics are without the key 'AP'; delete the file, and run"),
        ('{"AP": 1}', "metrics are without the key 'provenance'; delete the file, and run"),
    ],
)
def test_an_object_without_its_keys_is_refused(tmp_path, text, expected):
    (tmp_path / "metrics.json").write_text(text)
    assert expected in error_of(read_object, tmp_path / "metrics.json", "metrics", ("AP", "provenance"))


def test_a_csv_is_read_with_its_numbers(tmp_path):
    (tmp_path / "train.csv").write_text(
        '\ufeffstep,loss,val_ap,name\r\n1,0.5,,"a\nb"\r\n2,1e-3,0.25,c\r\n', encoding="utf-8"
    )
    assert read_csv(tmp_path / "train.csv", "loss curves", ("step", "loss"), ("loss", "val_ap")) == [
        {"step": "1", "loss": 0.5, "val_ap": None, "name": "a\nb"},
        {"step": "2", "loss": 0.001, "val_ap": 0.25, "name": "c"},
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "it is empty"),
        (b"\0\0\0", "it has no column 'step'"),
        (b"abc\n", "it has no column 'step'"),
        (b"step\n1\n", "it has no column 'loss'"),
        (b"step,loss\n1\n", "row 2 has 1 values, not 2"),
        (b"step,loss\n1,2,3\n", "row 2 has 3 values, not 2"),
        (b"step,loss\n1,2\n\n", "row 3 has 0 values, not 2"),
        (b'step,loss\n1,"2\n', "unexpected end of data"),
        (b"step,loss\n1,a\n", "row 2 has loss 'a', not a finite number"),
        (b"step,loss\n1,nan\n", "row 2 has loss 'nan', not a finite number"),
        (b"step,loss\n1,1e400\n", "row 2 has loss '1e400', not a finite number"),
        (b"step,loss\n1,\xff\n", "not text in UTF-8 (line 2)"),
        (b"step,step,loss\n1,2,3\n", "two columns 'step'"),
    ],
)
def test_a_csv_of_the_wrong_form_is_reported_in_one_line(tmp_path, content, expected):
    (tmp_path / "train.csv").write_bytes(content)
    message = error_of(read_csv, tmp_path / "train.csv", "loss curves", ("step", "loss"), ("loss",))
    assert message.startswith(f"{tmp_path}/train.csv: ")
    assert expected in message
