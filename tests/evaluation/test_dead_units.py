"""Dead units: ReLU layers and functions, shared levels, several images, and a detector with a known number of them."""

import pytest
import torch
from torch import nn

from workbench.detectors import build_detector
from workbench.evaluation.dead_units import dead_units, watched_relus
from workbench.settings.catalog import load_experiment


class Branch(nn.Module):
    """Convolution with a ReLU layer, and a convolution whose ReLU is a function, on two levels."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True))
        self.star = nn.Conv2d(2, 3, 1)

    def forward(self, images):
        return [self.star(self.tower(level)).relu() for level in (images, 0.5 * images)]


@pytest.fixture
def branch():
    branch = Branch()
    with torch.no_grad():
        branch.tower[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        branch.tower[0].bias.zero_()
        branch.star.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).reshape(3, 2, 1, 1))
        branch.star.bias.copy_(torch.tensor([0.0, 0.0, -1.0]))
    return branch


def test_a_unit_that_some_image_excites_is_not_dead(branch):
    with watched_relus(branch) as watch:
        branch(torch.ones(1, 1, 2, 2))
    assert dead_units(watch.largest) == {"tower.1": (1, 2), "star": (2, 3)}
    with watched_relus(branch) as watch:
        branch(torch.ones(1, 1, 2, 2))
        branch(torch.tensor([[1.0, 1.0], [1.0, -1.0]])[None, None])
    assert dead_units(watch.largest) == {"tower.1": (0, 2), "star": (1, 3)}


def test_the_module_is_left_as_it_was(branch):
    with watched_relus(branch) as watch:
        branch(torch.ones(1, 1, 2, 2))
    before = dict(watch.largest)
    branch(-torch.ones(1, 1, 2, 2))
    assert watch.largest.keys() == before.keys()
    assert all(torch.equal(watch.largest[name], before[name]) for name in before)


@pytest.mark.parametrize("id_", ["t3_full_vfl", "t3_fcos_atss"])
def test_the_parts_of_a_detector(id_):
    experiment = load_experiment("table3", id_, "ladder5")
    torch.manual_seed(0)
    detector = build_detector(experiment).eval()
    channels = experiment.head.channels
    with torch.no_grad():
        detector.head.cls_tower[0][1].bias[:5] = -100  # of the GroupNorm before a ReLU
        with watched_relus(detector) as watch:
            detector.infer(torch.randn(2, 3, 96, 128))
    parts = dead_units(watch.largest)
    assert parts["head.cls_tower"] == (5, 2 * channels)
    assert parts["head.reg_tower"] == (0, 2 * channels)
    assert {"backbone", "neck"} < parts.keys()
    assert ("head.cls_star" in parts) == (id_ == "t3_full_vfl")
