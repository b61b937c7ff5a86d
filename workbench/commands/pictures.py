"""Pictures of a user: search in files and folders, and reading as a viewer shows them."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from workbench.data.headers import leave_out_xmp
from workbench.report.text import visible
from workbench.support.errors import WorkbenchError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"}
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
"""Formats that are read. For some other formats, such as EPS, Pillow would start another program."""


@dataclass(frozen=True)
class Picture:
    """File that a user named, or that was found in a named folder.

    Attributes:
        path: path as the user named it.
        name: path below the deepest folder that contains all named files and folders; unique.
    """

    path: Path
    name: Path


def find_pictures(
    paths: Sequence[Path], out: Path, is_drawing: Callable[[Path], bool]
) -> tuple[list[Picture], list[WorkbenchError]]:
    """Return the named files, and the pictures in the named folders and their subfolders; each file once.

    Links are followed, and each folder is searched once. Left out are hidden files and folders, drawings of earlier
    calls, and the output folder unless it is named.

    Args:
        paths: files and folders. A path that does not exist is returned as a file.
        out: output folder.
        is_drawing: whether a file is a drawing of an earlier call.

    Returns:
        Pictures in the order of the names, files of a folder before its subfolders, and one error for each unreadable
        folder.

    Raises:
        WorkbenchError: no picture is found.
    """
    places = [_absolute(path) for path in paths]
    common = Path(
        os.path.commonpath([p if os.path.isdir(path) else p.parent for path, p in zip(paths, places, strict=True)])
    )
    folders: set[tuple[int, int]] = set()
    if os.path.isdir(out) and not any(os.path.samefile(out, path) for path in paths if os.path.isdir(path)):
        folders.add(_identity(out))
    pictures: dict[tuple[str, str], Picture] = {}
    errors: list[WorkbenchError] = []
    for path, place in zip(paths, places, strict=True):
        for file in _files(path, folders, errors, is_drawing) if os.path.isdir(path) else [path]:
            # The folder without links and the name identify a file; a link to a file has a name of its own.
            key = os.path.realpath(file.parent), file.name
            pictures.setdefault(key, Picture(file, (place / file.relative_to(path)).relative_to(common)))
    if not pictures and not errors:
        named, suffixes = ", ".join(map(visible, paths)), ", ".join(sorted(SUFFIXES))
        raise WorkbenchError(f"{named}: no pictures; name files or folders with pictures ({suffixes})")
    return list(pictures.values()), errors


def _absolute(path: Path) -> Path:
    """Return the absolute path without ``..``. Links are followed only where ``..`` requires this."""
    if ".." not in path.parts:
        return Path(os.path.abspath(path))
    return Path(os.path.realpath(path)) if path.name == ".." else Path(os.path.realpath(path.parent), path.name)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _files(
    root: Path, folders: set[tuple[int, int]], errors: list[WorkbenchError], is_drawing: Callable[[Path], bool]
) -> Iterator[Path]:
    """Iterate over the pictures below a folder. Searched folders are added to ``folders`` and not searched again."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            identity = _identity(folder)
            names = [] if identity in folders else sorted(os.listdir(folder))
        except OSError as error:
            errors.append(WorkbenchError(f"{visible(folder)}: {error.strerror}; check the path and its permissions"))
            continue
        folders.add(identity)
        paths = [folder / name for name in names if not name.startswith(".")]
        subfolders = [path for path in paths if os.path.isdir(path)]
        yield from (p for p in paths if p.suffix.lower() in SUFFIXES and p not in subfolders and not is_drawing(p))
        waiting += reversed(subfolders)


def read_picture(path: Path) -> Image.Image:
    """Return a picture as 8-bit RGB, as a viewer shows it: turned by its EXIF orientation, on a white ground.

    The first frame of an animation and the first page of several are read. Deeper pixels are scaled to 8 bits: pixels
    of 16 bits by their range, other pixels by the smallest of 1, 255 and 65,535 that no pixel exceeds.

    Raises:
        WorkbenchError: not a file, too large, damaged, or of an unknown format or range.
    """
    place = visible(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise WorkbenchError(f"{place}: no such file or folder; check the path") from None
    except OSError as error:
        raise WorkbenchError(f"{place}: {error.strerror}; check the path and its permissions") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise WorkbenchError(f"{place}: a pipe, a socket or a device, not a picture; name a file")
    if status.st_size == 0:
        raise WorkbenchError(f"{place}: the file is empty; copy it again, or remove it")
    remedy = "copy the file again, or convert it to PNG with 8 bits per colour"
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as file:
            return _as_shown(file)
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS / 1e6
        raise WorkbenchError(f"{place}: more than {most:.0f} megapixels; scale the picture down, or cut it") from None
    except UnidentifiedImageError:
        problem = "damaged, or not JPEG, PNG, WebP, GIF, BMP or TIFF with up to 16 bits per colour"
        raise WorkbenchError(f"{place}: {problem}; {remedy}") from None
    except MemoryError:
        raise WorkbenchError(f"{place}: too large for the memory; scale the picture down, or cut it") from None
    except Exception as error:  # Pillow raises many types of errors for damaged files, even SyntaxError
        raise WorkbenchError(f"{place}: not a readable picture ({visible(error)}); {remedy}") from None


def _as_shown(file: Image.Image) -> Image.Image:
    if min(file.size) < 1:
        raise ValueError("no pixels")
    file.load()
    leave_out_xmp(file)
    try:
        image = ImageOps.exif_transpose(file)
    except Exception:  # damaged EXIF data beside intact pixels
        image = file
    if image.mode == "F" or image.mode.startswith("I"):
        image = _from_deep(image, file)
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    shown = image.convert("RGB")
    shown.info = {}  # the colour profile does not fit the converted pixels
    return shown


def _from_deep(image: Image.Image, file: Image.Image) -> Image.Image:
    """Return a grey picture of more than 8 bits per pixel, scaled to 8 bits."""
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if image.mode.startswith("I;16"):
        bits = getattr(file, "tag_v2", {}).get(258, (16,))[0]  # BitsPerSample of a TIFF; cameras have 12
        ranges = [2**bits - 1, 65535]
    else:
        ranges = [1, 255, 65535] if image.mode == "F" else [255, 65535]
    white = next((top for top in ranges if low >= 0 and high <= top), None)  # NaN is outside every range
    if white is None:
        raise ValueError(f"pixels from {low:g} to {high:g}, not from 0 to {', '.join(map(str, ranges))}")
    return Image.fromarray((pixels.astype(np.float32) * (255 / white) + 0.5).astype(np.uint8))
