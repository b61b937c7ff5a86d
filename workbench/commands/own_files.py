"""Files that a command may replace: unchanged files of its earlier calls, which contain a digest of their content.

No other file is overwritten. The *mark* of a command is the name of the digest, such as ``workbench predict``.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image, PngImagePlugin

from workbench.report.text import visible
from workbench.support.errors import WorkbenchError


def digest(content: bytes) -> str:
    """SHA-256 of some bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def marked_png(image: Image.Image, mark: str) -> bytes:
    """PNG file with the digest of its pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_text(mark, digest(image.tobytes()))
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def is_marked_png(path: Path, mark: str) -> bool:
    """Whether a file is an unchanged file of ``marked_png``."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(mark) == digest(image.tobytes())
    except Exception:  # damaged, so changed since it was written
        return False


def marked_html(page: str, mark: str) -> bytes:
    """HTML file in UTF-8 with the digest of the page in a comment at its end."""
    content = page.encode("utf-8", "backslashreplace")
    return content + f"<!-- {mark} {digest(content)} -->\n".encode()


def is_marked_html(path: Path, mark: str) -> bool:
    """Whether a file is an unchanged file of ``marked_html``."""
    content, _, end = path.read_bytes().rpartition(f"<!-- {mark} ".encode())
    return end == f"{digest(content)} -->\n".encode()


def refuse_foreign(path: Path, is_own: Callable[[Path], bool], mark: str) -> None:
    """Raise a WorkbenchError if a path exists and is not an unchanged file of the command. Links are not followed."""
    _check_folder(path.parent)
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or not is_own(path)):
        raise WorkbenchError(
            f"{visible(path)}: not written by {mark}, or changed since then; choose another folder with --out, or "
            "move the file"
        )


def _check_folder(path: Path) -> None:
    """Fail if a folder can be neither made nor written."""
    nearest = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    problem = "no permission to write" if os.path.isdir(nearest) else "not a folder"
    if not os.path.isdir(nearest) or not os.access(nearest, os.W_OK | os.X_OK):
        raise WorkbenchError(f"{visible(nearest)}: {problem}; choose another folder with --out")
