"""Detectors, built from an experiment by a plain function."""

from __future__ import annotations

from workbench.detectors.atss import build_atss
from workbench.detectors.detector import Detector
from workbench.detectors.foveabox import build_foveabox
from workbench.detectors.predictions import Predictions
from workbench.detectors.reppoints import build_reppoints
from workbench.detectors.retinanet import build_retinanet
from workbench.detectors.vfnet import build_vfnet
from workbench.layers.backbones import ResidualBackbone
from workbench.settings.experiment import Experiment
from workbench.settings.variant import published_variant

__all__ = ["Detector", "Predictions", "build_detector"]

FAMILIES = {
    "vfnet": build_vfnet,
    "atss": build_atss,
    "retinanet": build_retinanet,
    "foveabox": build_foveabox,
    "reppoints": build_reppoints,
}
"""How neck and head of each family are built, for a backbone with these channels."""


def build_detector(experiment: Experiment) -> Detector:
    """A detector with random weights (seed torch first for a repeatable one); nothing is downloaded or read.

    Args:
        experiment: what to build, e.g. of ``workbench.load_experiment("table3", "t3_fcos_atss", "mini")``.
    """
    backbone = ResidualBackbone(experiment.backbone)
    neck, head = FAMILIES[experiment.detector.family](experiment, backbone.channels)
    return Detector(backbone, neck, head, published_variant(experiment))
