"""VFNet with DCNv2, and VFNet-X: numbers of parameters, start values and learning rates."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from tests.detectors.test_vfnet import make_detector
from tests.samples import make_batch, pyramid
from workbench.detectors import build_detector
from workbench.layers.deform import ModulatedDeformConv, OffsetPredictor
from workbench.layers.necks import PAFPN
from workbench.settings.catalog import load_experiment, load_row
from workbench.settings.experiment import Backbone
from workbench.settings.files import read_scale
from workbench.settings.ids import run_id
from workbench.training.schedule import make_optimiser

COUNTS = {  # parameters of the detectors that MMDetection builds from its configurations
    ("resnet50", False): 32_891_554,
    ("resnet50", True): 33_887_287,
    ("resnet101", False): 51_883_682,
    ("resnet101", True): 53_937_410,
    ("resnext101_32x4d", False): 51_512_226,
    ("resnext101_32x4d", True): 55_494_402,
    ("resnext101_64x4d", False): 90_789_794,
    ("resnext101_64x4d", True): 98_628_866,
    ("res2net101d", False): 52_560_442,
    ("res2net101d", True): 55_037_638,
}


def experiment(name, dcn, scale="coco", pafpn=False, **head):
    base = load_experiment("table3", "t3_full_vfl", scale)
    settings = read_scale(scale).backbones[name]
    return base.model_copy(
        update={
            "backbone": Backbone(name=name, dcn=dcn, **settings),
            "detector": base.detector.model_copy(update={"neck": "pafpn" if pafpn else "fpn"}),
            "head": base.head.model_copy(update=head),
        }
    )


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "dcn"), COUNTS)
def test_parameters_are_as_many_as_published(name, dcn):
    with torch.device("meta"):
        assert count(build_detector(experiment(name, dcn))) == COUNTS[name, dcn]


def test_parameters_of_vfnet_x_agree_with_a_count_by_layers():
    """Res2Net-101-DCN, PAFPN and a head of four stacked blocks, 384 channels wide, counted layer by layer."""
    backbone = (27 * 32 + 64) + (9 * 32 * 32 + 64) + (9 * 32 * 64 + 128)  # stem: weights and norms
    inputs = 64
    for planes, blocks, dcn in ((64, 3, 0), (128, 4, 1), (256, 23, 1), (512, 3, 1)):
        w, out = planes * 26 // 64, 4 * planes
        for block in range(blocks):
            backbone += inputs * 4 * w + 2 * 4 * w
            backbone += 3 * (9 * w * w + 2 * w + dcn * (9 * w * 27 + 27))
            backbone += 4 * w * out + 2 * out
            backbone += inputs * out + 2 * out if block == 0 else 0
            inputs = out
    c, norm = 384, 2 * 384
    conv, predictor = 9 * c * c, 9 * c * 27 + 27
    neck = (512 + 1024 + 2048) * c + 3 * c  # laterals
    neck += 3 * (conv + norm) + 2 * (conv + norm)  # inner maps, bottom-up path
    neck += 3 * (conv + predictor + norm) + 2 * (conv + norm)  # outputs, P6 and P7
    head = 2 * (4 * (conv + norm) + predictor)  # towers
    head += conv + norm + 9 * c * 4 + 4  # initial box
    head += 2 * conv + 9 * c * 4 + 4 + 9 * c * 80 + 80  # stars, refinement, classes
    head += 10  # scales
    with torch.device("meta"):
        built = build_detector(experiment("res2net101d", True, pafpn=True, channels=384, stacked_convs=4))
    assert isinstance(built.neck, PAFPN)
    assert (count(built.backbone), count(built.neck), count(built.head)) == (backbone, neck, head)
    assert backbone + neck + head == 75_561_751


@pytest.mark.parametrize("stacked_convs", [1, 3])
def test_the_last_stacked_block_of_both_towers_is_deformable(stacked_convs):
    torch.manual_seed(0)
    head = make_detector(channels=32, stacked_convs=stacked_convs, init_std=0.01, dcn=True).head
    results = [name for name, m in head.named_modules() if isinstance(m, ModulatedDeformConv)]
    assert results == [f"{tower}.{stacked_convs - 1}.0" for tower in ("cls_tower", "reg_tower")]
    for tower in (head.cls_tower, head.reg_tower):
        deformable, norm, relu = tower[-1]
        assert [type(norm), type(relu)] == [nn.GroupNorm, nn.ReLU]
        bound = (9 * 32) ** -0.5  # not N(0, 0.01) as for other convolutions
        assert 0.99 * bound < deformable.weight.abs().max() <= bound
        assert isinstance(deformable.predictor, OffsetPredictor)
        assert not any(p.any() for p in deformable.predictor.parameters())
        for block in tower[:-1]:
            assert block[0].weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_every_part_of_a_head_with_dcn_learns():
    detector = make_detector(dcn=True, anchor_scale=4.0)
    head = detector.head
    sum(detector.terms(head(pyramid()), make_batch((3, 2))).values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert head.cls_tower[-1][0].predictor.weight.grad.any()
    assert head.reg_tower[-1][0].predictor.weight.grad.any()


@pytest.mark.parametrize("pafpn", [False, True])
@pytest.mark.parametrize("name", ["resnet50", "resnext101_64x4d", "res2net101d"])
def test_a_training_step_reaches_all_parameters(name, pafpn):
    torch.manual_seed(0)
    detector = build_detector(experiment(name, True, "ladder5", pafpn)).train()
    batch = make_batch((3, 2))
    sum(detector.loss(dataclasses.replace(batch, images=torch.randn(2, 3, 96, 128))).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_run_ids_name_backbone_and_neck():
    plain, dcn = experiment("resnet101", False, "mini"), experiment("resnet101", True, "mini", pafpn=True)
    assert run_id(plain).startswith("vfnet-varifocal-resnet101-")
    assert run_id(dcn).startswith("vfnet_pafpn-varifocal-resnet101_dcn-")
    assert run_id(experiment("resnet50", False, "mini")) == load_row("table3", "t3_full_vfl").run


def test_offset_predictors_biases_learn_as_weights_do():
    """Every other bias outside norm layers has twice the rate and no decay."""
    chosen = experiment("resnet50", True, "mini", pafpn=True)
    training, detector = chosen.training, build_detector(chosen)
    names = {id(p): name for name, p in detector.named_parameters()}
    others, biases = make_optimiser(training, detector, 0.1).param_groups
    assert (biases["lr"], biases["weight_decay"]) == (0.2, 0)
    assert (others["lr"], others["weight_decay"]) == (0.1, training.weight_decay)
    predictors = {name for name in names.values() if name.endswith("predictor.bias")}
    assert len(predictors) == 3 + 3 + 2  # backbone, neck, towers
    assert predictors <= {names[id(p)] for p in others["params"]}
    results = {names[id(p)] for p in biases["params"]}
    laterals = {f"neck.laterals.{i}.bias" for i in range(3)}
    assert results == laterals | {f"head.{out}.bias" for out in ("box_out", "refine_out", "cls_out")}
