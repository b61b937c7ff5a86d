"""Real images are decoded and resized as in MMDetection 3.3.0."""

import numpy as np
import pytest

from workbench.data.coco import read_coco
from workbench.data.transforms import decode_image, resize_image, resized_size


@pytest.fixture(scope="module")
def records(shared_data):
    """Records of some tall and wide images."""
    images = read_coco(shared_data / "coco-tiny", "val2017", training=False, limit=16).images[::2]
    assert {image.width > image.height for image in images} == {True, False}
    return images


def bgr(image):
    return np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())


def test_decoded_pixels(mm, records):
    load = mm.transform({"type": "LoadImageFromFile"})
    for record in records:
        theirs = load({"img_path": str(record.path)})["img"]
        np.testing.assert_array_equal(bgr(decode_image(record.path, record.height, record.width)), theirs)


@pytest.mark.parametrize(("long", "short"), [(1333, 800), (1333, 480), (500, 333)])
def test_resized_pixels_differ_by_one_grey_level_at_most(mm, records, long, short):
    resize = mm.transform({"type": "Resize", "scale": (long, short), "keep_ratio": True})
    for record in records:
        image = decode_image(record.path, record.height, record.width)
        theirs = resize({"img": bgr(image)})["img"].astype(int)
        ours = bgr(resize_image(image, *resized_size(record.height, record.width, long, short)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1)
