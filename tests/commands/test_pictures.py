"""Pictures as a viewer shows them, of any mode and depth; a picture that cannot be read is one line."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageSequence, PngImagePlugin

from tests.commands.pictures import BROKEN, draw, made
from workbench.commands.pictures import read_picture
from workbench.data.headers import read_header
from workbench.support.errors import WorkbenchError


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    for name, (make, _) in BROKEN.items():
        make(folder / name)
    return folder


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("error")
def test_a_picture_that_cannot_be_read_is_one_line(broken, name):
    with pytest.raises(WorkbenchError, match=BROKEN[name][1]) as error:
        read_picture(broken / name)
    assert str(error.value).startswith(f"{broken / name}: ")
    assert "; " in str(error.value)
    assert "\n" not in str(error.value)


RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))


def saved(array, suffix, mode=None):
    content = io.BytesIO()
    Image.fromarray(array, mode).save(content, suffix) if mode else Image.fromarray(array).save(content, suffix)
    return content.getvalue()


def big_endian_ramp():
    """A TIFF of 12 bits per pixel is not written by Pillow; 16 bits big endian are."""
    image = Image.fromarray((RAMP * 65535).astype(">u2"))
    content = io.BytesIO()
    image.save(content, "TIFF")
    return content.getvalue()


def rgb_16():
    """PNG with three channels of 16 bits, which Pillow reads but does not write."""
    values = np.repeat((RAMP * 65535).astype(">u2")[:, :, None], 3, 2)
    lines = b"".join(b"\0" + line.tobytes() for line in values)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


DEEP = {
    "16-bit grey PNG": lambda: saved((RAMP * 65535).astype(np.uint16), "PNG"),
    "16-bit colour PNG": rgb_16,
    "16-bit TIFF": lambda: saved((RAMP * 65535).astype(np.uint16), "TIFF"),
    "16-bit big-endian TIFF": big_endian_ramp,
    "32-bit TIFF": lambda: saved((RAMP * 65535).astype(np.int32), "TIFF"),
    "32-bit TIFF up to 255": lambda: saved((RAMP * 255).astype(np.int32), "TIFF"),
    "float TIFF up to 1": lambda: saved(RAMP.astype(np.float32), "TIFF"),
    "float TIFF up to 255": lambda: saved((RAMP * 255).astype(np.float32), "TIFF"),
    "float TIFF up to 65535": lambda: saved((RAMP * 65535).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_pixels_are_scaled(tmp_path, name):
    made(tmp_path / "x.png", DEEP[name]())
    image = np.asarray(read_picture(tmp_path / "x.png")).astype(int)
    assert image.shape == (48, 64, 3)
    assert abs(image - (RAMP * 255)[:, :, None]).max() <= 1


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    made(tmp_path / "x.png", saved(np.full((9, 9), 30_000, np.uint16), "PNG"))
    assert set(np.asarray(read_picture(tmp_path / "x.png")).ravel()) == {117}


def shades(mode):
    """Picture of two halves, red and white as far as the mode allows, with what is right."""
    red, white = (220, 30, 40), (255, 255, 255)
    image = Image.new("RGB", (40, 30), red)
    image.paste(white, (20, 0, 40, 30))
    if mode == "RGBA":  # hidden under the transparent half is black
        image = image.convert("RGBA")
        image.paste((0, 0, 0, 0), (20, 0, 40, 30))
    elif mode == "P with transparency":
        image = image.quantize(4)
        image.info["transparency"] = image.getpixel((30, 5))
    elif mode == "CMYK":
        image = image.convert("CMYK")
    elif mode in ("1", "L", "LA", "P"):
        image = image.convert(mode)
        red = {"1": None, "P": red}.get(mode, (88, 88, 88))
    return image, red


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *(
            ("RGBA", "PNG"),
            ("RGBA", "WEBP"),
            ("RGBA", "TIFF"),
            ("P with transparency", "PNG"),
            ("P with transparency", "GIF"),
        ),
        *(
            ("CMYK", "JPEG"),
            ("CMYK", "TIFF"),
            ("1", "PNG"),
            ("1", "TIFF"),
            ("L", "JPEG"),
            ("LA", "PNG"),
            ("P", "PNG"),
            ("P", "BMP"),
        ),
    ],
)
def test_pictures_of_any_mode_are_right(tmp_path, mode, form):
    image, red = shades(mode)
    image.save(tmp_path / "x.png", form, **({"lossless": True} if form == "WEBP" else {}))
    pixels = np.asarray(read_picture(tmp_path / "x.png")).astype(int)
    assert abs(pixels[5, 35] - 255).max() < 12
    if red:
        assert abs(pixels[5, 5] - red).max() < 45
    else:
        assert 20 < pixels[:, :20].mean() < 150  # dots


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_picture_of_an_animation_is_taken(tmp_path, form):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ((200, 10, 10), (10, 10, 200))]
    frames[0].save(tmp_path / "x.png", form, save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "x.png") as image:
        assert len(list(ImageSequence.Iterator(image))) == 2
    assert abs(np.asarray(read_picture(tmp_path / "x.png"))[5, 5].astype(int) - (200, 10, 10)).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(tmp_path, orientation):
    shown = Image.fromarray((RAMP * 200).astype(np.uint8)).convert("RGB")
    shown.paste((255, 0, 0), (0, 0, 20, 10))
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # from the shown to the stored picture
    stored = shown.transpose(Image.Transpose(turns[orientation])) if orientation > 1 else shown
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    image = read_picture(tmp_path / "x.png")
    assert image.size == shown.size
    assert np.array_equal(np.asarray(image), np.asarray(shown))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_outside_of_exif_is_applied_neither_here_nor_in_training(tmp_path, form):
    """Browsers, in which boxes are drawn, apply EXIF's orientation only; Pillow applies that of XMP, too."""
    path, xmp = tmp_path / "x", b'<rdf:Description tiff:Orientation="6"/>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.new("RGB", (40, 30)).save(path, form, **({"pnginfo": text} if form == "PNG" else {"xmp": xmp}))
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6
    assert read_picture(path).size == (40, 30)
    assert read_header(path).shown_size == (40, 30)


def test_damaged_exif_data_does_not_matter(tmp_path):
    draw(tmp_path / "x.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01\x00\x12\x01")
    assert read_picture(tmp_path / "x.jpg").size == (40, 30)
