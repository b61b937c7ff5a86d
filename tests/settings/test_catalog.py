"""Settings of rows: what belongs to a run, scales, and mistakes, each one line with its place."""

import pytest

from tests.settings.mistakes import change, error_of
from workbench.settings.catalog import Rehearsal, load_row, load_table
from workbench.settings.detectors import VFNet
from workbench.settings.ids import pretraining_id, variant_id
from workbench.settings.postprocessing import PostProcessing
from workbench.support.errors import WorkbenchError


def test_evaluations_have_the_post_processing_of_validation_unless_they_state_another(experiments):
    """A threshold that is not stated is the published threshold of the family."""
    change(experiments / "recipes.yaml", "retinanet: #", "retinanet:\n  validation: {nms: soft, candidates: 7} #")
    change(experiments / "vfnet" / "table5.yaml", "base: retinanet\n", "base: retinanet\n    evaluation: {nms: hard}\n")
    first, second = load_table("table5")[1][:2]
    assert first.experiment.validation == second.experiment.validation == PostProcessing(nms="soft", candidates=7)
    assert (first.variant.nms, first.variant.nms_iou, first.variant.candidates) == ("hard", 0.5, 7)
    assert (second.variant.nms, second.variant.nms_iou, second.variant.candidates) == ("soft", 0.5, 7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("base: fcos_atss\n    evaluation: {c", "base: vfnet_raw\n    evaluation: {c", "experiments/vfnet/table1.yaml: rows.t1_base_noctr.evaluation: vfnet_raw has no centerness to leave out; remove it from the evaluation"),
        ("base: fcos_atss\n    compared_with: t1_base_ctr\n    evaluation: {o", "base: vfnet_raw\n    compared_with: t1_base_ctr\n    evaluation: {o", "experiments/vfnet/table1.yaml: rows.t1_gt_ctr.evaluation: vfnet_raw has no centerness to replace; remove it from the evaluation"),
        ("{oracle: {centerness: truth}}", "{centerness: false, oracle: {centerness: truth}}", "experiments/vfnet/table1.yaml: rows.t1_gt_ctr.evaluation: an oracle's centerness has no effect with centerness: false; remove one of the two"),
        ("{oracle: {centerness: truth}}", "{oracle: {}}", "experiments/vfnet/table1.yaml: rows.t1_gt_ctr.evaluation: the oracle replaces nothing; remove it"),
        ("{oracle: {centerness: truth}}", "{oracle: {centerness: true}}", "rows.t1_gt_ctr.evaluation.oracle.centerness: input should be 'truth' or 'iou' (found True)"),
        ("{oracle: {centerness: truth}}", "{oracle: {box: true}}", "rows.t1_gt_ctr.evaluation.oracle.box: unknown key; did you mean 'boxes'?"),
    ],
)  # fmt: skip
def test_an_impossible_evaluation_is_refused_with_its_place(experiments, old, new, message):
    change(experiments / "vfnet" / "table1.yaml", old, new)
    assert message in error_of(load_table, "table1")


def test_a_row_without_a_base_cannot_state_settings(experiments):
    change(experiments / "vfnet" / "table4.yaml", "    fps: 5.3\n", "    fps: 5.3\n    schedule: 1x\n")
    with pytest.raises(WorkbenchError, match=r"table4.yaml: rows.t4_efficientdet_d6_b6: schedule without a base"):
        load_table("table4")


def test_the_evaluation_is_not_part_of_the_run(experiments):
    before = load_row("table3", "t3_full_vfl")
    change(experiments / "recipes.yaml", "  schedule: 1x\n", "  schedule: 1x\n  evaluation: {nms_iou: 0.5}\n")
    after = load_row("table3", "t3_full_vfl")
    assert after.run == before.run
    assert variant_id(after.variant) != variant_id(before.variant)


def test_a_changed_loss_renames_one_run_and_a_comment_renames_none(experiments):
    before = [row.run for row in load_table("table3")[1]]
    change(experiments / "vfnet" / "table3.yaml", "rows:", "# a comment\n\nrows:")
    assert [row.run for row in load_table("table3")[1]] == before
    change(experiments / "vfnet" / "table3.yaml", "loss: {name: focal}", "loss: {name: focal, gamma: 1.5}")
    after = [row.run for row in load_table("table3")[1]]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, True, True, True]


def test_a_rehearsal_is_short_and_starts_from_random_weights():
    _, rows = load_table("table3", "coco", rehearsal=Rehearsal(steps=2, images=4))
    experiment = rows[0].experiment
    assert (experiment.training.limit_steps, experiment.training.batch) == (2, 1)
    assert not experiment.backbone.pretrained
    assert rows[0].variant.limit_images == 4
    assert rows[0].run != load_table("table3", "coco")[1][0].run


