"""Checkpoints as MMDetection saves them, made up for the tests."""

import re
from collections import OrderedDict

import numpy as np
import torch

from workbench.runs.load import load_run
from workbench.settings.data import COCO_NAMES

THEIRS = [  # our names → MMDetection's names; the rules are applied one after the other
    (r"^backbone\.net\.", "backbone."),
    (r"^neck\.laterals\.(\d)\.", r"neck.lateral_convs.\1.conv."),
    (r"^neck\.outputs\.(\d)\.", r"neck.fpn_convs.\1.conv."),
    (r"^neck\.extra\.0\.", "neck.fpn_convs.3.conv."),
    (r"^neck\.extra\.1\.", "neck.fpn_convs.4.conv."),
    (r"^head\.(cls|reg)_tower\.(\d)\.0\.", r"bbox_head.\1_convs.\2.conv."),
    (r"^head\.(cls|reg)_tower\.(\d)\.1\.", r"bbox_head.\1_convs.\2.gn."),
    (r"^head\.box_conv\.0\.", "bbox_head.vfnet_reg_conv.conv."),
    (r"^head\.box_conv\.1\.", "bbox_head.vfnet_reg_conv.gn."),
    (r"^head\.box_out\.", "bbox_head.vfnet_reg."),
    (r"^head\.box_star\.", "bbox_head.vfnet_reg_refine_dconv."),
    (r"^head\.refine_out\.", "bbox_head.vfnet_reg_refine."),
    (r"^head\.cls_star\.", "bbox_head.vfnet_cls_dconv."),
    (r"^head\.cls_out\.", "bbox_head.vfnet_cls."),
    (r"\.predictor\.", ".conv_offset."),
]


def published(detector):
    """Weights of a VFNet under MMDetection's names."""
    state = OrderedDict()
    for name, tensor in detector.state_dict().items():
        if name.endswith(".factors"):
            start = {"head.scales": "scales", "head.refine_scales": "scales_refine"}[name.removesuffix(".factors")]
            state.update({f"bbox_head.{start}.{i}.scale": x.clone() for i, x in enumerate(tensor)})
            continue
        for ours, theirs in THEIRS:
            name = re.sub(ours, theirs, name)
        state[name] = tensor.clone()
    return state


def of_version_2(weights, classes=COCO_NAMES):
    meta = {"mmdet_version": "2.10.0+c", "epoch": 12, "config": "model = …", "CLASSES": classes, "hook_msgs": {}}
    return {"meta": meta, "state_dict": weights, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}}}


def of_version_3(weights, history=None):
    meta = {
        "mmengine_version": "0.10.7",
        "epoch": 12,
        "dataset_meta": {"classes": COCO_NAMES, "palette": [(1, 2, 3)]},
    }
    hub = {"log_scalars": OrderedDict({"train/loss": history}), "runtime_info": OrderedDict(max_iters=np.int64(3))}
    return {"meta": meta, "state_dict": weights, "message_hub": hub, "optimizer": {}, "param_schedulers": []}


def changed(weights, rule):
    return OrderedDict((rule(name), tensor) for name, tensor in weights.items())


def other_values(weights):
    return OrderedDict((name, tensor + 1) for name, tensor in weights.items())


def assert_same(run, detector, half=False):
    loaded = load_run(run.folder, "released")
    expected = detector.state_dict()
    for name, tensor in loaded.detector.state_dict().items():
        exact = expected[name].half().float() if half and expected[name].is_floating_point() else expected[name]
        if not name.endswith("tracked"):
            assert torch.equal(tensor, exact), name
            assert tensor.dtype == expected[name].dtype
    return loaded
