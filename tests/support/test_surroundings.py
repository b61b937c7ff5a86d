"""Commands work, or end with one line, whatever the streams, the user and the home folder of their process."""

import getpass
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench import cli
from workbench.support import surroundings
from workbench.support.errors import WorkbenchError
from workbench.support.progress import Reporter
from workbench.support.surroundings import prepare_user

MAIN = [sys.executable, "-c", "import sys; from workbench.cli import main; sys.argv[0] = 'workbench'; main()"]
LONG_LINES = ("weights", "--help")
MISTAKE = ("weights", "nope", "x")


def shell(redirection: str, *words: str) -> subprocess.CompletedProcess:
    """Run a command with a redirection of the shell."""
    line = f'"$@" {redirection}'
    return subprocess.run(["bash", "-c", line, "bash", *MAIN, *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("redirection", "words", "code", "lines"),
    [
        (">&-", LONG_LINES, 0, 0),
        ("2>&-", LONG_LINES, 0, None),
        ("2>&-", MISTAKE, 1, 0),
        ("<&- >&- 2>&-", MISTAKE, 1, 0),
        (">/dev/full", LONG_LINES, 1, 1),
        ("2>/dev/full", MISTAKE, None, 0),
        ("> >(exec >&- <&-; sleep 1)", LONG_LINES, 1, 0),
    ],
)
def test_closed_streams_give_one_line_at_most(redirection, words, code, lines):
    result = shell(redirection, *words)
    assert code is None or result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    if lines is not None:
        assert len((result.stdout + result.stderr).splitlines()) == lines


def test_a_closed_stream_is_not_the_next_file_that_is_opened(tmp_path):
    code = "from workbench.support.surroundings import prepare_streams; prepare_streams(); print(open('x').fileno())"
    (tmp_path / "x").write_text("")
    redirected = f'"$@" <&- 2>&- >{tmp_path}/out'
    subprocess.run(["bash", "-c", redirected, "bash", sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert int((tmp_path / "out").read_text()) > 2


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_character_that_the_output_lacks_is_replaced(encoding, monkeypatch):
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "argv", ["workbench", "weights"])
    monkeypatch.setattr(cli, "app", lambda **_: print("AP 34.0 → 35.1 ± 0.2 · Würfel 日本 \udce9"))
    cli.main()
    output.flush()
    expected = "AP 34.0 → 35.1 ± 0.2 · Würfel 日本 \udce9".encode(encoding, "replace")
    assert output.buffer.getvalue() == expected + b"\n"


def test_the_table_is_printed_in_latin_1(experiments, tmp_path, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", output)
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(sys, "argv", ["workbench", "table", "table3", "--results", str(tmp_path / "results")])
    cli.main()
    output.flush()
    assert b"t3_full_vfl" in output.buffer.getvalue() or b"VFNet" in output.buffer.getvalue()


class Gone(io.StringIO):
    """Terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_task_goes_on_when_its_terminal_is_gone(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    with Reporter("r50", total=2) as reporter:
        reporter.say("resumed")
        reporter.advance(2)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "workbench: not enough memory on this machine; end other programs, or choose a larger machine"),
        (OSError(5, "Input/output error"), "workbench: writing: Input/output error; check path, permissions and free"),
        (OSError(24, "Too many open files"), "workbench: writing: Too many open files; check path"),
        (
            PermissionError(13, "Permission denied", "/x/y"),
            "workbench: /x/y: Permission denied; check path, permissions",
        ),
        (
            OSError(36, "File name too long", "/x"),
            "workbench: /x: File name too long; check path, permissions and free",
        ),
        (WorkbenchError("a\nb: c; d"), "workbench: a b: c; d"),
    ],
)
def test_an_error_of_the_system_is_one_line(error, code, monkeypatch):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code.startswith(code)
    assert "\n" not in end.value.code


@pytest.fixture
def unknown_user(monkeypatch):
    """User without a name and without a home folder."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def no_entry(_):
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr(surroundings.atexit, "register", lambda *_, **__: None)
    yield
    if "vfnet-workbench-home-" in os.environ.get("HOME", ""):
        shutil.rmtree(os.environ["HOME"])


def test_a_user_without_a_name_and_a_home_folder_gets_both(unknown_user):
    prepare_user()
    assert getpass.getuser() == f"uid{os.getuid()}"
    assert Path.home().is_dir()
    assert Path.home().stat().st_mode & 0o77 == 0


def test_a_home_folder_that_takes_no_files_is_replaced(unknown_user, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    prepare_user()
    assert Path.home().is_dir()
    assert Path.home() != tmp_path / "nowhere"


def test_a_user_with_both_keeps_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    monkeypatch.delenv("LOGNAME", raising=False)
    prepare_user()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "me")


UNKNOWN = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


def test_a_command_of_an_unknown_user_works(tmp_path):
    """PyTorch asks for the name of the user when a detector is built."""
    if not shutil.which("unshare") or subprocess.run([*UNKNOWN, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of users on this machine")
    words = ("plan", "table3", "--scale", "coco")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([*UNKNOWN, *MAIN, *words], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_command_that_is_stopped_is_no_success(monkeypatch, capsys):
    """Ctrl-C before the first step of a training ended with exit code 0 and without a line."""

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.report.outcomes.make_table", stop)
    monkeypatch.setattr(sys, "argv", ["workbench", "table", "table3"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "workbench: stopped"
