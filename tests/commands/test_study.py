"""Questions to any trained run, by hand: each oracle's gain, and how the score ranks boxes."""

import csv
import sys

import numpy as np
import pandas
import pytest
import torch

from workbench import cli
from workbench.boxes import aligned_iou
from workbench.commands.detect import detect_run
from workbench.commands.study import oracle_variants, study_oracles, study_ranking
from workbench.data import loader
from workbench.data.coco import read_coco
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set
from workbench.runs.load import load_run
from workbench.settings.catalog import load_row, load_table
from workbench.settings.ids import variant_id
from workbench.settings.variant import Oracle, Variant
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

ROWS = {"fcos_atss": ("table3", "t3_fcos_atss"), "vfnet": ("table3", "t3_full_vfl")}
ROWS |= {family: ("table5", f"t5_{family}_vfl") for family in ("atss", "foveabox", "reppoints", "retinanet")}


def workbench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
    cli.main()


def experiment_of(name):
    return load_row(*ROWS[name]).experiment


def test_the_studys_evaluations_are_those_of_table_1():
    rows = load_table("table1")[1]
    assert oracle_variants(rows[0].experiment) == [row.variant for row in rows]


@pytest.mark.parametrize(("name", "count"), [("vfnet", 4), ("atss", 10), ("foveabox", 4), ("reppoints", 4)])
def test_evaluations_that_apply(name, count):
    experiment = experiment_of(name)
    variants = oracle_variants(experiment)
    assert len({variant_id(variant) for variant in variants}) == len(variants) == count
    assert all(variant.nms_iou == experiment.detector.nms_iou for variant in variants)
    assert variants[:: count - 1] == [
        Variant(image=experiment.image, nms_iou=variants[0].nms_iou, centerness=count == 4),
        Variant(image=experiment.image, nms_iou=variants[0].nms_iou, oracle=Oracle(score="iou")),
    ]


def test_oracles_of_a_run(untrained_run, tiny_data, monkeypatch, capsys):
    run = untrained_run(experiment_of("fcos_atss"))
    workbench(monkeypatch, "oracle", "--run", run, "--data", tiny_data)
    said = capsys.readouterr().out
    assert said.count("\n| `") == 10
    assert (run / "seed0" / "oracles.md").read_text() == said.removesuffix("\n")
    with (run / "seed0" / "oracles.csv").open() as file:
        table = list(csv.DictReader(file))
    names = ("w/ctr", "gt_ctr", "gt_ctr_iou", "gt_bbox", "gt_cls", "gt_cls_iou")
    stated = [row.labels for row in load_table("table1")[1]]
    assert [{name: line[name] == "True" for name in names} for line in table] == stated
    data, detector = read_coco(tiny_data, "val2017", training=False), load_run(run).detector
    for line, variant in zip(table, oracle_variants(experiment_of("fcos_atss")), strict=True):
        found = detect_data_set(detector, data, variant, "cpu")
        metrics = evaluate_detections(tiny_data / "annotations/instances_val2017.json", found)
        assert float(line["AP"]) == round(100 * metrics["AP"], 2)
        assert line["code_digest"] == "12345678"
    plain = ["plain_without_centerness", "plain"]
    assert [line["compared_with"] for line in table] == ["-", "-", "plain", "plain", *plain * 3]
    assert float(table[8]["difference_low"]) < float(table[8]["difference"]) == float(table[8]["AP"]) > 0
    assert not list(run.rglob(".*"))


@pytest.mark.parametrize("name", ["foveabox", "reppoints", "retinanet"])
def test_oracles_of_detectors_without_centerness(name, untrained_run, tiny_data):
    experiment = experiment_of(name)
    run = untrained_run(experiment)
    said = study_oracles(run, tiny_data, 0)
    lines = [line for line in said.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == [
        "plain",
        "oracle_boxes_truth",
        "oracle_score_one",
        "oracle_score_iou",
    ]
    assert "ctr" not in said


@pytest.mark.parametrize("name", ["fcos_atss", "reppoints"])
def test_ranking_of_a_run(name, untrained_run, tiny_data, monkeypatch, capsys):
    """The file's points are those of a loop over images and cells."""
    run = untrained_run(experiment_of(name))
    workbench(monkeypatch, "ranking", "--run", run, "--data", tiny_data)
    cells = pandas.read_csv(run / "seed0" / "ranking.csv")
    assert f"{len(cells)} cells  Spearman " in capsys.readouterr().out
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        assert (run / "seed0" / f"ranking{suffix}").read_bytes().startswith(start)

    detector, expected = load_run(run).detector, []
    for batch in loader.evaluation_batches(read_coco(tiny_data, "val2017", training=False), size=(128, 96)):
        with torch.no_grad():
            predictions = detector.predict(batch.images)
        for cell, number in enumerate(detector.assign(predictions, batch).index[0].tolist()):
            if number >= 0:
                score = predictions.logits[0, cell, batch.labels[0, number]].double().sigmoid()
                if predictions.quality is not None:
                    score = score * predictions.quality[0, cell].double().sigmoid()
                box = predictions.boxes[0, cell].double()
                expected.append((aligned_iou(box, batch.boxes[0, number].double()).item(), score.item()))
    assert len(expected) > 20
    np.testing.assert_allclose(cells, expected, atol=1.1e-6)


def test_a_ranking_keeps_so_many_cells_evenly_spaced(untrained_run, tiny_data, monkeypatch):
    monkeypatch.setattr("workbench.report.figures.ranking.draw_rankings", lambda *_: None)
    run = untrained_run(experiment_of("fcos_atss"))
    every = study_ranking(run, tiny_data, 0)
    monkeypatch.setattr("workbench.commands.study.POINTS", 11)
    some = study_ranking(run, tiny_data, 0)
    assert len(some) == 11
    assert some.index.tolist() == np.linspace(0, len(every) - 1, 11).astype(int).tolist()
    fewer = study_ranking(run, tiny_data, 0, limit_images=2)
    assert fewer.index.max() < len(every) - 1


def test_mistakes_are_one_line(untrained_run, tiny_data, tmp_path):
    run = untrained_run(experiment_of("vfnet"))
    with pytest.raises(WorkbenchError, match="train this run with seed 3 first"):
        study_oracles(run, tiny_data, 3)
    with pytest.raises(WorkbenchError, match="no such data folder"):
        study_ranking(run, tmp_path / "nowhere", 0)
    variant = Variant(image=experiment_of("vfnet").image, oracle=Oracle(centerness="iou"))
    write_json_atomically(tmp_path / "wrong.json", variant.model_dump(mode="json"))
    with pytest.raises(WorkbenchError, match=r"wrong.json: vfnet has no centerness to replace"):
        detect_run(run, tmp_path / "wrong.json", tiny_data, 0, 0)
    assert not list(run.rglob("detections.json"))
