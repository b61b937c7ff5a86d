"""Locks exclude other processes and other users, end with their process, and never touch a foreign file."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from workbench.support.locks import lock, open_lock, unlock


@pytest.fixture
def shared():
    """Folder that every user can write to, like /tmp."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def as_user(uid, action):
    """Return what ``action`` returns in a process of a user, as text."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setuid(uid)
            os.write(writer, str(action()).encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as text:
        return text.read()


def test_a_lock_is_exclusive_until_it_is_freed(tmp_path):
    first, second = (open_lock(tmp_path / "a.lock") for _ in range(2))
    assert lock(first)
    assert not lock(second)
    unlock(first)
    assert lock(second)
    unlock(second)


def test_a_lock_ends_with_its_process_although_a_forked_process_survives(tmp_path):
    """Decoding workers notice only after seconds that their training was killed."""
    path = tmp_path / "a.lock"
    if (owner := os.fork()) == 0:
        lock(open_lock(path))
        if (worker := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
        (tmp_path / "worker").write_text(str(worker))
        time.sleep(60)
        os._exit(0)
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        time.sleep(0.01)
    descriptor = open_lock(path)
    assert not lock(descriptor)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    try:
        assert lock(descriptor)
    finally:
        unlock(descriptor)
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_only_plain_files_are_locks(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "a.lock"
    victim.write_text("precious")
    {
        "link": lambda: path.symlink_to(victim),
        "link to nothing": lambda: path.symlink_to(tmp_path / "new"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises(OSError) as error:  # noqa: PT011
        open_lock(path)
    assert error.value.strerror
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_s_lock_excludes_this_user(shared):
    path = shared / "a.lock"
    descriptor = open_lock(path)
    os.fchmod(descriptor, 0o644)
    assert as_user(65534, lambda: lock(open_lock(path))) == "True"
    assert lock(descriptor)
    assert as_user(65534, lambda: lock(open_lock(path))) == "False"
    unlock(descriptor)
