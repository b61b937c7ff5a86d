"""Entry of a detector family: its settings, its builder and its names in MMDetection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from workbench.detectors.detector import Detector
from workbench.layers.backbones import ResidualBackbone
from workbench.settings.base import Settings
from workbench.settings.experiment import Experiment

TOWERS = {"bbox_head.cls_convs.": "head.cls_tower.", "bbox_head.reg_convs.": "head.reg_tower."}
"""Names of the towers, the same in all of MMDetection's dense heads."""
SCALES = {"bbox_head.scales.": "head.scales."}
"""Names of the factors of the levels."""


@dataclass(frozen=True)
class MMDetectionNames:
    """Names of a detector's neck and head in MMDetection; versions 2 and 3 use the same names.

    Attributes:
        head: start of MMDetection's name → start of ours; the longest start that fits applies.
        neck: kind of the neck; its names are in ``workbench.weights.mmdet_names``.
        neck_norm: whether norms follow the neck's convolutions.
    """

    head: Mapping[str, str]
    neck: Literal["fpn", "pafpn"] = "fpn"
    neck_norm: bool = False


@dataclass(frozen=True)
class Family:
    """Family of detectors. A new family is one of these in a file of its own, and one line in ``FAMILIES``.

    Attributes:
        settings: class in ``workbench.settings.detectors``, whose ``family`` names the family.
        build: function from an experiment and its backbone to the detector, with random weights.
        mmdetection_names: names of the tensors in MMDetection, for published weights and for comparisons.
    """

    settings: type[Settings]
    build: Callable[[Experiment, ResidualBackbone], Detector]
    mmdetection_names: Callable[[Experiment], MMDetectionNames]
