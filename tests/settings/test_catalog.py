"""Rows resolve to the paper's recipe, equal experiments are one run, and a mistake is one line with its place."""

import json
import os
from pathlib import Path

import pytest

from workbench.settings import files
from workbench.settings.catalog import Rehearsal, load_row, load_table
from workbench.settings.detectors import VFNet
from workbench.settings.files import table_names
from workbench.settings.ids import pretraining_id, run_id, variant_id
from workbench.settings.postprocessing import PostProcessing
from workbench.settings.variant import Oracle, published_variant
from workbench.support.errors import WorkbenchError

ROOT = Path(__file__).resolve().parents[2]
TABLES = {
    "controls": 3,
    "table1": 1,
    "table2": 6,
    "table3": 5,
    "table4": 21,
    "table5": 15,
    "gfl_table1c": 5,
    "gfl_table2b": 4,
    "gfl_table2c": 4,
    "gfl_table3": 4,
}
"""Numbers of runs per table."""


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    files.forget()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("scale", ["mini", "coco", "bccd"])
def test_every_row_is_another_evaluation_and_tables_have_their_numbers_of_runs(table, scale):
    _, rows = load_table(table, scale)
    assert len({(row.run, row.variant_id) for row in rows}) == len(rows)
    assert len({row.run for row in rows}) == TABLES[table]


def test_tables_share_the_runs_that_the_papers_share():
    rows: dict[str, list[str]] = {}
    for table in TABLES:
        for row in load_table(table, "coco")[1]:
            rows.setdefault(row.run, []).append(row.id)
    assert sorted(ids for ids in rows.values() if len(ids) > 1) == [
        ["gfl1c_beta2", "gfl3_qfl"],
        ["gfl2b_n16", "gfl2c_delta1", "gfl3_qfl_dfl"],
        [*(row.id for row in load_table("table1", "coco")[1]), "t3_fcos_atss"],
        ["t2_g2p0_a0p75_q", "t3_full_vfl", "t5_vfnet_vfl"],
        ["t4_vfnetx_800", "t4_vfnetx_1200"],
    ]


@pytest.fixture
def paper():
    shared = Path(os.environ.get("WORKBENCH_SHARED", ROOT.parent / "shared")) / "reference" / "paper_tables.json"
    if not shared.is_file():
        pytest.skip(f"{shared}: no such file; set WORKBENCH_SHARED to the folder that contains reference/")
    return json.loads(shared.read_text())


def test_published_metrics_are_those_of_the_paper(paper):
    for table in set(TABLES) - {"table4", "controls"}:
        ours = {row.id: row.published for row in load_table(table, "mini")[1]}
        assert ours == {row["id"]: row["metrics"] for row in paper[table]["rows"]}


@pytest.mark.parametrize("scale", ["mini", "coco"])
def test_table_1_evaluates_one_training_in_ten_ways(scale):
    """Check marks agree with the variant, and the plain row has the folders of Table 3's last row."""
    _, rows = load_table("table1", scale)
    plain = load_row("table3", "t3_fcos_atss", scale)
    assert {row.run for row in rows} == {plain.run}
    assert [row.variant_id == plain.variant_id for row in rows] == [i == 1 for i in range(10)]
    for row in rows:
        oracle = row.variant.oracle or Oracle()
        assert row.labels == {
            "w/ctr": row.variant.centerness,
            "gt_ctr": oracle.centerness == "truth",
            "gt_ctr_iou": oracle.centerness == "iou",
            "gt_bbox": oracle.boxes,
            "gt_cls": oracle.score == "one",
            "gt_cls_iou": oracle.score == "iou",
        }
    columns = {name: [i for i, row in enumerate(rows, 1) if row.labels[name]] for name in rows[0].labels}
    assert columns == {
        "w/ctr": [2, 3, 4, 6, 8, 10],
        "gt_ctr": [3],
        "gt_ctr_iou": [4],
        "gt_bbox": [5, 6],
        "gt_cls": [7, 8],
        "gt_cls_iou": [9, 10],
    }


