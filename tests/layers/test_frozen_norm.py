"""BatchNorm with fixed statistics as a part of the convolution before it: equal maps and gradients, equal names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from workbench.layers.backbones import ResidualBackbone
from workbench.layers.frozen_norm import FixedNorm, NormedConv
from workbench.settings.experiment import Backbone

NETWORKS = ("resnet18", "resnet50", "resnext101_32x4d", "res2net101d")
SETTINGS = {"layers": (2, 1, 1, 1), "channels": (32, 32, 64, 64), "frozen_stages": 1}


def backbone(name, norm="frozen", **settings):
    """Backbone in double precision with random norms, repeatable."""
    torch.manual_seed(0)
    network = ResidualBackbone(Backbone(name=name, norm=norm, **SETTINGS | settings)).double().train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                    tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network


def maps_and_gradients(network):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    maps = network(images)
    sum(x.square().mean() for x in maps).backward()
    return maps, {name: p.grad for name, p in network.named_parameters()}


def norms_that_are_computed(network):
    """Names of the norms that pass over a map of their own."""
    return [name for name, m in network.named_modules() if type(m) is nn.BatchNorm2d]


@pytest.mark.parametrize("dcn", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_and_gradients_are_equal(name, dcn):
    actual = backbone(name, dcn=dcn)
    expected = backbone(name, "trained", dcn=dcn)
    for module in expected.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert expected.state_dict().keys() == actual.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[key], value), key
    (maps, gradients), (expected_maps, expected_gradients) = map(maps_and_gradients, (actual, expected))
    for x, y in zip(maps, expected_maps, strict=True):
        assert torch.linalg.norm(x - y) < 1e-10 * torch.linalg.norm(y)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in expected_gradients.items():
        if gradient is None:
            assert gradients[key] is None, key
        else:
            assert torch.linalg.norm(gradients[key] - gradient) <= 1e-10 * torch.linalg.norm(gradient), key


def test_every_norm_of_a_residual_network_is_a_part_of_its_convolution():
    assert norms_that_are_computed(backbone("resnet50")) == []
    # The last norm of a deep stem follows a sequence of layers; the norm of a deformable convolution stays, too.
    assert norms_that_are_computed(backbone("res2net101d")) == ["net.bn1"]
    deformable = norms_that_are_computed(backbone("resnet50", dcn=True))
    assert deformable == [f"net.layer{stage}.0.bn2" for stage in (2, 3, 4)]


def test_trained_norms_and_other_networks_are_not_changed():
    trained = backbone("resnet50", "trained")
    other = ResidualBackbone(Backbone(name="regnetx_002", norm="frozen"))
    for network in (trained, other):
        assert not [m for m in network.modules() if isinstance(m, NormedConv | FixedNorm)]


def test_the_random_numbers_after_the_backbone_are_the_same():
    numbers = []
    for norm in ("frozen", "trained"):
        torch.manual_seed(0)
        ResidualBackbone(Backbone(name="resnet50", norm=norm, **SETTINGS))
        numbers.append(torch.rand(3))
    assert torch.equal(*numbers)


def test_a_copy_uses_its_own_norms():
    first = backbone("resnet50")
    second = copy.deepcopy(first)
    images = torch.ones(1, 3, 64, 64, dtype=torch.float64)
    before = first(images)[-1]
    with torch.no_grad():
        for module in second.modules():
            if isinstance(module, FixedNorm):
                module.bias.add_(1)
    assert torch.equal(first(images)[-1], before)
    assert not torch.equal(second(images)[-1], before)
