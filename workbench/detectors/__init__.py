"""Detectors, built from an experiment by a plain function."""

from __future__ import annotations

from workbench.detectors.atss import ATSS_FAMILY
from workbench.detectors.detector import DenseDetector, Detector
from workbench.detectors.family import Family
from workbench.detectors.foveabox import FOVEABOX_FAMILY
from workbench.detectors.predictions import Detections, Predictions
from workbench.detectors.reppoints import REPPOINTS_FAMILY
from workbench.detectors.retinanet import RETINANET_FAMILY
from workbench.detectors.vfnet import VFNET_FAMILY
from workbench.layers.backbones import ResidualBackbone
from workbench.settings.experiment import Experiment

__all__ = ["FAMILIES", "DenseDetector", "Detections", "Detector", "Family", "Predictions", "build_detector"]

FAMILIES = {
    family.settings.model_fields["family"].default: family
    for family in (VFNET_FAMILY, ATSS_FAMILY, RETINANET_FAMILY, FOVEABOX_FAMILY, REPPOINTS_FAMILY)
}
"""All families of detectors, by the name in the settings."""


def build_detector(experiment: Experiment) -> Detector:
    """Build a detector with random weights. Nothing is downloaded, and no file is read.

    The random weights are repeatable if torch is seeded before the call.

    Args:
        experiment: for example ``workbench.load_experiment("table3", "t3_fcos_atss", "mini")``.
    """
    return FAMILIES[experiment.detector.family].build(experiment, ResidualBackbone(experiment.backbone))