def test_vfnet_x_is_validated_with_its_own_post_processing():
    """Validation chooses the weights from which the averaging starts, so its post-processing is part of the run's id."""
    row = load_row("table4", "t4_vfnetx_800", "coco")
    validation = published_variant(row.experiment)
    assert (validation.nms, validation.nms_iou, str(validation.image)) == ("soft", 0.65, "1333x800")
    assert row.variant == validation
    hard = row.experiment.model_copy(update={"validation": PostProcessing()})
    assert published_variant(hard).nms == "hard"
    assert run_id(hard) != row.run
    stated = [r.id for t in table_names() for r in load_table(t)[1] if r.experiment.validation != PostProcessing()]
    assert stated == ["t4_vfnetx_800", "t4_vfnetx_1200"]


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
    with pytest.raises(WorkbenchError) as error:
        load_table("table1")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_published_metrics_of_table_4_are_those_of_the_paper(paper):
    """A row of the paper with two trainings is two rows here; all 43 are present, in the paper's order."""
    wanted = {}
    for row in paper["table4"]["rows"]:
        ranges = row["metrics"] if "metrics_keyed_by" in row else {"": row["metrics"]}
        for short, metrics in ranges.items():
            name = "_".join([row["id"], *short.split(":")]) if short else row["id"]
            wanted[name] = (metrics, row["fps"], row["labels"]["method"], row["labels"]["backbone"])
    assert len(paper["table4"]["rows"]) == 43
    spec, rows = load_table("table4", "mini")
    stated = {
        name: (row.published, row.fps, row.labels["method"], row.labels["backbone"]) for name, row in spec.rows.items()
    }
    assert list(stated.items()) == list(wanted.items())
    assert spec.split == "test-dev"
    kinds = {row["id"]: row["kind"] for row in paper["table4"]["rows"]}
    assert {row.id for row in rows} == {
        n for n in wanted if not any(n == i and k == "literature" for i, k in kinds.items())
    }


TIMM = {
    "R-50": "resnet50",
    "R-101": "resnet101",
    "X-101-32x4d": "resnext101_32x4d",
    "X-101-64x4d": "resnext101_64x4d",
    "R2-101": "res2net101d",
}


@pytest.mark.parametrize("scale", ["mini", "coco"])
def test_table_4_trains_each_backbone_in_two_ranges_with_and_without_dcn(scale):
    _, rows = load_table("table4", scale)
    seen = set()
    for row in rows[:-2]:
        network, training, short = row.experiment.backbone, row.experiment.training, row.id[-7:]
        label = row.labels["backbone"].removesuffix("-DCN")
        assert network.name == TIMM[label]
        assert network.dcn == row.labels["backbone"].endswith("-DCN") == ("_dcn_" in row.id)
        assert row.labels["short side in training"] == short.replace("_", "-")
        if scale == "coco":
            assert training.image_range.long == (1333, 1333)
            assert training.image_range.short == tuple(map(int, short.split("_")))
            assert (training.epochs, training.decay_epochs) == (24, (16, 22))
        seen.add((network.name, network.dcn, training.image_range))
    assert len(seen) == 20


def test_vfnet_x_has_exactly_the_recipe_of_the_paper():
    _, rows = load_table("table4", "coco")
    small, large = rows[-2:]
    assert (str(small.variant.image), str(large.variant.image)) == ("1333x800", "1800x1200")
    for row in (small, large):
        assert (row.variant.nms, row.variant.nms_iou, row.variant.max_detections) == ("soft", 0.65, 100)
    chosen = small.experiment
    assert large.experiment == chosen
    assert chosen.detector == VFNet(neck="pafpn")
    assert (chosen.backbone.name, chosen.backbone.dcn) == ("res2net101d", True)
    assert (chosen.head.channels, chosen.head.stacked_convs, chosen.head.norm_groups) == (384, 4, 32)
    training = chosen.training.model_dump(
        include={"epochs", "decay_epochs", "image_range", "crop", "cutout", "swa", "flip"}
    )
    assert training == {
        "epochs": 41,
        "decay_epochs": (36, 40),
        "flip": 0.5,
        "image_range": {"long": (750, 2100), "short": (500, 1400)},
        "crop": 0.5,
        "cutout": {"probability": 0.5, "unit": 4},
        "swa": {"cycles": 18, "high": 0.01, "low": 1e-4},
    }
    assert (chosen.training.learning_rate, chosen.training.batch, chosen.training.bias_lr_factor) == (0.01, 16, 2)


BASES = {"table2": 1, "table3": 1, "table4": 2, "table5": 5} | dict.fromkeys((t for t in TABLES if t[:3] == "gfl"), 1)


@pytest.mark.parametrize("name", BASES)
def test_every_row_is_compared_with_a_base_row(name):
    """Exceptions are the rows of VFNet-X in Table 4: each is compared with the row that it extends."""
    spec, rows = load_table(name)
    named = {row.id: spec.reference(row.id) for row in rows}
    bases = {id_ for id_, other in named.items() if other is None}
    assert len(bases) == BASES[name]
    chained = {"t4_vfnetx_800": "t4_vfnet_r2_101_dcn_480_960", "t4_vfnetx_1200": "t4_vfnetx_800"}
    assert all(other in bases or chained[id_] == other for id_, other in named.items() if other)
    assert all(spec.reference(id_) is None for id_, row in spec.rows.items() if not row.base)


