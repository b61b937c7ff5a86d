"""Decoding, resizing and flipping of images, and the canvas of a batch."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from workbench.data import transforms
from workbench.data.coco import ImageRecord
from workbench.support.errors import WorkbenchError


def record(width, height, boxes=(), path="x.jpg"):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(1, str(path), path, width, height, boxes, np.arange(len(boxes)))


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(640, 480, (1067, 800)), (640, 427, (1199, 800)), (480, 640, (800, 1067)), (2000, 500, (1333, 333))],
)
def test_the_resized_image_is_the_largest_that_fits(width, height, expected):
    assert transforms.resized_size(height, width, 1333, 800) == expected[::-1]


def test_no_side_is_resized_to_zero():
    assert transforms.resized_size(1, 10_000, 1333, 800) == (1, 1333)


def stored(path, image, orientation):
    """Write an image with an EXIF orientation, and return the pixels as Pillow shows them."""
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(image).save(path, exif=exif, quality=95)
    with Image.open(path) as file:
        return np.array(ImageOps.exif_transpose(file))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_by_its_exif_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    shown = stored(path, pixels(20, 30), orientation)
    decoded = transforms.decode_image(path, *shown.shape[:2])
    assert decoded.dtype == torch.uint8
    atol = {"jpg": 2, "png": 0, "webp": 40}[suffix]  # Pillow's and torchvision's decoders differ by rounding
    np.testing.assert_allclose(decoded.permute(1, 2, 0).numpy().astype(int), shown.astype(int), atol=atol)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_stays_as_stored_if_only_its_stored_size_is_the_stated_one(tmp_path, orientation):
    image = pixels(20, 30)
    stored(tmp_path / "a.png", image, orientation)
    decoded = transforms.decode_image(tmp_path / "a.png", 20, 30)
    np.testing.assert_array_equal(decoded.permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_none(tmp_path, orientation):
    image = pixels(20, 20)
    stored(tmp_path / "a.png", image, orientation)
    np.testing.assert_array_equal(transforms.decode_image(tmp_path / "a.png", 20, 20).permute(1, 2, 0).numpy(), image)


def test_the_orientation_is_named_where_neither_size_fits(tmp_path):
    stored(tmp_path / "a.jpg", pixels(20, 30), 6)
    with pytest.raises(
        WorkbenchError, match=r"has 30x20 pixels \(20x30 if turned by its EXIF orientation 6\), but the"
    ):
        transforms.decode_image(tmp_path / "a.jpg", 99, 77)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_images_become_rgb(tmp_path, mode):
    Image.fromarray(pixels(20, 30)).convert(mode).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.mode == mode
        expected = np.array(image.convert("RGB"))
    decoded = transforms.decode_image(tmp_path / "a.jpg", 20, 30)
    np.testing.assert_allclose(decoded.permute(1, 2, 0).numpy().astype(int), expected.astype(int), atol=2)


def test_unusable_images_are_reported_in_one_line(tmp_path):
    Image.fromarray(pixels(20, 30)).save(tmp_path / "good.jpg")
    content = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    Image.fromarray(np.zeros((20, 30), dtype=np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    cases = {
        "none.jpg": "no such image",
        "folder.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
        "good.jpg/a.jpg": "Not a directory",
        f"{'a' * 300}.jpg": "File name too long",
        "cut.jpg": "truncated",
        "text.jpg": "not a readable JPEG",
        "empty.jpg": "not a readable JPEG",
        "deep.png": "8 bits per colour; convert it",
    }
    for name, message in cases.items():
        with pytest.raises(WorkbenchError, match=message) as error:
            transforms.decode_image(tmp_path / name, 20, 30)
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(
        WorkbenchError, match="the image has 30x20 pixels, but the annotations state 20x30; correct one"
    ):
        transforms.decode_image(tmp_path / "good.jpg", 30, 20)


def bilinear(image, height, width):
    """Slow OpenCV interpolation: half-pixel centres, repeated edges, no antialiasing; ``[h, w, 3]`` float64."""

    def taps(new, old):
        centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(centre).astype(int)
        return low, np.minimum(low + 1, old - 1), centre - low

    (top, bottom, v), (left, right, u) = taps(height, image.shape[0]), taps(width, image.shape[1])
    rows = image[top] * (1 - v)[:, None, None] + image[bottom] * v[:, None, None]
    return rows[:, left] * (1 - u)[:, None] + rows[:, right] * u[:, None]


@pytest.mark.parametrize(("height", "width"), [(37, 80), (90, 45), (12, 17), (30, 40)])
def test_resizing_agrees_with_opencv_s_rule_within_one_grey_level(height, width):
    image = pixels(30, 40)
    resized = transforms.resize_image(torch.from_numpy(image).permute(2, 0, 1), height, width)
    assert resized.dtype == torch.uint8
    expected = bilinear(image.astype(float), height, width)
    np.testing.assert_allclose(resized.permute(1, 2, 0).numpy(), expected, atol=1)


def test_boxes_scale_by_axis_and_are_clipped():
    boxes = [(10, 20, 30, 40), (-5, -5, 5, 5), (90, 70, 130, 95), (100, 10, 120, 30)]
    resized, labels = transforms.resize_boxes(record(100, 80, boxes), height=160, width=300)
    np.testing.assert_allclose(resized, [(30, 40, 90, 80), (0, 0, 15, 10), (270, 140, 300, 160)])
    assert labels.tolist() == [0, 1, 2]  # the last box is outside the image
    assert resized.dtype == np.float32


def test_flipping_mirrors_image_and_boxes():
    image = torch.zeros(3, 10, 20, dtype=torch.uint8)
    image[:, 2:5, 1:7] = 255
    sample = transforms.Sample(image, np.float32([[1, 2, 7, 5]]), np.array([0]), record(20, 10))
    flipped = transforms.flip(sample)
    assert flipped.boxes.tolist() == [[13, 2, 19, 5]]
    assert flipped.image[:, 2:5, 13:19].eq(255).all()
    assert flipped.image.sum() == image.sum()
    again = transforms.flip(flipped)
    assert torch.equal(again.image, image)
    np.testing.assert_array_equal(again.boxes, sample.boxes)
    assert sample.boxes.tolist() == [[1, 2, 7, 5]]


def test_images_are_normalised_and_their_padding_is_zero():
    shapes, counts = [(40, 70), (65, 33)], (2, 0)
    samples = []
    for (height, width), count in zip(shapes, counts, strict=True):
        boxes = np.tile(np.float32([1, 2, 3, 4]), (count, 1))
        image = torch.from_numpy(pixels(height, width)).permute(2, 0, 1)
        samples.append(transforms.Sample(image, boxes, np.full(count, 5), record(2 * width, 2 * height)))
    batch = transforms.collate(samples).to("cpu")
    assert batch.images.shape == (2, 3, 96, 96)
    assert batch.images.dtype == torch.float32
    for image, sample, (height, width) in zip(batch.images, samples, shapes, strict=True):
        channels = sample.image.permute(1, 2, 0).numpy().astype(np.float64)
        expected = (channels - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
        np.testing.assert_allclose(image[:, :height, :width].permute(1, 2, 0), expected, atol=1e-6)
        assert image[:, height:].eq(0).all()
        assert image[:, :, width:].eq(0).all()
    assert batch.sizes.tolist() == [list(shape) for shape in shapes]
    assert batch.original_sizes.tolist() == [[80, 140], [130, 66]]
    assert batch.valid.tolist() == [[True, True], [False, False]]
    assert batch.labels.tolist() == [[5, 5], [0, 0]]
    assert batch.boxes[0].tolist() == [[1, 2, 3, 4]] * 2
    assert batch.boxes[1].eq(0).all()


def test_a_batch_without_objects_has_boxes_of_the_right_shape():
    sample = transforms.Sample(
        torch.zeros(3, 32, 32, dtype=torch.uint8), *[np.zeros((0, 4)), np.zeros(0)], record(9, 9)
    )
    batch = transforms.collate([sample])
    assert batch.boxes.shape == (1, 0, 4)
    assert batch.labels.shape == batch.valid.shape == (1, 0)
    assert (batch.labels.dtype, batch.valid.dtype) == (torch.int64, torch.bool)
