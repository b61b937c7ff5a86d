"""The backbones of Table 4, with and without DCNv2, and VFNet-X's neck against MMDetection 3.3.0, with equal weights."""

import pytest
import torch
from torch import nn

from tests.parity.comparison import difference, enliven, take_weights
from workbench.boxes import encode_distances
from workbench.detectors import build_detector
from workbench.detectors.parts import flatten_levels
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.necks import PAFPN
from workbench.settings.catalog import load_experiment
from workbench.settings.experiment import Backbone
from workbench.settings.files import read_scale
from workbench.weights.mmdet_names import renamer

CONFIGS = {  # our name of the backbone, and DCN → MMDetection's configuration
    ("resnet50", False): "r50_fpn",
    ("resnet50", True): "r50-mdconv-c3-c5_fpn",
    ("resnet101", False): "r101_fpn",
    ("resnet101", True): "r101-mdconv-c3-c5_fpn",
    ("resnext101_32x4d", False): "x101-32x4d_fpn",
    ("resnext101_32x4d", True): "x101-32x4d-mdconv-c3-c5_fpn",
    ("resnext101_64x4d", False): "x101-64x4d_fpn",
    ("resnext101_64x4d", True): "x101-64x4d-mdconv-c3-c5_fpn",
    ("res2net101d", False): "res2net-101_fpn",
    ("res2net101d", True): "res2net101-mdconv-c3-c5_fpn",
}
every_backbone = pytest.mark.parametrize(("name", "dcn"), CONFIGS, ids=[f"{n}{'-dcn' * d}" for n, d in CONFIGS])


def their_config(mm, name, dcn):
    config = mm.config(f"vfnet/vfnet_{CONFIGS[name, dcn]}_ms-2x_coco.py").model
    config.backbone.init_cfg = None
    return config


def moderate(model):
    """Set offsets of about one stride that differ between taps and, less, between locations.

    Sampling at positions that depend on the signal magnifies rounding errors from layer to layer.
    """
    for number, predictor in enumerate(m for n, m in model.named_modules() if n.endswith("conv_offset")):
        predictor.weight.mul_(0.2)
        predictor.bias.copy_(torch.randn(27, generator=torch.Generator().manual_seed(number)))


def our_experiment(name, dcn, neck="fpn"):
    """VFNet with a backbone of scale ``coco``."""
    settings = read_scale("coco")[1]["backbones"][name]
    base = load_experiment("table3", "t3_full_vfl", "coco")
    detector = base.detector.model_copy(update={"neck": neck})
    return base.model_copy(update={"backbone": Backbone(name=name, dcn=dcn, **settings), "detector": detector})


@every_backbone
def test_number_of_parameters(mm, name, dcn):
    with torch.device("meta"):
        ours, theirs = build_detector(our_experiment(name, dcn)), mm.model(their_config(mm, name, dcn))
    for part in ("backbone", "neck"):
        actual, expected = (sum(p.numel() for p in getattr(model, part).parameters()) for model in (ours, theirs))
        assert actual == expected, part
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    trained, expected = ([p.shape for p in m.parameters() if p.requires_grad] for m in (ours.backbone, theirs.backbone))
    assert sorted(trained) == sorted(expected)  # the frozen parts are the same


@every_backbone
@torch.no_grad()
def test_maps(mm, name, dcn):
    theirs = mm.model(their_config(mm, name, dcn).backbone)
    enliven(theirs, 0)
    moderate(theirs)
    experiment = our_experiment(name, dcn)
    ours, place = ResidualBackbone(experiment.backbone), renamer(experiment)
    weights = {f"backbone.{key}": tensor for key, tensor in theirs.state_dict().items()}
    ours.load_state_dict(take_weights(ours.state_dict(), weights, lambda key: place(key).removeprefix("backbone.")))
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    ours.train(), theirs.train()  # BatchNorm keeps its statistics
    predictions, expected = ours(images), theirs(images)[1:]
    for actual, reference in zip(predictions, expected, strict=True):
        assert reference.std() > 0.1
        assert difference(actual, reference) < 1e-4


@torch.no_grad()
def test_predictions_of_a_vfnet_with_dcn(mm):
    """The last stacked blocks of the towers are deformable, too."""
    theirs = enliven(mm.model(their_config(mm, "resnet50", True)), 0)
    moderate(theirs)
    experiment = our_experiment("resnet50", True)
    ours = build_detector(experiment)
    ours.load_state_dict(take_weights(ours.state_dict(), theirs.state_dict(), renamer(experiment)))
    images = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    predictions = ours.eval().predict(images)
    logits, initial, refined = theirs.train()(
        images, mode="tensor"
    )  # only in training mode it returns the initial boxes
    points = torch.cat(list(predictions.points))
    assert flatten_levels(logits).std() > 0.5
    assert difference(predictions.logits, flatten_levels(logits)) < 1e-4
    for boxes, distances in ((predictions.initial_boxes, initial), (predictions.boxes, refined)):
        expected = flatten_levels(distances)
        assert expected.log().std() > 0.3
        assert difference(encode_distances(points, boxes), expected) < 1e-4


@torch.no_grad()
def test_pafpn(mm):
    """Compared without offsets and without the convolution on P3, which MMDetection's neck does not have."""
    norm = {"type": "GN", "num_groups": 4}
    kind = {"type": "PAFPN", "norm_cfg": norm, "no_norm_on_lateral": True, "add_extra_convs": "on_output"}
    theirs = mm.model(dict(kind, in_channels=[6, 8, 12], out_channels=16, num_outs=5, relu_before_extra_convs=True))
    ours, place = PAFPN([6, 8, 12], 16, 4), renamer(our_experiment("res2net101d", True, neck="pafpn"))
    ours.outputs[0] = nn.Identity()
    level = {"pafpn_convs.0": "pafpn_convs.1", "pafpn_convs.1": "pafpn_convs.2"}
    weights = {}
    for key, tensor in enliven(theirs, 3).state_dict().items():
        start = ".".join(key.split(".")[:2])
        weights["neck." + key.replace(start, level.get(start, start))] = tensor
    kept = {key: tensor * 0 for key, tensor in ours.state_dict().items() if ".predictor." in key}
    state = {key: tensor for key, tensor in ours.state_dict().items() if key not in kept}
    ours.load_state_dict(kept | take_weights(state, weights, lambda key: place(key).removeprefix("neck.")))
    for output in ours.outputs[1:]:
        output[0].weight.mul_(2)  # for masks of a half
    maps = [torch.randn(2, c, *size) for c, size in zip((6, 8, 12), ((12, 18), (6, 9), (3, 5)), strict=True)]
    for actual, reference in zip(ours(maps), theirs(maps), strict=True):
        assert difference(actual, reference) < 1e-5
