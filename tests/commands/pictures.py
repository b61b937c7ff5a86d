"""Pictures of users, good and broken, for the tests of ``workbench predict``."""

import contextlib
import os
import socket

import numpy as np
from PIL import Image


def draw(path, size=(40, 30), colour=(200, 60, 30), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def made(path, content=b"mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def cut(path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def pipe(path):
    os.mkfifo(path)


def bind(path):
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as one:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        one.bind(path.name)
        os.chdir(here)


def bomb(path):
    Image.new("1", (14_000, 13_000)).save(path.with_suffix(".png"))
    path.with_suffix(".png").rename(path)


def infinite(path):
    Image.fromarray(np.full((9, 9), np.inf, np.float32)).save(path, format="TIFF")


def signed(path):
    Image.fromarray(np.full((9, 9), -5, np.int32)).save(path, format="TIFF")


def float_64(path):
    """A TIFF with three channels of 64-bit floating-point numbers, which Pillow cannot decode."""
    draw(path, format="TIFF")
    content = bytearray(path.read_bytes())
    at = content.index((258).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[at + 8 : at + 12] = (64).to_bytes(4, "little")
    path.write_bytes(content)


def program(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


BROKEN = {
    "cut.jpg": (cut, "image file is truncated"),
    "cut.png": (cut, "not a readable picture|damaged"),
    "cut.gif": (cut, "not a readable picture|damaged"),
    "cut.webp": (cut, "not a readable picture|damaged"),
    "cut.bmp": (cut, "not a readable picture|damaged"),
    "cut.tif": (cut, "not a readable picture|damaged"),
    "letters.png": (lambda path: path.write_bytes(b"letters"), "damaged, or not JPEG"),
    "empty.jpg": (lambda path: path.write_bytes(b""), "the file is empty"),
    "pipe.jpg": (pipe, "a pipe, a socket or a device"),
    "socket.png": (bind, "a pipe, a socket or a device"),
    "device.png": (lambda path: path.symlink_to("/dev/zero"), "a pipe, a socket or a device"),
    "link.jpg": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "loop.jpg": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "bomb.png": (bomb, "more than 179 megapixels; scale"),
    "infinite.tif": (infinite, "pixels from inf to inf"),
    "signed.tif": (signed, "pixels from -5 to -5"),
    "float64.tif": (float_64, "damaged, or not JPEG|not a readable picture"),
    "program.jpg": (program, "damaged, or not JPEG"),
}
"""Name of a file → function that makes it, and what the message says."""
