"""Names of tensors in MMDetection, and COCO's categories."""

import pytest
import torch

from tests.settings.test_papers import TABLES
from workbench.detectors import build_detector
from workbench.settings.catalog import load_table
from workbench.settings.data import COCO_IDS, COCO_NAMES
from workbench.settings.detectors import VFNet
from workbench.weights.mmdet_names import renamer


@pytest.mark.parametrize("table", TABLES)
def test_common_names_have_a_place_in_every_row(table):
    for row in load_table(table, "coco")[1]:
        place = renamer(row.experiment)
        assert place("backbone.layer1.0.conv1.weight") == "backbone.net.layer1.0.conv1.weight"
        assert place("bbox_head.cls_convs.0.conv.weight") == "head.cls_tower.0.0.weight"
        assert place("mask_head.x") is None


def test_names_of_the_neck_of_vfnet_x(experiment):
    """The names follow MMDetection's PAFPN; laterals have no norm, outputs are deformable."""
    update = {"detector": VFNet(neck="pafpn"), "backbone": experiment.backbone.model_copy(update={"dcn": True})}
    vfnet_x = experiment.model_copy(update=update)
    blocks = [*(f"fpn_convs.{i}" for i in range(5)), "downsample_convs.0", "downsample_convs.1"]
    blocks += [f"pafpn_convs.{i}" for i in range(3)]
    names = [f"lateral_convs.{i}.conv.{part}" for i in range(3) for part in ("weight", "bias")]
    names += [f"{block}.{part}" for block in blocks for part in ("conv.weight", "gn.weight", "gn.bias")]
    names += [f"pafpn_convs.{i}.conv.conv_offset.{part}" for i in range(3) for part in ("weight", "bias")]
    place = renamer(vfnet_x)
    with torch.device("meta"):
        ours = {name for name in build_detector(vfnet_x).state_dict() if name.startswith("neck.")}
    assert sorted(place(f"neck.{name}") for name in names) == sorted(ours)
    assert place("neck.fpn_convs.2.conv.weight") == "neck.inner.2.0.weight"
    assert place("neck.fpn_convs.3.gn.bias") == "neck.extra.0.1.bias"
    assert place("bbox_head.cls_convs.1.conv.conv_offset.bias") == "head.cls_tower.1.0.predictor.bias"
    assert place("backbone.layer2.0.conv2.conv_offset.bias") == "backbone.net.layer2.0.conv2.predictor.bias"


def test_coco_has_80_categories_with_gaps_in_their_ids():
    assert len(set(COCO_NAMES)) == len(set(COCO_IDS)) == 80
    ids = dict(zip(COCO_NAMES, COCO_IDS, strict=True))
    assert (ids["person"], ids["stop sign"], ids["backpack"], ids["toilet"], ids["toothbrush"]) == (1, 13, 27, 70, 90)
