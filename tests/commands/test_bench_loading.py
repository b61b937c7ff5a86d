"""Table of the loading stages: the worker's stages add up, and the batches are the loader's."""

import re

import pytest
import torch

from tests.data.test_batch import former
from workbench.commands.bench import loading
from workbench.data.batch import Batch
from workbench.data.coco import read_coco
from workbench.settings.data import ImageSize
from workbench.support.errors import WorkbenchError


def test_the_table_states_all_stages_and_their_sum(tiny_data, tmp_path):
    threads = torch.get_num_threads()
    text = loading.bench_loading("coco", tiny_data, tmp_path, images=4, rounds=1)
    assert torch.get_num_threads() == threads
    assert text.startswith("Loading of 4 images at 1333x800 in batches of 8: medians of 1 rounds, on ")
    times = {stage: float(value) for stage, value in re.findall(r"^\| ([^|*]+) \| ([\d.]+) \|$", text, re.M)}
    assert list(times) == [*loading.WORKER, *loading.RECEIVER]
    per_second, total = re.search(r"\*\*worker: (\d+) images per second\*\* \| \*\*([\d.]+)\*\*", text).groups()
    assert sum(times[stage] for stage in loading.WORKER) == pytest.approx(float(total), abs=0.03)
    assert 1000 / float(total) == pytest.approx(int(per_second), rel=0.02)


def test_the_timed_batches_are_complete(tiny_data, monkeypatch):
    samples, batches = [], []
    send, to = loading.collate_for_another_process, Batch.to
    monkeypatch.setattr(
        loading, "collate_for_another_process", lambda made, blocks: samples.append(made) or send(made, blocks)
    )
    monkeypatch.setattr(Batch, "to", lambda batch, device: batches.append(to(batch, device)))
    data = read_coco(tiny_data, "train2017", training=True)
    loading.time_stages(data, ImageSize(long=64, short=48), [])
    assert {i for batch in batches for i in batch.image_ids} == {record.id for record in data.images}
    for made, batch in zip(samples, batches, strict=True):
        assert torch.equal(batch.images, former(made))


def test_a_missing_data_set_is_reported(tmp_path):
    with pytest.raises(WorkbenchError, match="scale coco needs a data set"):
        loading.bench_loading("coco", None, tmp_path, images=4)
