"""Headers of image files: size and EXIF orientation, read without decoding. This module does not import torch.

JPEG (ITU-T T.81, EXIF 2.32) and PNG (third edition) are read here, because 118,287 headers must take seconds. Pillow
reads WebP and GIF.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

ORIENTATION = 0x0112
"""EXIF tag of the orientation: 1 as stored, 2 to 4 mirrored or turned by 180 degrees, 5 to 8 turned by a quarter."""
FORMATS = "JPEG, PNG, WebP or GIF image"
SEGMENTS, BETWEEN = 1000, 4096
"""Largest number of segments before the frame header of a JPEG, and of bytes between two segments."""
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Header:
    """Size in pixels of a stored image, and its EXIF orientation from 1 to 8; 1 without such a tag."""

    width: int
    height: int
    orientation: int

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of the image as viewers show it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    def is_turned(self, width: int, height: int) -> bool:
        """Whether to apply the orientation to an image whose annotations state ``width`` × ``height``.

        Viewers, detectron2 and OpenCV apply the orientation. Here, the shown image must also have the stated size: if
        only the stored image has this size, the boxes refer to the stored image.
        """
        return self.orientation > 1 and self.shown_size == (width, height)


def read_header(path: Path) -> Header | str:
    """Header of an image file, or ``problem; what to do`` if the file is not a single 8-bit image in a known format."""
    if fault := file_fault(path):
        return fault
    try:
        with open(path, "rb") as file:
            header = _parse(file)
            if not _seems_whole(file):
                _decode(path)
        return header
    except _NotEightBit as error:
        return f"{error}; convert it"
    except OSError as error:
        if error.errno is None:  # an error of Pillow
            return f"not a readable {FORMATS} ({error}); copy or convert it again"
        return f"cannot be read ({error.strerror}); check the path and its permissions"
    except struct.error:
        return f"not a readable {FORMATS} (truncated); copy or convert it again"
    except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"not a readable {FORMATS} ({error}); copy or convert it again"


def file_fault(path: Path) -> str | None:
    """Return ``problem; what to do`` if there is no regular file at the path, else None."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return missing_fault(path)
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error}); check the path and its permissions"
    # Reading a pipe would wait for ever.
    return None if stat.S_ISREG(status.st_mode) else "not a regular file; put the image there"


def missing_fault(path: Path, others: str = "") -> str:
    """Return ``problem; what to do`` for an image that does not exist; ``others`` is put behind the problem."""
    also = ", nor one with slashes for the backslashes of Windows" if "\\" in path.name else ""
    return f"no such image{also}{others}; copy it there or remove it from the annotations"


def orientation_of(content: memoryview | bytes) -> int:
    """EXIF orientation of an encoded image in memory; 1 without such a tag, or if the tag is damaged."""
    try:
        return _parse(BytesIO(content)).orientation
    except (ValueError, OSError, struct.error):
        return 1


class _NotEightBit(ValueError):
    """Error about an image with more than 8 bits per colour, or with several frames."""


def _parse(file: BinaryIO) -> Header:
    start = file.read(12)
    if start.startswith(b"\xff\xd8\xff"):
        header = _parse_jpeg(file)
    elif start.startswith(_PNG):
        header = _parse_png(file)
    elif start.startswith(b"GIF8") or (start[:4], start[8:]) == (b"RIFF", b"WEBP"):
        header = _parse_other(file)
    else:
        raise ValueError("unknown format" if start else "empty file")
    if not header.width or not header.height:
        raise ValueError("no size in its header")
    return header


def _parse_jpeg(file: BinaryIO) -> Header:
    """Header of a JPEG: the first frame header, and the orientation in an EXIF segment before this header."""
    file.seek(2)
    orientation = 1
    for _ in range(SEGMENTS):
        code = _next_marker(file)
        if code == 0x01 or 0xD0 <= code <= 0xD8:  # markers without a segment
            continue
        if code in (0xD9, 0xDA):
            raise ValueError("no frame header")
        (length,) = struct.unpack(">H", file.read(2))
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            bits, height, width = struct.unpack(">BHH", file.read(5))
            if bits != 8:
                raise _NotEightBit("not a single image with 8 bits per colour")
            return Header(width, height, orientation)
        if code == 0xE1 and orientation == 1:
            segment = file.read(length - 2)
            if segment.startswith(b"Exif\0\0"):
                orientation = _tiff_orientation(segment[6:])
        else:
            file.seek(length - 2, os.SEEK_CUR)
    raise ValueError("no frame header")


def _next_marker(file: BinaryIO) -> int:
    """Code of the next marker of a JPEG. Other bytes between segments are skipped, as decoders do."""
    previous = b""
    for _ in range(BETWEEN):
        byte = file.read(1)
        if previous == b"\xff" and byte not in (b"\xff", b"\0", b""):
            return byte[0]
        previous = byte
    raise ValueError("no frame header")


def _parse_png(file: BinaryIO) -> Header:
    """Header of a PNG. An EXIF chunk after the pixels is ignored, as decoders do."""
    file.seek(8)
    width = height = 0
    orientation = 1
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IHDR":
            width, height, bits = struct.unpack(">IIB", file.read(9))
            if bits > 8:
                raise _NotEightBit("not a single image with 8 bits per colour")
            file.seek(length - 9 + 4, os.SEEK_CUR)
        elif kind == b"eXIf":
            orientation = _tiff_orientation(file.read(length))
            file.seek(4, os.SEEK_CUR)
        elif kind in (b"IDAT", b"IEND"):
            return Header(width, height, orientation)
        else:
            file.seek(length + 4, os.SEEK_CUR)


def _parse_other(file: BinaryIO) -> Header:
    file.seek(0)
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("damaged header") from None
    if getattr(image, "n_frames", 1) > 1:
        raise _NotEightBit("not a single image with 8 bits per colour")
    leave_out_xmp(image)
    orientation = image.getexif().get(ORIENTATION, 1)
    return Header(*image.size, orientation if orientation in range(1, 9) else 1)


def leave_out_xmp(image: Image.Image) -> None:
    """Remove the places other than EXIF in which Pillow looks for an orientation, but browsers do not."""
    for key in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(key, None)


def _tiff_orientation(content: bytes) -> int:
    """Orientation in the first directory of EXIF data; 1 without such a tag, or if the data are damaged."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", content, entry)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(order + {3: "H", 4: "I"}.get(kind, "H"), content, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _seems_whole(file: BinaryIO) -> bool:
    """Whether a JPEG or PNG ends with its last marker. A whole file may have other data there, too."""
    file.seek(0)
    start = file.read(2)
    if start not in (b"\xff\xd8", _PNG[:2]):
        return True
    is_jpeg = start == b"\xff\xd8"
    file.seek(-2 if is_jpeg else -8, os.SEEK_END)
    return file.read(4) == (b"\xff\xd9" if is_jpeg else b"IEND")


def _decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
