"""Detectors, built from an experiment by a plain function."""

from __future__ import annotations

from workbench.detectors.detector import Detector, Predictions
from workbench.detectors.vfnet import VFNetHead
from workbench.experiment import Experiment, Variant
from workbench.layers.backbones import ResidualBackbone
from workbench.layers.necks import FPN

__all__ = ["Detector", "Predictions", "build_detector"]


def build_detector(experiment: Experiment) -> Detector:
    """A detector with random weights (seed torch first for a repeatable one); nothing is downloaded or read.

    Args:
        experiment: what to build, e.g. of ``workbench.load_experiment("table3", "t3_full_vfl", "mini")``.
    """
    head, detector = experiment.head, experiment.detector
    backbone = ResidualBackbone(experiment.backbone)
    return Detector(
        backbone,
        FPN(backbone.channels, head.channels),
        VFNetHead(
            experiment.data.classes,
            head.channels,
            head.channels,
            experiment.loss,
            star=detector.star,
            refine=detector.refine,
            centerness=detector.centerness,
            stacked_convs=head.stacked_convs,
            norm_groups=head.norm_groups,
            anchor_scale=head.anchor_scale,
            init_std=head.init_std,
        ),
        Variant(image=experiment.image),
    )
