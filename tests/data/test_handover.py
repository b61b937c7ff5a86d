"""Hand-over of batches by worker processes: equal values, a quarter of the bytes, little space in /dev/shm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from tests.data.test_batch import SHAPES, samples_of
from workbench.data import loader
from workbench.data.batch import Batch
from workbench.data.coco import read_coco
from workbench.data.handover import collate_for_another_process
from workbench.data.transforms import collate
from workbench.support.errors import WorkbenchError
from workbench.training.interrupts import keep_dead_workers_quiet

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no anonymous shared memory"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]

STEPS = """
import sys
from workbench.data import loader
from workbench.data.coco import read_coco

data = read_coco(sys.argv[1], "train2017", training=True)
options = {"size": (1333, 800), "workers": 2}
for batch in loader.training_batches(data, seed=0, canvas=8, **options).epoch(0):
    print("train", batch.images.nbytes, float(batch.to("cpu").images[0, 0, 0, 0]))
for batch in loader.evaluation_batches(data, batch=8, **options):
    print("test", batch.images.nbytes)
"""


def received(parcel):
    return ForkingPickler.loads(ForkingPickler.dumps(parcel))


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_receiver_gets_the_same_batch(shapes):
    samples = samples_of(shapes)
    expected, batch = collate(samples), received(collate_for_another_process(samples, []))
    assert isinstance(batch, Batch)
    for name, value in vars(expected).items():
        other = getattr(batch, name)
        if isinstance(value, torch.Tensor):
            assert (other.dtype, other.stride()) == (value.dtype, value.stride())
            assert torch.equal(other, value)
        else:
            assert other == value
    batch.images.zero_()  # the memory can be written
    batch.boxes.zero_()


def test_messages_are_short_and_descriptors_are_closed():
    """A worker that is killed within a long message would block the queue of the other workers."""
    samples = samples_of([(300, 400)] * 50)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        message = ForkingPickler.dumps(collate_for_another_process(samples, []))
        assert len(message) < 1000
        batch = ForkingPickler.loads(message)
        assert batch.images.nbytes == 50 * 3 * 320 * 416
    assert len(os.listdir("/proc/self/fd")) < before + 15  # a thread closes the last ones later


def test_no_memory_is_reported_in_one_line(monkeypatch):
    def fail(name):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", fail)
    with pytest.raises(
        WorkbenchError, match=r"^workers: no shared memory .*\(Too many open files\); use fewer workers$"
    ):
        collate_for_another_process(samples_of([(9, 9)]), [])


def test_no_semaphores_are_reported_in_one_line(tiny_data, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loader.DataLoader, "__iter__", fail)
    data = read_coco(tiny_data, "train2017", training=True)
    with pytest.raises(WorkbenchError, match=r"^workers: cannot start .*\(No space left on device\); use fewer"):
        loader.evaluation_batches(data, size=(64, 64), workers=1)


def test_a_block_is_used_again_after_the_receiver_has_released_the_images():
    blocks = []

    def sent(shapes):
        samples = samples_of(shapes)
        batch = received(collate_for_another_process(samples, blocks))
        assert torch.equal(batch.images, collate(samples).images)  # padding of a used block is cleared
        return batch

    first, second = sent([(60, 90)] * 3), sent([(90, 60)] * 3)
    one, other = blocks
    kept, view = first.images.clone(), first.images[0]
    del first
    third = sent([(40, 40)])  # a view keeps the memory
    assert len(blocks) == 3
    assert torch.equal(view, kept[0])
    del view, second
    fourth = sent([(33, 70), (1, 1)])
    assert blocks[:2] == [one, other]
    assert one.in_use
    assert not other.in_use
    del third, fourth
    large = sent([(300, 400)])
    assert blocks[0].in_use
    assert blocks[0].size > one.size
    assert len(blocks) == 1
    assert large.images.shape == (1, 3, 320, 416)


def test_a_forked_process_does_not_release_the_images_of_its_parent():
    """The workers of a validation inherit the batches that the training has at that time."""
    blocks = []
    batch = received(collate_for_another_process(samples_of([(60, 90)]), blocks))
    child = os.fork()
    if child == 0:
        del batch
        os._exit(0)
    os.waitpid(child, 0)
    assert blocks[0].in_use
    del batch
    assert not blocks[0].in_use


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGKILL])
def test_a_worker_that_dies_ends_the_training_in_one_line(tiny_data, number):
    data = read_coco(tiny_data, "train2017", training=True)
    before, began = set(multiprocessing.active_children()), time.monotonic()
    epochs = loader.training_batches(data, size=(64, 64), canvas=1, seed=0, workers=2).epoch(0)
    keep_dead_workers_quiet()
    next(epochs)
    worker, _ = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, number)
    with pytest.raises(loader.LostWorker, match=r"^workers: a process .* ended unexpectedly.*; use fewer workers$"):
        list(epochs)
    assert time.monotonic() - began < 30


def test_64_megabytes_of_shared_memory_suffice(tiny_data):
    """Docker's default. PyTorch's own hand-over waited for ever."""
    mount = 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /dev/shm"], capture_output=True).returncode:
        pytest.skip("only root can mount a /dev/shm of 64 MB")
    root = Path(__file__).resolve().parents[2]
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", STEPS, str(tiny_data)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [line.split()[0] for line in done.stdout.splitlines()]
    assert (kinds.count("train"), kinds.count("test")) == (4, 3)
    assert sum(int(line.split()[1]) for line in done.stdout.splitlines()[:4]) > 64 * 2**20
