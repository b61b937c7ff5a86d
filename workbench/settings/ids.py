"""Ids of runs and evaluations, made from their settings."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

from pydantic import BaseModel

from workbench.settings.data import EmbeddedData
from workbench.settings.digest import SplitDigest
from workbench.settings.experiment import Experiment
from workbench.settings.variant import Variant

ALWAYS_IN_ID = {"name", "kind", "family", "drawing", "world"}
"""Fields that distinguish kinds of settings or of data; part of an id even where they have their default."""
MEANINGS = {"dcn": 2}
"""Fields whose meaning has changed, with the number of their meaning. It is part of an id where a field is not default.

``dcn``: in meaning 2, kernels of a backbone start from the convolutions that they replace; in meaning 1, from random
numbers of their own.
"""
NEVER_IN_ID = {"validate_every"}
"""Fields that decide neither what is learnt nor what is measured."""


def id_settings(settings: BaseModel) -> dict[str, Any]:
    """Return the settings that an id depends on, without defaults, so that a new field with a default changes no id."""
    deciding = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        is_default = value == field.get_default(call_default_factory=True)
        if key in NEVER_IN_ID or (is_default and key not in ALWAYS_IN_ID):
            continue
        deciding[key] = id_settings(value) if isinstance(value, BaseModel) else value
        if key in MEANINGS:
            deciding[f"meaning of {key}"] = MEANINGS[key]
    return deciding


def hash8(settings: BaseModel) -> str:
    """Return eight hex digits of a digest of the settings."""
    text = json.dumps(id_settings(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_id(experiment: Experiment) -> str:
    """Return ``<name>-<hash8>``, the folder of a run. Both parts depend on the experiment alone."""
    loss = experiment.loss
    changed = [f"{key}{value}" for key, value in id_settings(loss).items() if key != "name"]
    name = "-".join([experiment.detector.title, "_".join([loss.name, *changed]), experiment.backbone.title])
    return f"{name}-{hash8(experiment)}"


def drawn_objects(experiment: Experiment) -> EmbeddedData:
    """Return the drawing of the objects that pretrain a backbone: the data set's own one, or the default one."""
    return experiment.data if isinstance(experiment.data, EmbeddedData) else EmbeddedData()


def pretraining_id(experiment: Experiment) -> str:
    """Return ``<backbone>-<hash8>``, the name of a backbone's weights that are pretrained on drawn objects.

    The name depends on all that decides the weights: the network, the recipe, and the categories with their drawing.
    """
    settings, data = experiment.backbone, drawn_objects(experiment)
    deciding = [
        {key: value for key, value in id_settings(settings).items() if key in ("name", "layers", "channels", "stem")},
        settings.pretrained.model_dump(),
        {key: value for key, value in data.model_dump().items() if key in ("kind", "drawing", "varied")},
    ]
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
    return f"{settings.name}-{digest[:8]}"


@cache
def variant_id(variant: Variant) -> str:
    """Return the id of a variant, the first part of the folder of an evaluation."""
    nms = "nms" if variant.nms == "hard" else f"{variant.nms}_nms"
    parts = [f"{nms}{variant.nms_iou:g}", str(variant.image)]
    if not variant.centerness:
        parts.append("without_centerness")
    if variant.oracle:
        parts.append(variant.oracle.title)
    return "-".join([*parts, hash8(variant)])


def evaluation_id(variant: Variant, split: SplitDigest | None, name: str = "val") -> str:
    """Return the folder of an evaluation within a training: its variant, and the content of the evaluated split.

    Args:
        split: None if no data set was named; the id is then provisional.
        name: ``val`` or ``test``. The name ``test`` is part of the id, so that two splits with equal files have two
            folders.
    """
    parts = [variant_id(variant), *([name] if name != "val" else []), *([split.short] if split else [])]
    return "-".join(parts)
