"""Fixtures of the imports: a run of VFNet, its detector, and the weights under MMDetection's names."""

import pytest
import torch

from tests.weights.checkpoints import published
from workbench.detectors import build_detector
from workbench.settings.catalog import load_row
from workbench.settings.data import CocoData


@pytest.fixture(scope="module")
def experiment():
    """VFNet of scale mini with COCO's number of classes."""
    return load_row("table3", "t3_full_vfl").experiment.model_copy(update={"data": CocoData(classes=80)})


@pytest.fixture(scope="module")
def detector(experiment):
    """Detector of the experiment with weights that are all different."""
    torch.manual_seed(1)
    detector = build_detector(experiment)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            tensor.fill_(7) if name.endswith("tracked") else tensor.uniform_(0.5, 1.5)
    return detector


@pytest.fixture
def weights(detector):
    return published(detector)


@pytest.fixture
def run(new_run, experiment):
    """Run that contains only its settings."""
    return new_run(experiment)
