"""Studies of a trained run: AP with each oracle, and the ranking of boxes by their scores."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from workbench import cli
from workbench.boxes import aligned_iou
from workbench.commands.detect import write_detections
from workbench.commands.study import oracle_variants, study_oracles, study_ranking
from workbench.data import loader
from workbench.data.coco import read_coco
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set
from workbench.evaluation.ranking import spearman
from workbench.report.measured import read_ranking, read_spearman
from workbench.runs.load import load_training
from workbench.settings.catalog import load_row, load_table
from workbench.settings.digest import VAL, split_digest
from workbench.settings.ids import variant_id
from workbench.settings.variant import Oracle, Variant
from workbench.support.code_digest import EVALUATION, code_digest
from workbench.support.errors import WorkbenchError

ROWS = {"fcos_atss": ("table3", "t3_fcos_atss"), "vfnet": ("table3", "t3_full_vfl")}
ROWS |= {family: ("table5", f"t5_{family}_vfl") for family in ("atss", "foveabox", "reppoints", "retinanet")}


def workbench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
    cli.main()


def experiment_of(name):
    return load_row(*ROWS[name]).experiment


def test_the_variants_of_the_study_are_those_of_table_1():
    rows = load_table("table1")[1]
    assert oracle_variants(rows[0].experiment) == [row.variant for row in rows]


@pytest.mark.parametrize(("name", "count"), [("vfnet", 4), ("atss", 10), ("foveabox", 4), ("reppoints", 4)])
def test_each_detector_has_the_variants_that_apply(name, count):
    experiment = experiment_of(name)
    variants = oracle_variants(experiment)
    assert len({variant_id(variant) for variant in variants}) == len(variants) == count
    assert all(variant.nms_iou == experiment.detector.nms_iou for variant in variants)
    assert variants[:: count - 1] == [
        Variant(image=experiment.image, nms_iou=variants[0].nms_iou, centerness=count == 4),
        Variant(image=experiment.image, nms_iou=variants[0].nms_iou, oracle=Oracle(score="iou")),
    ]


def test_ap_with_oracles_equals_the_ap_of_an_evaluation(untrained_run, tiny_data, monkeypatch, capsys):
    training = untrained_run(experiment_of("fcos_atss"))
    workbench(monkeypatch, "oracle", "--run", training.folder, "--data-root", tiny_data)
    output = capsys.readouterr().out
    assert output.count("\n| `") == 10
    (oracles,) = training.folder.glob("*/oracles.csv")
    assert oracles.with_suffix(".md").read_text() == output.removesuffix("\n")
    with oracles.open() as file:
        table = list(csv.DictReader(file))
    names = ("w/ctr", "gt_ctr", "gt_ctr_iou", "gt_bbox", "gt_cls", "gt_cls_iou")
    stated = [row.labels for row in load_table("table1")[1]]
    assert [{name: line[name] == "True" for name in names} for line in table] == stated
    data, detector = read_coco(tiny_data, "val2017", training=False), load_training(training).detector
    for line, variant in zip(table, oracle_variants(experiment_of("fcos_atss")), strict=True):
        detections = detect_data_set(detector, data, variant, "cpu")
        metrics = evaluate_detections(tiny_data / "annotations/instances_val2017.json", detections)
        assert float(line["AP"]) == round(100 * metrics["AP"], 2)
        assert line["code_digest"] == "12345678"
    plain = ["plain_without_centerness", "plain"]
    assert [line["compared_with"] for line in table] == ["-", "-", "plain", "plain", *plain * 3]
    assert float(table[8]["difference_low"]) < float(table[8]["difference"]) == float(table[8]["AP"]) > 0
    assert not list(training.folder.rglob(".*"))


@pytest.mark.parametrize("name", ["foveabox", "reppoints", "retinanet"])
def test_detectors_without_centerness_have_four_oracle_rows(name, untrained_run, tiny_data):
    experiment = experiment_of(name)
    text = study_oracles(untrained_run(experiment).evaluation("x"), tiny_data)
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == [
        "plain",
        "oracle_boxes_truth",
        "oracle_score_one",
        "oracle_score_iou",
    ]
    assert "ctr" not in text


@pytest.mark.parametrize("name", ["fcos_atss", "reppoints"])
def test_the_ranking_equals_a_loop_over_images_and_locations(name, untrained_run, tiny_data, monkeypatch, capsys):
    training = untrained_run(experiment_of(name))
    workbench(monkeypatch, "ranking", "--run", training.folder, "--data-root", tiny_data)
    (file,) = training.folder.glob("*/ranking.csv")
    locations = read_ranking(training.evaluation(file.parent.name))
    assert f"{len(locations)} locations  Spearman " in capsys.readouterr().out
    for suffix, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        assert file.with_suffix(suffix).read_bytes().startswith(start)

    image = experiment_of(name).image
    detector, expected, size = load_training(training).detector, [], (image.long, image.short)
    for batch in loader.evaluation_batches(read_coco(tiny_data, "val2017", training=False), size=size):
        batch = batch.to("cpu")
        with torch.no_grad():
            predictions = detector.predict(batch.images)
        for location, number in enumerate(detector.assign(predictions, batch).index[0].tolist()):
            if number >= 0:
                score = predictions.logits[0, location, batch.labels[0, number]].double().sigmoid()
                if predictions.quality is not None:
                    score = score * predictions.quality[0, location].double().sigmoid()
                box = predictions.boxes[0, location].double()
                expected.append((aligned_iou(box, batch.boxes[0, number].double()).item(), score.item()))
    assert len(expected) > 20
    np.testing.assert_allclose(locations, expected, atol=1.1e-6)
    rho = read_spearman(training.evaluation(file.parent.name))
    assert rho == pytest.approx(spearmanr(*np.transpose(expected)).statistic, abs=1e-4)


def test_a_ranking_keeps_evenly_spaced_locations(untrained_run, tiny_data, monkeypatch):
    monkeypatch.setattr("workbench.report.figures.ranking.draw_rankings", lambda *_: None)
    evaluation = untrained_run(experiment_of("fcos_atss")).evaluation("x")
    complete = study_ranking(evaluation, tiny_data)
    monkeypatch.setattr("workbench.commands.study.POINTS", 11)
    thinned = study_ranking(evaluation, tiny_data)
    assert len(thinned) == 11
    assert thinned.index.tolist() == np.linspace(0, len(complete) - 1, 11).astype(int).tolist()
    fewer = study_ranking(evaluation, tiny_data, limit_images=2)
    assert fewer.index.max() < len(complete) - 1


def test_the_correlation_is_of_all_locations_before_they_are_rounded(untrained_run, tiny_data, monkeypatch):
    """An untrained detector has scores near 0.01, which differ in the sixth decimal and are equal in the third."""
    monkeypatch.setattr("workbench.report.figures.ranking.draw_rankings", lambda *_: None)
    evaluation = untrained_run(experiment_of("fcos_atss")).evaluation("x")
    study_ranking(evaluation, tiny_data)
    complete = json.loads(evaluation.ranking_facts.read_text())
    assert complete["of"] == evaluation.identity()
    assert complete["code_digest"] == code_digest(evaluation.training.run.read_experiment(), EVALUATION)
    assert complete["locations"] == len(read_ranking(evaluation)) > 20
    monkeypatch.setattr("workbench.commands.study.POINTS", 11)
    monkeypatch.setattr("pandas.DataFrame.round", lambda frame, _: frame * 0)
    assert len(study_ranking(evaluation, tiny_data)) == 11
    assert json.loads(evaluation.ranking_facts.read_text()) == complete


def test_equal_scores_have_no_correlation():
    assert spearman(np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.2, 0.2])) is None
    assert spearman(np.array([]), np.array([])) is None
    assert spearman(np.array([0.1, 0.5, 0.9]), np.array([1e-9, 3e-9, 2e-9])) == pytest.approx(0.5)


def test_a_ranking_of_some_images_replaces_no_complete_ranking(untrained_run, tiny_data, monkeypatch):
    training = untrained_run(experiment_of("fcos_atss"))
    for command, name in (("ranking", "ranking.csv"), ("oracle", "oracles.csv")):
        common = (command, training.folder, "--data-root", tiny_data)
        workbench(monkeypatch, *common)
        (complete,) = training.folder.glob(f"*/{name}")
        content = complete.read_bytes()
        workbench(monkeypatch, *common, "--limit-images", "2")
        assert complete.read_bytes() == content
        assert len(list(training.folder.glob(f"*/{name}"))) == 2


def test_mistakes_are_one_line(untrained_run, tiny_data, tmp_path):
    training = untrained_run(experiment_of("vfnet"))
    with pytest.raises(WorkbenchError, match="train this run with seed 3 first"):
        study_oracles(training.run.training(3).evaluation("x"), tiny_data)
    with pytest.raises(WorkbenchError, match="no such data folder"):
        study_ranking(training.evaluation("x"), tmp_path / "nowhere")
    variant = Variant(image=experiment_of("vfnet").image, oracle=Oracle(centerness="iou"))
    with pytest.raises(WorkbenchError, match=r"vfnet-varifocal-\S+ seed0: vfnet has no centerness to replace"):
        write_detections(training.evaluation("x"), variant, split_digest(tiny_data, VAL), tiny_data, 0)
    assert not list(training.folder.rglob("detections.json"))
