"""MMDetection's names of tensors → our names, as tables of first parts of names ("starts").

MMDetection 2 and 3 use the same names. Backbones and necks are listed here; each family of detectors states its head's
names in ``workbench/detectors/``. Source: the state of each detector that MMDetection builds. timm and MMDetection use
the same names within a ResNet, so one start is enough for a backbone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from workbench.detectors import FAMILIES
from workbench.settings.experiment import Experiment

Place = str | tuple[str, int]
"""Our name of a tensor, or our name and an element of the tensor: MMDetection's scalars of the levels are one vector
here."""

BACKBONE = {"backbone.": "backbone.net."}
DEEP_STEM = {"backbone.stem.": "backbone.net.conv1.", "backbone.stem.7.": "backbone.net.bn1."}
BACKBONES = {"res2net101d": BACKBONE | DEEP_STEM}
"""Tables by the backbone's name in our settings; other backbones need only ``BACKBONE``."""
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
"""Starts of our names of convolutions without a norm. A neck with ``neck_norm`` has no such convolution."""
CONSTANTS = ("bbox_head.integral.project", "data_preprocessor.mean", "data_preprocessor.std")
"""MMDetection's buffers that are not weights: the values of GFL's distribution, the mean and deviation of pixels."""
PARTS = ((".conv.", ".0."), (".gn.", ".1."))
"""Parts of a block of convolution and norm; a neck's block without a norm is the convolution itself."""
OFFSETS = (".conv_offset.", ".predictor.")
"""Names of the predictor of a deformable convolution's offsets."""
RAW_VFNET = {
    "bbox_head.vfnet_cls_conv.": "head.cls_conv.",
    "bbox_head.vfnet_reg_conv.": "head.box_conv.",
    "bbox_head.vfnet_cls.": "head.cls_out.",
    "bbox_head.vfnet_reg.": "head.box_out.",
}
"""Names of raw VFNet in the authors' code, next to the names of MMDetection's FCOS, which is the same network."""
SCALE = re.compile(r"(head\.(?:refine_)?scales)\.(\d+)\.scale")
"""Factor of a level. The start of its name is already translated."""
BARE = re.compile(r"(_convs\.\d+|\.vfnet_(?:reg|cls)_conv)\.(weight|bias)$")
"""Convolution of a block in old files, whose names lack ``.conv``."""


def name_starts(experiment: Experiment) -> dict[str, str]:
    """Start of MMDetection's name → start of ours, for all tensors of the experiment's detector."""
    backbone = BACKBONES.get(experiment.backbone.name, BACKBONE)
    names = FAMILIES[experiment.detector.family].mmdetection_names(experiment)
    return backbone | NECKS[names.neck] | dict(names.head)


def renamer(experiment: Experiment) -> Callable[[str], Place | None]:
    """Return a function from MMDetection's name of a tensor to the tensor's place in the experiment's detector.

    For a name with an unknown start, the function returns None.
    """
    starts = name_starts(experiment)
    if experiment.detector.family == "vfnet" and not experiment.detector.star:
        starts = starts | RAW_VFNET
    names = FAMILIES[experiment.detector.family].mmdetection_names(experiment)
    without_norm = () if names.neck_norm else BARE_CONVS[names.neck]

    def place(name: str) -> Place | None:
        name = BARE.sub(r"\1.conv.\2", name)
        matching = [start for start in starts if name.startswith(start)]
        if not matching:
            return None
        start = max(matching, key=len)
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
