"""Detections of a data set: a detector that has diverged is reported, instead of an AP of 0."""

import math

import pytest
import torch

from workbench.data.coco import read_coco
from workbench.detectors import Detections, Detector, build_detector
from workbench.evaluation.inference import detect_data_set
from workbench.settings.variant import Variant, published_variant
from workbench.support.errors import WorkbenchError


class Fixed(Detector):
    """Detector that is not dense and detects the same box everywhere."""

    def __init__(self, box, score):
        super().__init__()
        self.one = Detections(torch.tensor([box]), torch.tensor([score]), torch.tensor([0]))

    def detect(self, images, sizes, variant=None):
        return [self.one] * len(images)


def spoilt(detector, part):
    """Put NaN into one weight of a part of the head."""
    with torch.no_grad():
        next(parameter for name, parameter in detector.head.named_parameters() if part in name).view(-1)[0] = math.nan
    return detector


@pytest.fixture
def data(tiny_data):
    return read_coco(tiny_data, "val2017", training=False)


@pytest.mark.parametrize("part", ["cls_out", "box_out", "refine_out", "cls_tower"])
def test_nan_of_a_dense_detector_is_reported_with_its_image(tiny_experiment, data, part):
    detector = build_detector(tiny_experiment)
    variant = published_variant(tiny_experiment)
    detect_data_set(detector, data, variant, "cpu")
    with pytest.raises(WorkbenchError, match=r"^0\S+: the detector predicts NaN for this image.*; lower training.l"):
        detect_data_set(spoilt(detector, part), data, variant, "cpu")


@pytest.mark.parametrize(
    ("box", "score"), [([0.0, 0.0, 9.0, math.nan], 0.5), ([0.0, 0.0, 9.0, 9.0], math.nan)], ids=["box", "score"]
)
def test_nan_of_any_detector_is_reported(tiny_experiment, data, box, score):
    variant = Variant(image=tiny_experiment.image)
    assert len(detect_data_set(Fixed([0.0, 0.0, 9.0, 9.0], 0.5), data, variant, "cpu")) == len(data.images)
    with pytest.raises(WorkbenchError, match="the detector predicts NaN"):
        detect_data_set(Fixed(box, score), data, variant, "cpu")


def test_one_value_per_group_of_channels_is_reported(tiny_experiment, data):
    """With as many groups as channels, a validation failed with a traceback, after an epoch of training."""
    head = tiny_experiment.head.model_copy(update={"norm_groups": tiny_experiment.head.channels})
    detector = build_detector(tiny_experiment.model_copy(update={"head": head}))
    variant = Variant(image={"long": 64, "short": 48})
    message = r"^0\S+: 1 image of \d+x\d+ pixels gives a normalisation layer one value per .*, or fewer norm_groups$"
    with pytest.raises(WorkbenchError, match=message):
        detect_data_set(detector, data, variant, "cpu")
