"""MMDetection's names of tensors → ours, as tables of the names' starts; versions 2 and 3 name them alike.

Another backbone, neck or family is one more table. Sources: the names in the state of each detector that MMDetection
builds; where a network is timm's and MMDetection's alike (ResNet), all names below it agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable

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
TOWERS = {"bbox_head.cls_convs.": "head.cls_tower.", "bbox_head.reg_convs.": "head.reg_tower."}
SCALES = {"bbox_head.scales.": "head.scales."}
HEADS = {
    "vfnet": {
        **SCALES,
        "bbox_head.scales_refine.": "head.refine_scales.",
        "bbox_head.vfnet_reg_conv.": "head.box_conv.",
        "bbox_head.vfnet_reg.": "head.box_out.",
        "bbox_head.vfnet_reg_refine_dconv.": "head.box_star.",
        "bbox_head.vfnet_reg_refine.": "head.refine_out.",
        "bbox_head.vfnet_cls_dconv.": "head.cls_star.",
        "bbox_head.vfnet_cls.": "head.cls_out.",
    },
    "fcos": {  # the head of FCOS, from which raw VFNet and FCOS + ATSS descend
        **SCALES,
        "bbox_head.conv_cls.": "head.cls_out.",
        "bbox_head.conv_reg.": "head.box_out.",
        "bbox_head.conv_centerness.": "head.centerness_out.",
    },
    "atss": {
        **SCALES,
        "bbox_head.atss_cls.": "head.cls_out.",
        "bbox_head.atss_reg.": "head.box_out.",
        "bbox_head.atss_centerness.": "head.centerness_out.",
    },
    "gfl": {**SCALES, "bbox_head.gfl_cls.": "head.cls_out.", "bbox_head.gfl_reg.": "head.box_out."},
    "retinanet": {"bbox_head.retina_cls.": "head.cls_out.", "bbox_head.retina_reg.": "head.box_out."},
    "foveabox": {"bbox_head.conv_cls.": "head.cls_out.", "bbox_head.conv_reg.": "head.box_out."},
    "reppoints": {
        "bbox_head.reppoints_pts_init_": "head.points_",
        "bbox_head.reppoints_pts_refine_": "head.refine_",
        "bbox_head.reppoints_cls_": "head.cls_",
        "bbox_head.moment_transfer": "head.moment_transfer",
    },
}
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


def head_names(experiment: Experiment) -> dict[str, str]:
    """Starts of the names of a head's tensors."""
    detector, stacked = experiment.detector, experiment.head.stacked_convs
    if detector.family == "atss" and detector.distribution is not None:
        return TOWERS | HEADS["gfl"]
    if detector.family == "vfnet" and not detector.star:  # the tower's last block is one of its own
        last = {
            f"bbox_head.cls_convs.{stacked}.": "head.cls_conv.",
            f"bbox_head.reg_convs.{stacked}.": "head.box_conv.",
        }
        return TOWERS | HEADS["fcos"] | last
    return TOWERS | HEADS[detector.family]


def neck_names(experiment: Experiment) -> tuple[dict[str, str], tuple[str, ...]]:
    """Starts of the names of a neck's tensors, and of ours for its convolutions without a norm."""
    detector = experiment.detector
    if detector.family == "vfnet" and detector.neck == "pafpn":
        return PAFPN, ("neck.laterals.",)
    return FPN, () if detector.family == "reppoints" else ("neck.",)


def renamer(experiment: Experiment) -> Callable[[str], Place | None]:
    """A function from MMDetection's name of a tensor to our place for it in the experiment's detector.

    It gives None for a name that begins like none of this detector's.
    """
    backbone = BACKBONES.get(experiment.backbone.name, BACKBONE)
    neck, without_norm = neck_names(experiment)
    starts = backbone | neck | head_names(experiment)

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