def test_rows_are_compared_with_their_own_detector_or_range():
    spec, _ = load_table("table5")
    assert spec.reference("t5_atss_vfl") == spec.reference("t5_atss_gfl") == "t5_atss_fl"
    spec, _ = load_table("table4")
    assert spec.reference("t4_vfnet_x101_64x4d_dcn_480_960") == "t4_vfnet_r50_480_960"
    assert spec.reference("t4_faster_r_cnn_x_101") is None


def test_a_row_without_a_base_cannot_state_settings(experiments):
    change(experiments / "vfnet" / "table4.yaml", "    fps: 5.3\n", "    fps: 5.3\n    schedule: 1x\n")
    with pytest.raises(WorkbenchError, match=r"table4.yaml: rows.t4_efficientdet_d6_b6: schedule without a base"):
        load_table("table4")


def test_the_coco_scale_has_exactly_the_recipe_of_the_paper():
    row = load_row("table3", "t3_full_vfl", "coco")
    settings = row.experiment.model_dump(exclude={"data"})
    assert settings == {
        "image": {"long": 1333, "short": 800},
        "backbone": {
            "name": "resnet50",
            "layers": None,
            "channels": None,
            "stem": None,
            "pretrained": True,
            "frozen_stages": 1,
            "norm": "frozen",
            "dcn": False,
        },
        "head": {"channels": 256, "stacked_convs": 3, "norm_groups": 32, "anchor_scale": 8.0, "init_std": 0.01},
        "detector": {
            "family": "vfnet",
            "star": True,
            "star_points": "box",
            "refine": True,
            "centerness": False,
            "neck": "fpn",
        },
        "loss": {"name": "varifocal", "alpha": 0.75, "gamma": 2.0, "q_weighting": True},
        "training": {
            "epochs": 12,
            "batch": 16,
            "canvas": 2,
            "reference_batch": 16,
            "optimiser": "sgd",
            "learning_rate": 0.01,
            "weight_decay": 1e-4,
            "bias_lr_factor": 2.0,
            "bias_weight_decay": False,
            "warmup_steps": 500,
            "warmup_ratio": 0.1,
            "schedule": "step",
            "decay_epochs": (8, 11),
            "clip_gradient": None,
            "flip": 0.5,
            "image_range": None,
            "crop": 0.0,
            "cutout": None,
            "swa": None,
            "precision": "fp32",
            "initialisation": 0,
            "validate_every": 1,
            "limit_steps": None,
        },
        "validation": {
            "score_threshold": 0.05,
            "nms": "hard",
            "nms_iou": None,
            "candidates": 1000,
            "max_detections": 100,
        },
    }
    assert row.variant.model_dump() == {
        "image": {"long": 1333, "short": 800},
        "score_threshold": 0.05,
        "nms": "hard",
        "nms_iou": 0.6,
        "candidates": 1000,
        "max_detections": 100,
        "centerness": True,
        "oracle": None,
        "limit_images": None,
    }


@pytest.mark.parametrize(
    ("row", "switches", "loss"),
    [
        ("t3_raw_fl", (False, False, False), "focal"),
        ("t3_raw_vfl", (False, False, False), "varifocal"),
        ("t3_star_vfl", (True, False, False), "varifocal"),
        ("t3_full_vfl", (True, True, False), "varifocal"),
        ("t3_fcos_atss", (False, False, True), "focal"),
    ],
)
def test_switches_of_table_3(row, switches, loss):
    experiment = load_row("table3", row).experiment
    detector = experiment.detector
    assert (detector.star, detector.refine, detector.centerness) == switches
    assert experiment.loss.name == loss


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
    (experiments / "scales" / "own.yaml").write_text(
        "extends: bccd\ntitle: own\ndata: {kind: coco, classes: 7}\nimage: {long: 320, short: 256}\n"
    )
    own, bccd = (load_row("table3", "t3_full_vfl", scale).experiment for scale in ("own", "bccd"))
    assert (own.data.kind, own.data.classes, own.image.long) == ("coco", 7, 320)
    assert own.training == bccd.training
    assert own.backbone == bccd.backbone


def test_drawn_objects_pretrain_a_backbone_for_a_data_set_on_disk(experiments):
    """A user's scale may extend mini. Its backbones start from the same weights as those of mini."""
    (experiments / "scales" / "own.yaml").write_text("extends: mini\ntitle: own\ndata: {kind: coco, classes: 7}\n")
    own, mini = (load_row("table3", "t3_full_vfl", scale).experiment for scale in ("own", "mini"))
    assert pretraining_id(own) == pretraining_id(mini)


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
    with pytest.raises(WorkbenchError) as error:
        load_table("table3", "mini")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_impossible_combinations_are_refused():
    with pytest.raises(ValueError, match="refine needs star"):
        VFNet(star=False, refine=True)
    with pytest.raises(ValueError, match="centerness belongs"):
        VFNet(centerness=True)
