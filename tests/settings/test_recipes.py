"""Rows resolve to the recipes of the paper: Table 1, Table 3, Table 4 with VFNet-X, and the scale coco."""

import pytest

from workbench.settings.catalog import load_row, load_table
from workbench.settings.detectors import VFNet
from workbench.settings.files import table_names
from workbench.settings.ids import run_id
from workbench.settings.postprocessing import PostProcessing
from workbench.settings.variant import Oracle, published_variant


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
        "init": None,
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