def test_a_scale_that_extends_another_states_only_differences(experiments):
    (experiments / "scales" / "farm.yaml").write_text(
        "extends: bccd\ntitle: farm\ndata: {kind: coco, classes: 7}\nimage: {long: 320, short: 256}\n"
    )
    farm, bccd = (load_row("table3", "t3_full_vfl", scale).experiment for scale in ("farm", "bccd"))
    assert (farm.data.kind, farm.data.classes, farm.image.long) == ("coco", 7, 320)
    assert farm.training == bccd.training
    assert farm.backbone == bccd.backbone


def test_drawn_objects_pretrain_a_backbone_for_a_data_set_on_disk(experiments):
    """A user's scale may extend mini. Its backbones start from the same weights as those of mini."""
    (experiments / "scales" / "farm.yaml").write_text("extends: mini\ntitle: farm\ndata: {kind: coco, classes: 7}\n")
    farm, mini = (load_row("table3", "t3_full_vfl", scale).experiment for scale in ("farm", "mini"))
    assert pretraining_id(farm) == pretraining_id(mini)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("vfnet/table3.yaml", "refine: false", "refin: false", "table3.yaml: rows.t3_star_vfl.detector.refin: unknown key; did you mean 'refine'?"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_rwa", "rows.t3_raw_fl.base: unknown recipe 'vfnet_rwa'; did you mean 'vfnet_raw'?"),
        ("vfnet/table3.yaml", "labels:", "lables:", "table3.yaml: rows.t3_raw_fl.lables: unknown key; did you mean 'labels'?"),
        ("vfnet/table3.yaml", "{name: focal}", "{name: vocal}", "rows.t3_raw_fl.loss: unknown name 'vocal'; did you mean 'focal'?"),
        ("vfnet/table3.yaml", "{name: focal}", "{name: focal, gama: 2}", "loss.gama: unknown key; did you mean 'gamma'? (known: name, alpha, gamma)"),
        ("vfnet/table3.yaml", "{name: focal}", "{name: focal, gamma: often}", "loss.gamma: input should be a valid number"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_raw\n    base: vfnet", "line 10: not valid YAML: duplicate key 'base'"),
        ("vfnet/table3.yaml", "rows:", "rows: [", "table3.yaml"),
        ("vfnet/table3.yaml", "compared_with: t3_raw_fl", "compared_with: t3_raw", "table3.yaml: compared_with: unknown row 't3_raw'; did you mean"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_raw\n    compared_with: t3_full", "rows.t3_raw_fl.compared_with: unknown row 't3_full'; did you mean 't3_full_vfl'?"),
        ("recipes.yaml", "warmup_ratio", "warmup_ration", "recipes.yaml: vfnet.training.warmup_ration: unknown key; did you mean 'warmup_ratio'"),
        ("recipes.yaml", "schedule: 1x", "schedule: fast", "recipes.yaml: vfnet.schedule: unknown schedule 'fast'; known: 1x"),
        ("recipes.yaml", "name: resnet50", "name: resnet500", "unknown backbone 'resnet500'; did you mean 'resnet50'?"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_raw\n    validation: {mns: soft}", "rows.t3_raw_fl.validation.mns: unknown key; did you mean 'nms'?"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_raw\n    training: {precision: fp16}", "rows.t3_raw_fl.training.precision: input should be 'fp32', 'tf32' or 'bf16' (found 'fp16')"),
        ("scales/mini.yaml", "optimiser: adamw", "optimiser: adam", "scales/mini.yaml: training.optimiser: input should be 'sgd' or 'adamw' (found 'adam')"),
        ("scales/mini.yaml", "optimiser:", "optimizer:", "training.optimizer: unknown key; did you mean 'optimiser'?"),
        ("scales/mini.yaml", "image:", "imgae:", "scales/mini.yaml: imgae: unknown key; did you mean 'image'?"),
        ("scales/mini.yaml", "title:", "# title:", "scales/mini.yaml: title: missing; add it"),
        ("scales/mini.yaml", "kind: embedded", "kind: embeded", "scales/mini.yaml: data: unknown kind 'embeded'"),
        ("scales/mini.yaml", "norm_groups: 6", "norm_groups: 7", "are not a multiple of norm_groups"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_place(experiments, file, old, new, message):
    change(experiments / file, old, new)
    assert message in error_of(load_table, "table3", "mini")


def test_impossible_combinations_are_refused():
    with pytest.raises(ValueError, match="refine needs star"):
        VFNet(star=False, refine=True)
    with pytest.raises(ValueError, match="centerness belongs"):
        VFNet(centerness=True)
