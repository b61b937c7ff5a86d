"""Files and resources that the pipeline computes from its settings."""

from pathlib import Path

import pytest

from workbench.pipeline.targets import read_pipeline
from workbench.runs.folders import drawn_data
from workbench.support import devices
from workbench.support.errors import WorkbenchError


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


def test_the_weights_of_the_checkout_start_tables_1_to_3_and_the_controls(pipeline):
    plan = pipeline("mini", data_root=None)
    for row in plan.rows:
        if not row.id.startswith(("t1", "t2", "t3", "control")):
            continue
        (file,) = plan.pretrained(row.run)
        assert Path(file).parts[-3:-1] == ("experiments", "pretrained")
        assert Path(file).is_file()


def test_a_backbone_without_a_file_in_the_checkout_is_pretrained(experiments, pipeline):
    (experiments / "scales" / "own.yaml").write_text(
        "extends: mini\ntitle: own\nbackbones: {resnet50: {pretrained: {epochs: 1}}, resnet101: {pretrained: false}}\n"
    )
    plan = pipeline("own", data_root=None)
    runs = {row.id: row.run for row in plan.rows}
    (file,) = plan.pretrained(runs["t3_full_vfl"])
    assert plan.pretrained(runs["t3_fcos_atss"]) == [file]
    assert Path(file).parent == Path("results/weights")
    row = plan.pretraining_row(Path(file).stem)
    assert plan.experiments[runs[row]].backbone.name == "resnet50"
    assert plan.pretrained(runs["t4_vfnet_r101_480_960"]) == []


def test_each_seed_trains_and_is_evaluated_on_its_world(pipeline):
    plan = pipeline("mini", data_root=None, seeds=2, first_seed=100_999)
    row = plan.rows[0]
    assert plan.trainings[row.run] == ["100999", "101000"]
    folders = [{str(Path(file).parents[1]) for file in plan.drawn_for(seed)} for seed in plan.trainings[row.run]]
    assert folders == [{str(drawn_data(Path("results"), row.experiment.data, world))} for world in (999, 1000)]
    metrics = [file for file in plan.evaluations([row]) if file.endswith("metrics.json")]
    for seed, file in zip(plan.trainings[row.run], metrics, strict=True):
        evaluation = Path(file).parent.name
        assert evaluation.endswith(row.split(seed).short)
        assert plan.evaluated_row(row.run, seed, evaluation) == row.id
    rankings = [*plan.rankings([row]), *plan.correlations([row])]
    assert len({Path(file).parent for file in rankings}) == 2
    assert len(set(rankings)) == 4


def test_a_data_set_on_disk_is_not_drawn(pipeline):
    plan = pipeline("bccd", seeds=2)
    assert plan.drawn == plan.drawn_for("0") == []


def test_a_file_in_the_place_of_a_world_is_refused(pipeline):
    row = pipeline("mini", data_root=None).rows[0]
    world = drawn_data(Path("results"), row.experiment.data, 1)
    world.parent.mkdir(parents=True)
    world.touch()
    assert pipeline("mini", data_root=None)
    with pytest.raises(WorkbenchError, match=f"^{world}: is a file, but a folder is needed"):
        pipeline("mini", data_root=None, seeds=2)


def test_the_number_of_gpus_is_no_part_of_a_run(pipeline):
    runs = [
        [row.run for row in pipeline("coco", **settings).rows] for settings in ({}, {"gpus": 8}, {"micro_batch": 1})
    ]
    assert runs[0] == runs[1] == runs[2]
