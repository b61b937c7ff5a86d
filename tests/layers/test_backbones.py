"""Maps of the residual backbone, and what is frozen in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.errors import WorkbenchError
from workbench.experiment import Backbone
from workbench.layers.backbones import ResidualBackbone

SMALL = {"name": "resnet50", "layers": (1, 1, 1, 1), "channels": (8, 12, 16, 24)}


def small(**settings):
    torch.manual_seed(0)
    return ResidualBackbone(Backbone(**SMALL | settings))


def one_step(backbone):
    """A training step of plain gradient descent on random images; the state before it."""
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.train()
    sum(x.square().mean() for x in backbone(torch.randn(2, 3, 64, 96) + 1)).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    return before


def changed(backbone, before):
    return {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("size", [(64, 64), (160, 32), (96, 224)])
def test_strides_and_channels(size):
    backbone = small()
    assert list(backbone.channels) == [48, 64, 96]
    maps = backbone(torch.zeros(2, 3, *size))
    assert [tuple(x.shape) for x in maps] == [
        (2, c, size[0] // s, size[1] // s) for c, s in zip((48, 64, 96), (8, 16, 32), strict=True)
    ]


def test_full_size_has_the_papers_channels_and_stride_in_the_3x3():
    with torch.device("meta"):
        backbone = ResidualBackbone(Backbone(name="resnet50"))
    assert list(backbone.channels) == [512, 1024, 2048]
    strides = {
        name: m.stride[0] for name, m in backbone.net.named_modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1
    }
    assert strides == {"conv1": 2} | {f"layer{i}.0.{name}": 2 for i in (2, 3, 4) for name in ("conv2", "downsample.0")}


@pytest.mark.parametrize(("stem", "first"), [(16, 16), (24, 16), (32, 8), (64, 16)])
def test_stem_width(stem, first):
    """timm itself ignores a width for this stem; the net keeps its structure otherwise."""
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


def test_frozen_norm_keeps_its_statistics_while_weight_and_bias_train():
    backbone = small(frozen_stages=1, norm="frozen")
    moved = changed(backbone, one_step(backbone))
    assert not any("running" in key or "num_batches" in key for key in moved)
    assert {"net.layer2.0.bn3.weight", "net.layer2.0.bn3.bias", "net.layer2.0.downsample.0.weight"} <= moved
    assert not any(m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert backbone.net.layer2.training


def test_trained_norm_follows_the_batches():
    backbone = small(norm="trained")
    moved = changed(backbone, one_step(backbone))
    assert {"net.bn1.running_mean", "net.layer2.0.bn1.running_var", "net.layer2.0.bn3.weight"} <= moved


def test_pretrained_weights(tmp_path):
    file = tmp_path / "weights.pth"
    given = {key: torch.randn_like(v) if v.is_floating_point() else v for key, v in small().net.state_dict().items()}
    classifier = {"fc.weight": torch.zeros(10, 96), "fc.bias": torch.zeros(10)}
    torch.save({k: v for k, v in given.items() if "num_batches" not in k} | classifier, file)
    backbone = small()
    backbone.load_pretrained(file)
    assert all(torch.equal(value, given[key]) for key, value in backbone.net.state_dict().items())


@pytest.mark.parametrize("spoil", ["missing", "surplus", "shape", "garbage"])
def test_foreign_weights_are_refused(tmp_path, spoil):
    file = tmp_path / "weights.pth"
    weights = small().net.state_dict()
    if spoil == "missing":
        del weights["layer3.0.conv2.weight"]
    elif spoil == "surplus":
        weights["layer3.7.conv2.weight"] = torch.zeros(1)
    elif spoil == "shape":
        weights["conv1.weight"] = torch.zeros(1, 3, 7, 7)
    torch.save(weights, file)
    if spoil == "garbage":
        file.write_bytes(b"<html>")
    with pytest.raises(WorkbenchError, match=r"weights\.pth"):
        small().load_pretrained(file)


def test_impossible_structure_is_said_in_words():
    with pytest.raises(WorkbenchError, match="resnet5000"):
        ResidualBackbone(Backbone(name="resnet5000"))
