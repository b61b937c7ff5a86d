"""Feature maps, frozen parts, pretrained weights and deformable convolutions of the residual backbones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.layers.backbones import ResidualBackbone
from workbench.layers.deform import ModulatedDeformConv
from workbench.settings.experiment import Backbone
from workbench.settings.files import read_scale
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import validated

SMALL = {"name": "resnet50", "layers": (1, 1, 1, 1), "channels": (8, 12, 16, 24)}


NETWORKS = ("resnet50", "resnet101", "resnext101_32x4d", "resnext101_64x4d", "res2net101d")


def small(**settings):
    torch.manual_seed(0)
    return ResidualBackbone(Backbone(**SMALL | settings))


def one_step(backbone):
    """Make one step of gradient descent on random images; return the state before the step."""
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    sum(x.square().mean() for x in backbone(torch.randn(2, 3, 64, 96) + 1)).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    return before


def changed(backbone, before):
    """Names of the tensors that differ from the state before."""
    return {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("size", [(64, 64), (160, 32), (96, 224)])
def test_maps_have_their_strides_and_channels(size):
    backbone = small()
    assert list(backbone.channels) == [48, 64, 96]
    maps = backbone(torch.zeros(2, 3, *size))
    assert [tuple(x.shape) for x in maps] == [
        (2, c, size[0] // s, size[1] // s) for c, s in zip((48, 64, 96), (8, 16, 32), strict=True)
    ]


def test_the_full_size_network_has_the_paper_s_channels_and_strides_in_the_3x3():
    with torch.device("meta"):
        backbone = ResidualBackbone(Backbone(name="resnet50"))
    assert list(backbone.channels) == [512, 1024, 2048]
    strides = {
        name: m.stride[0] for name, m in backbone.net.named_modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1
    }
    assert strides == {"conv1": 2} | {f"layer{i}.0.{name}": 2 for i in (2, 3, 4) for name in ("conv2", "downsample.0")}


@pytest.mark.parametrize(("stem", "first"), [(16, 16), (24, 16), (32, 8), (64, 16)])
def test_the_stem_has_the_width_of_the_settings(stem, first):
    """timm ignores the width of this stem; the rest of the network is the same."""
    backbone = small(stem=stem, channels=(first, 24, 32, 48))
    assert (backbone.net.conv1.out_channels, backbone.net.bn1.num_features) == (stem, stem)
    assert [tuple(x.shape[-2:]) for x in backbone(torch.zeros(1, 3, 64, 96))] == [(8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("stages", [0, 1, 2, 4])
def test_frozen_stages_have_no_gradient(stages):
    backbone = small(frozen_stages=stages, norm="frozen")
    frozen = ("conv1", "bn1", *(f"layer{i}" for i in range(1, stages + 1))) if stages else ()
    for name, parameter in backbone.net.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen or "none"), name
    if stages < 4:
        before = one_step(backbone)
        trained = {key.removeprefix("net.") for key in changed(backbone, before)}
        assert trained
        assert not any(key.startswith(frozen or "none") for key in trained)


def test_a_frozen_norm_keeps_its_statistics_and_trains_weight_and_bias():
    backbone = small(frozen_stages=1, norm="frozen")
    trained = changed(backbone, one_step(backbone))
    assert not any("running" in key or "num_batches" in key for key in trained)
    assert {"net.layer2.0.bn3.weight", "net.layer2.0.bn3.bias", "net.layer2.0.downsample.0.weight"} <= trained
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert backbone.net.layer2.training


def test_a_trained_norm_updates_its_statistics():
    backbone = small(norm="trained")
    trained = changed(backbone, one_step(backbone))
    assert {"net.bn1.running_mean", "net.layer2.0.bn1.running_var", "net.layer2.0.bn3.weight"} <= trained


def test_pretrained_weights_are_loaded_without_the_classifier(tmp_path):
    file = tmp_path / "weights.pth"
    weights = {key: torch.randn_like(v) if v.is_floating_point() else v for key, v in small().net.state_dict().items()}
    classifier = {"fc.weight": torch.zeros(10, 96), "fc.bias": torch.zeros(10)}
    torch.save({k: v for k, v in weights.items() if "num_batches" not in k} | classifier, file)
    backbone = small()
    backbone.load_pretrained(file)
    assert all(torch.equal(value, weights[key]) for key, value in backbone.net.state_dict().items())


@pytest.mark.parametrize("fault", ["missing", "surplus", "shape", "garbage"])
def test_weights_of_another_network_are_refused(tmp_path, fault):
    file = tmp_path / "weights.pth"
    weights = small().net.state_dict()
    if fault == "missing":
        del weights["layer3.0.conv2.weight"]
    elif fault == "surplus":
        weights["layer3.7.conv2.weight"] = torch.zeros(1)
    elif fault == "shape":
        weights["conv1.weight"] = torch.zeros(1, 3, 7, 7)
    torch.save(weights, file)
    if fault == "garbage":
        file.write_bytes(b"<html>")
    reason = "not a readable checkpoint" if fault == "garbage" else "not weights of this backbone"
    with pytest.raises(WorkbenchError, match=rf"weights\.pth: {reason} .*; "):
        small().load_pretrained(file)


@pytest.mark.parametrize(
    "content",
    [[1], torch.zeros(3), {"state_dict": 3}, {1: torch.zeros(3)}, {"state_dict": [torch.zeros(3)]}, None],
    ids=["list", "tensor", "number as state", "numbered", "list as state", "nothing"],
)
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(WorkbenchError, match=r"weights\.pth: not weights of this backbone \(it has no .*; use its w"):
        small().load_pretrained(tmp_path / "weights.pth")


REFUSED = {  # case: (settings, problem)
    "unknown": ({"name": "resnet5000"}, "not a network of timm; correct"),
    "no name": ({"name": ""}, "not a network of timm"),
    "parent folder": ({"name": ".."}, "not a network of timm"),
    "path with a network's name": ({"name": "resnet50/../../x"}, "not a network of timm"),
    "path with a tag": ({"name": "resnet50./../x"}, "not a network of timm"),
    "absolute path": ({"name": "/etc/passwd"}, "not a network of timm"),
    "address of a hub": ({"name": "hf-hub:timm/resnet50.a1_in1k"}, "not a network of timm"),
    "local folder": ({"name": "local-dir:/tmp"}, "not a network of timm"),
    "tag of weights": ({"name": "resnet50.tv_in1k"}, "not a network of timm"),
    "line break": ({"name": "resnet50\n"}, "not a network of timm"),
    "four levels of features": ({"name": "convnext_atto"}, "has fewer than the five levels of features"),
    "no pyramid": ({"name": "test_vit"}, "are not a pyramid of strides 8, 16 and 32"),
    "strides from 4": ({"name": "darknet17"}, "are not a pyramid of strides 8, 16 and 32"),
    "maps of another size": ({"name": "inception_v3"}, "cannot be built"),
    "images of one size": ({"name": "vit_tiny_patch16_224"}, "cannot be built"),
    "depth of another family": ({"name": "test_efficientnet", "layers": (1, 1, 1, 1)}, "cannot be built"),
    "stem of another family": ({"name": "test_efficientnet", "stem": 8}, "stem needs a residual network"),
    "deformable convolutions elsewhere": ({"name": "test_efficientnet", "dcn": True}, "dcn needs a residual network"),
    "frozen stages elsewhere": ({"name": "test_efficientnet", "frozen_stages": 1}, "frozen_stages needs a residual"),
    "stem of a basic block": ({"name": "resnet18", "stem": 8}, "cannot be built"),
    "no blocks": ({"name": "resnet50", "layers": (0, 1, 1, 1)}, "layers"),
    "negative blocks": ({"name": "resnet50", "layers": (1, 1, 1, -1)}, "layers"),
    "no channels": ({"name": "resnet50", "channels": (0, 8, 8, 8)}, "channels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_does_not_fit_is_refused_in_one_line(case):
    settings, problem = REFUSED[case]
    with pytest.raises(WorkbenchError) as error:
        ResidualBackbone(validated(Backbone, settings, f"backbone '{settings['name']}'"))
    message = str(error.value)
    name = settings["name"].replace("\n", " ")  # in a message, a line break is a blank
    assert message.startswith(f"backbone '{name}': ")
    assert problem in message


def test_another_network_with_a_pyramid_is_accepted():
    backbone = ResidualBackbone(Backbone(name="test_efficientnet"))
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [x.shape[1:] for x in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


# ---------------------------------------------------------------------------------- the networks of Table 4, and DCNv2


def without_weights(name, **settings):
    """Backbone without memory for its weights."""
    with torch.device("meta"):
        return ResidualBackbone(Backbone(name=name, **settings))


def three_by_three(backbone):
    """In channels, out channels, stride and groups of all 3×3 convolutions of the stages, by path."""
    return {
        name: (m.weight.shape[1] * groups(m), len(m.weight), stride(m), groups(m))
        for name, m in backbone.net.named_modules()
        if name.startswith("layer") and getattr(m, "weight", None) is not None and m.weight.shape[2:] == (3, 3)
        if not name.endswith("predictor")
    }


def with_active_blocks(backbone):
    """Set the weights of all norms to 1: timm initialises the last norm of each block with zero."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def stride(conv):
    return conv.stride if isinstance(conv, ModulatedDeformConv) else conv.stride[0]


