"""Surroundings of a process that libraries take for granted: standard streams, a user's name and a home folder."""

from __future__ import annotations

import atexit
import contextlib
import getpass
import os
import shutil
import sys
import tempfile


def prepare_streams() -> None:
    """Open closed streams on the null device, and write ``?`` for a character that a stream's encoding lacks."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            # Otherwise, the next opened file would get this descriptor, and messages would be written into that file.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def reader_is_gone() -> bool:
    """Whether the reader of the output has ended. If so, discard the output, so that Python's last flush succeeds."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def prepare_messages() -> None:
    """Keep warnings of PyTorch's C++ code quiet, such as a page of its stack for each lost connection."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def prepare_user() -> None:
    """Give the process a user's name and a home folder if they are missing, as in a container.

    PyTorch asks for the name. Matplotlib and Jupyter write to the home folder.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"
    home = os.path.expanduser("~")
    if not (os.path.isdir(home) and os.access(home, os.W_OK)):
        with contextlib.suppress(OSError):  # no temporary folder either; many commands work without a home
            os.environ["HOME"] = tempfile.mkdtemp(prefix="vfnet-workbench-home-")
            atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
