"""The eleven networks of Table 4 at full size: their settings in the catalogue, and a training step of each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.detectors.test_vfnet_dcn import COUNTS, experiment
from workbench.data.batch import Batch
from workbench.detectors import build_detector
from workbench.settings.catalog import load_table
from workbench.settings.data import ImageRange

ROWS = {row.id: row for row in load_table("table4", "coco")[1]}
NETWORKS = {  # row → its backbone
    f"t4_vfnet_{short}{'_dcn' * dcn}": (name, dcn)
    for dcn in (False, True)
    for short, name in {
        "r50": "resnet50",
        "r101": "resnet101",
        "x101_32x4d": "resnext101_32x4d",
        "x101_64x4d": "resnext101_64x4d",
        "r2_101": "res2net101d",
    }.items()
}
FROZEN = ("backbone.net.conv1.", "backbone.net.bn1.", "backbone.net.layer1.")
HEIGHT, WIDTH = 384, 1024
# Nearly the smallest image with positives on all levels. The anchors of P7 have sides of 1024 pixels: a smaller object
# has too small an IoU for ATSS. The other objects are for P3 to P6.
BOXES = [[16, 32, 48, 64], [100, 40, 164, 104], [200, 100, 330, 230], [300, 60, 560, 316], [0, 0, WIDTH, HEIGHT]]


def parts(experiment):
    """Settings that decide the network."""
    return experiment.backbone, experiment.detector, experiment.head, experiment.data.classes, experiment.loss


@pytest.mark.parametrize("row", NETWORKS)
def test_both_ranges_share_a_network_whose_parameters_are_counted(row):
    """The counts are in the tests of VFNet with DCNv2 and in the comparison with MMDetection."""
    narrow, wide = (ROWS[f"{row}_{sides}"].experiment for sides in ("640_800", "480_960"))
    for actual, sides in ((narrow, (640, 800)), (wide, (480, 960))):
        assert actual.training.image_range == ImageRange(long=(1333, 1333), short=sides)
    same = narrow.training.model_copy(update={"image_range": wide.training.image_range})
    assert narrow.model_copy(update={"training": same}) == wide
    assert NETWORKS[row] in COUNTS
    assert parts(narrow) == parts(experiment(*NETWORKS[row]))


def test_runs_and_networks():
    """VFNet-X's two rows are one training, tested at two sizes."""
    x = ROWS["t4_vfnetx_800"].experiment
    assert x == ROWS["t4_vfnetx_1200"].experiment
    assert parts(x) == parts(experiment("res2net101d", True, pafpn=True, channels=384, stacked_convs=4))
    assert len(ROWS) == 22
    assert len({row.run for row in ROWS.values()}) == 21
    assert len({parts(row.experiment) for row in ROWS.values()}) == 11


def one_image():
    """Image of noise with an object for each level."""
    images = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    labels, size = torch.arange(len(BOXES)).unsqueeze(0) * 16, torch.tensor([[HEIGHT, WIDTH]])
    boxes = torch.tensor(BOXES, dtype=torch.float32).unsqueeze(0)
    return Batch(images, boxes, labels, torch.ones_like(labels, dtype=torch.bool), size, size, (1,), ("x.jpg",))


def awake(detector):
    """Detector whose last norms of the blocks are not zero; timm starts them at zero, so that no gradient passes.

    The value is less than one, since frozen norms do not normalise and up to 33 blocks add to the signal.
    """
    for module in detector.backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.constant_(module.weight, 0.3)
    return detector


# Default: the network with everything except depth. `make test-slow` runs the others.
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[] if row == "t4_vfnet_r50_dcn_480_960" else pytest.mark.slow)
        for row in [*(f"{row}_480_960" for row in NETWORKS), "t4_vfnetx_800"]
    ],
)
def test_a_training_step_reaches_every_parameter_that_is_trained(row):
    torch.manual_seed(0)
    detector, batch = awake(build_detector(ROWS[row].experiment)).train(), one_image()
    predictions = detector.predict(batch.images)
    assigned = detector.assign(predictions, batch)
    levels = assigned.positive.split([len(points) for points in predictions.points], dim=1)
    assert all(level.any() for level in levels), [int(level.sum()) for level in levels]
    terms = detector.terms(predictions, batch)
    assert terms.keys() == {"cls", "box", "box_initial"}
    sum(terms.values()).backward()

    frozen = {name for name, p in detector.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in detector.named_parameters() if name.startswith(FROZEN)}
    without, unreached, broken = set(), set(), set()
    for name, parameter in detector.named_parameters():
        if parameter.grad is None:
            without.add(name)
        elif not parameter.grad.isfinite().all():
            broken.add(name)
        elif not parameter.grad.any():
            unreached.add(name)
    assert without == frozen
    assert not broken
    assert not unreached
    # A factor learns from the positives of its own level only.
    for scales in (detector.head.scales, detector.head.refine_scales):
        assert scales.factors.grad.all()
