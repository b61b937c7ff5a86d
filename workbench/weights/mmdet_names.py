"""MMDetection's names of tensors → ours, as tables of the names' starts; versions 2 and 3 name them alike.

Another backbone, neck or family is one more table. Sources: the names in the state of each detector that MMDetection
builds; where a network is timm's and MMDetection's alike (ResNet), all names below it agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from workbench.detectors import FAMILIES
from workbench.settings.experiment import Experiment

Place = str | tuple[str, int]
"""Our name of a tensor, or our name and an element of it: what is a scalar a level there is one vector here."""

BACKBONE = {"backbone.": "backbone.net."}
DEEP_STEM = {"backbone.stem.": "backbone.net.conv1.", "backbone.stem.7.": "backbone.net.bn1."}
BACKBONES = {"res2net101d": BACKBONE | DEEP_STEM}
"""By the name in our settings, where ``BACKBONE`` is not all."""
LATERALS_AND_EXTRA = {
    "neck.lateral_convs.": "neck.laterals.",
    "neck.fpn_convs.3.": "neck.extra.0.",
    "neck.fpn_convs.4.": "neck.extra.1.",
}
FPN = {**LATERALS_AND_EXTRA, "neck.fpn_convs.": "neck.outputs."}
PAFPN = {
    **LATERALS_AND_EXTRA,
    "neck.fpn_convs.": "neck.inner.",
    "neck.downsample_convs.": "neck.down.",
    "neck.pafpn_convs.": "neck.outputs.",
}
NECKS = {"fpn": FPN, "pafpn": PAFPN}
BARE_CONVS = {"fpn": ("neck.",), "pafpn": ("neck.laterals.",)}
"""Our starts of the convolutions without a norm, if the neck has no norms of its own."""
CONSTANTS = ("bbox_head.integral.project", "data_preprocessor.mean", "data_preprocessor.std")
"""Buffers of theirs that are no weights: the values of GFL's distribution, the pixels' mean and deviation."""
PARTS = ((".conv.", ".0."), (".gn.", ".1."))
"""Parts of a block of convolution and norm; without a norm a neck's block is the convolution itself."""
OFFSETS = (".conv_offset.", ".predictor.")
"""What predicts the offsets of a deformable convolution."""
SCALE = re.compile(r"(head\.(?:refine_)?scales)\.(\d+)\.scale")
"""A level's factor, once the start is ours."""
BARE = re.compile(r"(_convs\.\d+|\.vfnet_reg_conv)\.(weight|bias)$")
"""A block's convolution in old files, which leave out ``.conv``."""


def name_starts(experiment: Experiment) -> dict[str, str]:
    """Start of MMDetection's name → start of ours, for all tensors of the experiment's detector."""
    backbone = BACKBONES.get(experiment.backbone.name, BACKBONE)
    names = FAMILIES[experiment.detector.family].mmdetection_names(experiment)
    return backbone | NECKS[names.neck] | dict(names.head)


def renamer(experiment: Experiment) -> Callable[[str], Place | None]:
    """A function from MMDetection's name of a tensor to our place for it in the experiment's detector.

    It gives None for a name that begins like none of this detector's.
    """
    starts = name_starts(experiment)
    names = FAMILIES[experiment.detector.family].mmdetection_names(experiment)
    without_norm = () if names.neck_norm else BARE_CONVS[names.neck]

    def place(name: str) -> Place | None:
        name = BARE.sub(r"\1.conv.\2", name)
        known = [start for start in starts if name.startswith(start)]
        if not known:
            return None
        start = max(known, key=len)
        ours = (starts[start] + name.removeprefix(start)).replace(*OFFSETS)
        if scale := SCALE.fullmatch(ours):
            return f"{scale[1]}.factors", int(scale[2])
        if without_norm and ours.startswith(without_norm):
            return ours.replace(".conv.", ".")
        if ours.startswith(("neck.", "head.")):
            for theirs, index in PARTS:
                ours = ours.replace(theirs, index)
        return ours

    return place