def groups(conv):
    inputs = conv.predictor.in_channels if isinstance(conv, ModulatedDeformConv) else conv.in_channels
    return inputs // conv.weight.shape[1]


@pytest.mark.parametrize(
    ("name", "blocks", "width", "parts", "group_count"),
    [
        ("resnet50", (3, 4, 6, 3), 64, 1, 1),
        ("resnet101", (3, 4, 23, 3), 64, 1, 1),
        ("resnext101_32x4d", (3, 4, 23, 3), 128, 1, 32),
        ("resnext101_64x4d", (3, 4, 23, 3), 256, 1, 64),
        ("res2net101d", (3, 4, 23, 3), 26, 3, 1),
    ],
)
@pytest.mark.parametrize("dcn", [False, True])
def test_full_size_networks_have_the_paper_s_structure(name, blocks, width, parts, group_count, dcn):
    """The 3×3 convolutions have the paper's widths, strides and groups, and the same ones are deformable."""
    backbone = without_weights(name, dcn=dcn)
    expected = {}
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        for block in range(count):
            step = 2 if block == 0 and stage > 0 else 1
            for part in range(parts):
                path = f"convs.{part}" if parts > 1 else "conv2"
                expected[f"layer{stage + 1}.{block}.{path}"] = (channels, channels, step, group_count)
    assert three_by_three(backbone) == expected
    assert list(backbone.channels) == [512, 1024, 2048]
    deformable = {n for n, m in backbone.net.named_modules() if isinstance(m, ModulatedDeformConv)}
    assert deformable == {n for n in expected if dcn and not n.startswith("layer1")}


