"""Locks between processes (flock): the system frees a lock when its process ends, also after a kill."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.support.errors import WorkbenchError

_open_locks: set[int] = set()
"""Descriptors of the locks of this process."""


def _close_inherited() -> None:
    """Close the locks in a forked process. A decoding worker, for example, may outlive the owner of a lock."""
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()


os.register_at_fork(after_in_child=_close_inherited)


def open_lock(path: Path) -> int:
    """Open a lock file, and make it if necessary. Links are not followed, and only plain files are opened.

    A file of another user is opened for reading, which is enough for a lock on a local disk.

    Raises:
        OSError: the file cannot be opened, or is not a plain file.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK, a named pipe would block
    try:
        descriptor = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        descriptor = os.open(path, flags | os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return descriptor


def lock(descriptor: int) -> bool:
    """Lock an open file unless another process has locked it, and return whether that succeeded.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    _open_locks.add(descriptor)
    return True


def unlock(descriptor: int) -> None:
    """Close a file, and free its lock if it is locked."""
    if descriptor in _open_locks:
        _open_locks.remove(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


LONGEST_WAIT = 60.0
"""Seconds that a process waits for a lock which is needed for a moment only."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Context with a lock; another process with the same lock is waited for.

    Raises:
        WorkbenchError: the file cannot be locked, or another process keeps the lock for `LONGEST_WAIT`.
    """
    try:
        descriptor = open_lock(path)
    except OSError as error:
        raise WorkbenchError(f"{path}: cannot be opened ({error.strerror}); check the folder") from None
    try:
        end = time.monotonic() + LONGEST_WAIT
        while not _lock(descriptor, path):
            if time.monotonic() > end:
                raise WorkbenchError(f"{path}: locked by another process; wait for it, or stop it")
            time.sleep(0.05)
        yield
    finally:
        unlock(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        return lock(descriptor)
    except OSError as error:  # some network file systems have no locks
        raise WorkbenchError(f"{path}: cannot be locked ({error.strerror}); use a folder on a local disk") from None
