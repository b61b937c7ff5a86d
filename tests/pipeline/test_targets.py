"""Files and resources that the pipeline computes from its settings."""

import json
import os
import re
from pathlib import Path

import pytest

from workbench.pipeline import resources
from workbench.runs.results import drawn_data
from workbench.support.errors import WorkbenchError


@pytest.mark.parametrize(
    ("gpus", "vfnet", "retinanet"), [(None, 0, 0), (1, 1, 1), (2, 2, 2), (3, 2, 2), (6, 4, 4), (8, 8, 4), (16, 8, 4)]
)
def test_a_training_asks_for_as_many_gpus_as_divide_its_canvases(pipeline, gpus, vfnet, retinanet):
    plan = pipeline("coco", **({} if gpus is None else {"gpus": gpus}))
    runs = {row.id: row.run for row in plan.rows}
    assert plan.resources.devices(runs["t5_vfnet_vfl"]) == plan.resources.devices(runs["t5_atss_fl"]) == vfnet
    for family in ("retinanet", "foveabox", "reppoints"):
        assert plan.resources.devices(runs[f"t5_{family}_vfl"]) == retinanet


def test_a_batch_on_one_canvas_takes_one_gpu(pipeline):
    plan = pipeline("bccd", gpus=8)
    assert {plan.resources.devices(row.run) for row in plan.rows} == {1}
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
    (experiments / "scales" / "farm.yaml").write_text(
        "extends: mini\ntitle: farm\nbackbones: {resnet50: {pretrained: {epochs: 1}}, resnet101: {pretrained: false}}\n"
    )
    plan = pipeline("farm", data_root=None)
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
        assert plan.evaluated_row(row.run, seed, evaluation) == row
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


@pytest.fixture
def atss(pipeline):
    """Function that returns the pipeline with published weights, the run of a row with two publishers, its import."""

    def read():
        plan = pipeline("coco", weights="released")
        run = next(row.run for row in plan.rows if row.id == "t5_atss_fl")
        return plan, run, plan.folder.run(run).training("released")

    return read


def put(name):
    file = Path("results/weights") / f"{name}.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def finish_import(training, run, **facts):
    training.folder.mkdir(parents=True, exist_ok=True)
    training.weights.touch()
    training.facts.write_text(json.dumps({"run": run, "seed": "released", **facts}))


def test_the_authors_file_is_taken_where_it_is_in_place_else_mmdetections(atss):
    plan, run, _ = atss()
    assert plan.trainings[run] == ["released"]
    assert plan.published[run] == "atss_r50_1x"  # has an address
    put("atss_r50_1x")
    assert atss()[0].published[run] == "atss_r50_1x"
    file = put("atss_fl_r50_1x")
    assert atss()[0].published[run] == "atss_fl_r50_1x"
    file.unlink()
    assert atss()[0].published[run] == "atss_r50_1x"


def test_weights_of_one_publisher_are_asked_for_without_an_address(atss):
    plan, _, _ = atss()
    run = next(row.run for row in plan.rows if row.id == "t5_atss_vfl")
    assert plan.published[run] == "atss_vfl_r50_1x"


@pytest.mark.parametrize(
    ("imported", "in_place", "taken", "again"),
    [
        ("atss_r50_1x", [], "atss_r50_1x", False),
        ("atss_r50_1x", ["atss_r50_1x", "atss_fl_r50_1x"], "atss_fl_r50_1x", True),
        ("atss_fl_r50_1x", ["atss_r50_1x"], "atss_fl_r50_1x", False),
        (None, ["atss_fl_r50_1x"], "atss_fl_r50_1x", False),
    ],
)
def test_a_finished_import_is_made_again_only_from_a_preferred_publisher(atss, imported, in_place, taken, again):
    """The file of a finished import may be deleted, and a file of an unknown publisher is the user's choice."""
    _, run, training = atss()
    finish_import(training, run, **({"weights": imported} if imported else {}))
    for name in in_place:
        put(name)
    plan, _, _ = atss()
    assert plan.published[run] == taken
    assert (re.match(plan.unfinished, f"{run}/released/") is not None) == again


def test_a_job_has_its_gpu_s_share_of_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(resources, "gpu_indices", lambda: [0, 1])
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    assert resources.Resources(None, {}).threads == 6
