"""The sampler: batches contain each image once, and do not depend on workers, the cache or a resumption."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import fields

import numpy as np
import pytest
import torch

from workbench.data import loader
from workbench.data.augmentation import Augmentation
from workbench.data.coco import read_coco
from workbench.support.errors import WorkbenchError

# The tests start three workers even on a machine with two cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SIZE = (64, 48)


@pytest.fixture
def data(write):
    """Eleven images, seven of which are wide; one has no object, and one has 300 objects."""
    shapes = [(60, 40)] * 7 + [(40, 60)] * 3 + [(50, 50)]
    counts = [1, 2, 3, 0, 300, 1, 1, 2, 2, 2, 2]
    images, annotations = [], []
    for i, ((width, height), count) in enumerate(zip(shapes, counts, strict=True)):
        images.append({"id": 100 + i, "file_name": f"{i}.jpg", "width": width, "height": height})
        for k in range(count or 1):
            box = [k % 20, k % 15, 10 + k % 7, 12]
            crowd = {"iscrowd": int(not count)}
            annotations.append({"id": len(annotations), "image_id": 100 + i, "category_id": k % 3, "bbox": box} | crowd)
    categories = [{"id": i, "name": str(i)} for i in range(3)]
    root = write({"images": images, "annotations": annotations, "categories": categories}, images=True)
    return read_coco(root, "train2017", training=True)


def train(data, **options):
    return loader.training_batches(data, **{"size": SIZE, "canvas": 2, "seed": 3} | options)


def same(one, other):
    """Whether two lists of batches are equal, bit for bit."""

    def equal(a, b):
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    assert len(one) == len(other)
    return all(
        equal(getattr(a, f.name), getattr(b, f.name)) for a, b in zip(one, other, strict=True) for f in fields(a)
    )


def ids(batches):
    return [batch.image_ids for batch in batches]


def test_an_epoch_contains_every_image_and_never_mixes_groups(data):
    batches = train(data)
    epoch = list(batches.epoch(0))
    assert len(epoch) == batches.canvases_per_epoch == 6  # seven wide images fill four batches, four others two
    assert {i for batch in epoch for i in batch.image_ids} == {record.id for record in data.images}
    for batch in epoch:
        wide = batch.original_sizes[:, 1] > batch.original_sizes[:, 0]
        assert wide.all() or not wide.any()
        assert batch.images.shape[2:] == (64, 64)
        assert set(map(tuple, batch.sizes.tolist())) <= ({(43, 64)} if wide.all() else {(64, 43), (48, 48)})


def test_a_batch_contains_all_objects_of_its_images(data):
    counts = {record.id: len(record.labels) for record in data.images}
    assert sorted(counts.values())[::10] == [0, 300]
    for batch in train(data).epoch(0):
        assert batch.valid.sum(dim=1).tolist() == [counts[i] for i in batch.image_ids]
        assert batch.boxes[~batch.valid].eq(0).all()
        boxes = batch.boxes[batch.valid]
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_the_batches(data, workers):
    torch.manual_seed(0)
    alone, shared = train(data), train(data, workers=workers)
    for epoch in (0, 1):
        assert same(list(alone.epoch(epoch)), list(shared.epoch(epoch)))
    assert same(list(alone.epoch(5, skip=4)), list(shared.epoch(5, skip=4)))
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))  # the global generator was not used


def test_an_epoch_may_end_early(data):
    batches = train(data, workers=1)
    first = next(iter(batches.epoch(0)))
    assert same([first], list(train(data).epoch(0))[:1])
    assert same(list(batches.epoch(1)), list(train(data).epoch(1)))


def test_the_cache_does_not_change_the_batches(data, monkeypatch):
    cached = train(data)
    first = list(cached.epoch(0))
    assert same(first, list(cached.epoch(0)))
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    decoded = train(data)
    assert same(first, list(decoded.epoch(0)))
    data.images[0].path.unlink()
    assert len(list(cached.epoch(1))) == 6
    with pytest.raises(WorkbenchError, match=r"0\.jpg: no such image"):
        list(decoded.epoch(1))


def test_batches_depend_on_epoch_and_seed_only(data):
    batches = train(data)
    assert ids(batches.epoch(0)) != ids(batches.epoch(1))
    assert ids(batches.epoch(0)) != ids(train(data, seed=4).epoch(0))
    assert same(list(batches.epoch(1)), list(train(data).epoch(1)))


def test_skipped_batches_are_not_decoded(data, monkeypatch):
    whole = list(train(data).epoch(2))
    decoded = []
    decode = loader.transforms.decode_image
    monkeypatch.setattr(
        loader.transforms, "decode_image", lambda path, *size: decoded.append(path) or decode(path, *size)
    )
    assert same(list(train(data).epoch(2, skip=4)), whole[4:])
    assert len(decoded) <= 4
    assert list(train(data).epoch(2, skip=6)) == []


def test_ranks_share_the_batches_of_an_epoch(data):
    whole = ids(train(data).epoch(0))
    ranks = [train(data, rank=rank, world_size=4) for rank in range(4)]
    assert {rank.canvases_per_epoch for rank in ranks} == {2}
    parts = [ids(rank.epoch(0)) for rank in ranks]
    assert [part[0] for part in parts] + [part[1] for part in parts] == whole + whole[:2]


@pytest.mark.parametrize(("ranks", "canvases"), [(1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_step_has_the_same_canvases_on_any_number_of_ranks(data, ranks, canvases, skip):
    """Also after a resume on another number of ranks, which skips whole steps."""
    alone = ids(train(data, canvases=4).epoch(3))
    assert len(alone) % 4 == 0
    parts = [
        ids(train(data, canvases=canvases, rank=rank, world_size=ranks).epoch(3, skip=skip * canvases))
        for rank in range(ranks)
    ]
    steps = len(parts[0]) // canvases
    joined = [
        canvas for step in range(steps) for part in parts for canvas in part[step * canvases : (step + 1) * canvases]
    ]
    assert joined == alone[4 * skip :]


def test_a_small_group_fills_a_batch_by_repetition():
    landscape = np.array([True] * 5 + [False])
    plan = loader.epoch_plan(landscape, canvas=4, seed=0, epoch=0, canvases=1)
    assert plan.shape == (3, 4)
    assert [5, 5, 5, 5] in plan.tolist()
    assert loader.epoch_plan(landscape[:5], canvas=4, seed=0, epoch=0, canvases=3).shape == (3, 4)


def test_half_of_the_images_are_flipped(data):
    plain = {
        i: image
        for b in train(data, augmentation=Augmentation(flip=0.0)).epoch(0)
        for i, image in zip(b.image_ids, b.images, strict=True)
    }
    for batch in train(data, augmentation=Augmentation(flip=1.0)).epoch(0):
        for i, image, (height, width) in zip(batch.image_ids, batch.images, batch.sizes.tolist(), strict=True):
            assert torch.equal(image[:, :height, :width].flip(2), plain[i][:, :height, :width])
    flipped = 0
    for epoch in range(20):
        for batch in train(data).epoch(epoch):
            flipped += sum(
                not torch.equal(image, plain[i]) for i, image in zip(batch.image_ids, batch.images, strict=True)
            )
    assert 80 < flipped < 160  # of 240


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_batches_keep_the_order_of_the_file(data, workers):
    batches = list(loader.evaluation_batches(data, size=SIZE, batch=3, workers=workers))
    assert [i for batch in batches for i in batch.image_ids] == [record.id for record in data.images]
    assert batches[2].images.shape == (3, 3, 64, 64)  # one wide and two tall images
    single = list(loader.evaluation_batches(data, size=SIZE))
    assert len(single) == len(data.images)
    assert torch.equal(single[6].images[0, :, :43, :64], batches[2].images[0, :, :43, :64])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_reported_in_one_line(data, workers):
    path = data.images[8].path
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(WorkbenchError, match="not a readable") as error:
        list(train(data, workers=workers).epoch(0))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_workers_ignore_interrupts(data):
    before = set(multiprocessing.active_children())
    epoch = train(data, workers=1, canvas=1).epoch(0)
    batches = [next(epoch)]
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGINT)
    batches += epoch
    assert same(batches, list(train(data, canvas=1).epoch(0)))


@pytest.mark.parametrize("error", [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), EOFError()])
def test_a_killed_worker_is_reported_in_one_line(error):
    def interrupted():
        raise error
        yield

    with pytest.raises(WorkbenchError, match=r"^workers: a process .* ended unexpectedly.*; use fewer workers$"):
        list(loader._raise_errors(interrupted()))


def test_other_errors_are_raised_unchanged(data, monkeypatch):
    monkeypatch.setattr(loader.transforms, "collate", lambda samples: [].pop())
    with pytest.raises(IndexError):
        list(train(data).epoch(0))


def test_batches_of_coco_fit_into_the_size(shared_data):
    data = read_coco(shared_data / "coco-tiny", "val2017", training=False, limit=8)
    for batch, record in zip(loader.evaluation_batches(data, size=(1333, 800)), data.images, strict=True):
        height, width = batch.sizes[0].tolist()
        assert max(height, width) <= 1333
        assert min(height, width) <= 800
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        ratios = torch.tensor([width / record.width, height / record.height]).repeat(2)
        assert torch.allclose(batch.boxes[0], torch.from_numpy(record.boxes) * ratios, atol=0.1)
        assert abs(batch.to("cpu").images[0, :, :height, :width].mean()) < 1.5
