"""Files and resources that the pipeline computes from its settings."""

import pytest

from workbench.pipeline.targets import read_pipeline
from workbench.support import devices


@pytest.fixture
def pipeline(tiny_data, tmp_path, monkeypatch):
    """Function that reads the pipeline of a scale with settings, as in an empty folder on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "gpu_indices", list)
    return lambda scale, **settings: read_pipeline({"scale": scale, "data_root": str(tiny_data), **settings})


@pytest.mark.parametrize(
    ("gpus", "vfnet", "retinanet"), [(None, 0, 0), (1, 1, 1), (2, 2, 2), (3, 2, 2), (6, 4, 4), (8, 8, 4), (16, 8, 4)]
)
def test_a_training_asks_for_as_many_gpus_as_divide_its_canvases(pipeline, gpus, vfnet, retinanet):
    plan = pipeline("coco", **({} if gpus is None else {"gpus": gpus}))
    runs = {row.id: row.run for row in plan.rows}
    assert plan.devices(runs["t5_vfnet_vfl"]) == plan.devices(runs["t5_atss_fl"]) == vfnet
    for family in ("retinanet", "foveabox", "reppoints"):
        assert plan.devices(runs[f"t5_{family}_vfl"]) == retinanet


def test_a_batch_on_one_canvas_takes_one_gpu(pipeline):
    plan = pipeline("bccd", gpus=8)
    assert {plan.devices(row.run) for row in plan.rows} == {1}
    assert {row.experiment.training.canvas for row in plan.rows} == {"batch"}


def test_the_number_of_gpus_is_no_part_of_a_run(pipeline):
    runs = [
        [row.run for row in pipeline("coco", **settings).rows] for settings in ({}, {"gpus": 8}, {"micro_batch": 1})
    ]
    assert runs[0] == runs[1] == runs[2]