def test_res2net_pools_the_last_channels_only_if_the_stage_reduces_the_map():
    pools = {
        name: m.stride for name, m in without_weights("res2net101d").net.named_modules() if name.endswith("0.pool")
    }
    assert pools == {"layer2.0.pool": 2, "layer3.0.pool": 2, "layer4.0.pool": 2}


@pytest.mark.parametrize("dcn", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_narrow_networks_keep_their_groups_and_train_all_weights(name, dcn):
    settings = read_scale("ladder5").backbones[name]
    torch.manual_seed(0)
    backbone = ResidualBackbone(Backbone(name=name, dcn=dcn, **settings))
    assert backbone.net.bn1.num_features == settings["stem"]
    narrow, published = three_by_three(backbone), three_by_three(without_weights(name))
    assert {path: kind[3] for path, kind in narrow.items()} == {path: published[path][3] for path in narrow}
    assert sum(p.numel() for p in backbone.parameters()) < 600_000
    if name == "res2net101d":
        assert {path.rpartition(".")[2] for path in narrow} == {"0", "1", "2"}
        assert [block.is_first for block in backbone.net["layer3"]] == [True, False]
    before = one_step(with_active_blocks(backbone))
    unchanged = {k for k, v in before.items() if v.is_floating_point()} - changed(backbone, before)
    assert not unchanged
    assert all(value.isfinite().all() for value in backbone.state_dict().values())


@pytest.mark.parametrize("name", NETWORKS)
def test_dcn_starts_from_the_convolutions_that_it_replaces(name):
    """With random weights; the same seed gives the same convolutions. The offsets start at zero."""
    settings = read_scale("mini").backbones[name]
    states = []
    for dcn in (False, True):
        torch.manual_seed(0)
        states.append(ResidualBackbone(Backbone(name=name, dcn=dcn, **settings)).net.state_dict())
    plain, deformable = states
    assert all(torch.equal(deformable[key], value) for key, value in plain.items())
    assert not any(value.any() for key, value in deformable.items() if key not in plain)


def test_dcn_loads_pretrained_weights_and_keeps_its_predictors(tmp_path):
    plain = small()
    torch.save(plain.net.state_dict(), tmp_path / "weights.pth")
    backbone = small(dcn=True)
    backbone.load_pretrained(tmp_path / "weights.pth")
    loaded = plain.net.state_dict()
    predictors = {k: v for k, v in backbone.net.state_dict().items() if k not in loaded}
    assert {key.rpartition(".")[0] for key in predictors} == {f"layer{i}.0.conv2.predictor" for i in (2, 3, 4)}
    assert not any(value.any() for value in predictors.values())
    assert all(torch.equal(backbone.net.state_dict()[key], value) for key, value in loaded.items())


def test_offset_predictors_are_trained_in_a_backbone_with_frozen_stages():
    backbone = with_active_blocks(small(dcn=True, frozen_stages=1, norm="frozen"))
    trained = changed(backbone, one_step(backbone))
    assert {f"net.layer{i}.0.conv2.predictor.{p}" for i in (2, 3, 4) for p in ("weight", "bias")} <= trained
    assert not any("layer1" in key or "running" in key for key in trained)


def test_weights_of_a_deep_stem_of_open_mmlab_are_loaded(tmp_path):
    settings = {"name": "res2net101d", "layers": (1, 1, 2, 1), "channels": (16, 16, 16, 16), "stem": 8}
    weights = ResidualBackbone(Backbone(**settings)).net.state_dict()
    theirs = {k.replace("conv1.", "stem.", 1) if k.startswith("conv1.") else k: v for k, v in weights.items()}
    theirs = {k.replace("bn1.", "stem.7.") if k.startswith("bn1.") else k: v for k, v in theirs.items()}
    torch.save({"state_dict": theirs}, tmp_path / "weights.pth")
    backbone = ResidualBackbone(Backbone(**settings))
    backbone.load_pretrained(tmp_path / "weights.pth")
    assert all(torch.equal(value, weights[key]) for key, value in backbone.net.state_dict().items())


def test_an_odd_width_of_a_deep_stem_is_refused():
    with pytest.raises(WorkbenchError, match=r"res2net101d.*even, not 7"):
        ResidualBackbone(Backbone(name="res2net101d", stem=7))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(("name", "channels"), [("resnext101_32x4d", (8, 16, 16, 16)), ("res2net101d", (2, 8, 8, 8))])
def test_blocks_without_channels_are_refused(name, channels):
    """timm rounds the channels of a block down, to zero if there are too few."""
    with pytest.raises(WorkbenchError, match=f"{name}.*without channels; increase them"):
        without_weights(name, channels=channels)
