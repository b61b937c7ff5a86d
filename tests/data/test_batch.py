"""Images of a batch: uint8 until the batch is moved to its device, where they are normalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.data.batch import MEAN, STD
from workbench.data.coco import ImageRecord, read_coco
from workbench.data.loader import training_batches
from workbench.data.transforms import Sample, collate

SHAPES = {
    "wide and tall": [(40, 70), (65, 33)],
    "one pixel": [(1, 1)],
    "one pixel beside others": [(64, 64), (1, 1), (33, 1)],
    "wide": [(1, 1333)],
    "tall": [(1333, 1)],
    "without padding": [(32, 96), (32, 96)],
}


def samples_of(shapes, layout="interleaved"):
    rng = np.random.default_rng(0)
    samples = []
    for number, (height, width) in enumerate(shapes):
        image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).permute(2, 0, 1)
        boxes = np.tile(np.float32([0, 0, 1, 1]), (number, 1))
        record = ImageRecord(number, f"{number}.jpg", f"{number}.jpg", width, height, boxes, np.arange(number))
        samples.append(Sample(image if layout == "interleaved" else image.contiguous(), boxes, record.labels, record))
    return samples


def former(samples):
    """Images as they were normalised in the worker, onto a float32 canvas."""
    height, width = (-(-max(sample.image.shape[axis] for sample in samples) // 32) * 32 for axis in (1, 2))
    images = torch.zeros(len(samples), 3, height, width)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for i, sample in enumerate(samples):
        _, h, w = sample.image.shape
        images[i, :, :h, :w].copy_(sample.image).sub_(mean).div_(std)
    return images


@pytest.mark.parametrize("layout", ["interleaved", "planar"])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_normalised_images_keep_every_bit(shapes, layout):
    samples = samples_of(shapes, layout)
    images = collate(samples).to("cpu").images
    expected = former(samples)
    assert (images.dtype, images.stride()) == (torch.float32, expected.stride())
    assert torch.equal(images.view(torch.int32), expected.view(torch.int32))  # a padding of -0.0 would differ


def test_a_new_batch_has_a_quarter_of_the_bytes():
    batch = collate(samples_of(SHAPES["wide and tall"]))
    assert batch.images.dtype == torch.uint8
    assert 4 * batch.images.nbytes == batch.to("cpu").images.nbytes
    for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True):
        assert image[:, height:].eq(0).all()
        assert image[:, :, width:].eq(0).all()


def test_images_that_are_normalised_already_stay_as_they_are():
    batch = collate(samples_of(SHAPES["wide and tall"])).to("cpu")
    again = batch.to("cpu")
    assert torch.equal(again.images, batch.images)


def test_a_gpu_normalises_without_a_wait():
    """On a device without numbers, reading a tensor is an error. All tensors must be on this device."""
    batch = collate(samples_of(SHAPES["wide and tall"]))
    expected = batch.to("cpu")
    sizes = batch.sizes.tolist()
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved = batch.to("cuda")
    assert moved.images.dtype == torch.float32
    for name in ("images", "boxes", "labels", "valid", "sizes", "original_sizes"):
        value = getattr(moved, name)
        assert (value.device.type, value.shape) == ("cuda", getattr(expected, name).shape)
    assert batch.sizes.tolist() == sizes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gets_pinned_batches_and_the_same_values(tiny_data):
    data = read_coco(tiny_data, "train2017", training=True)
    epochs = [training_batches(data, size=(128, 96), canvas=4, seed=0, workers=workers).epoch(0) for workers in (0, 2)]
    for alone, pinned in zip(*epochs, strict=True):
        assert pinned.images.is_pinned()
        assert pinned.boxes.is_pinned()
        expected, moved = alone.to("cpu"), pinned.to("cuda")
        torch.testing.assert_close(moved.images.cpu(), expected.images, rtol=1e-6, atol=1e-6)
        for image, (height, width) in zip(moved.images, alone.sizes.tolist(), strict=True):
            assert image[:, height:].eq(0).all()
            assert image[:, :, width:].eq(0).all()
        assert torch.equal(moved.boxes.cpu(), expected.boxes)
