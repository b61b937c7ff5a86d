"""Ids of runs and evaluations, made of their content."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel

from workbench.settings.experiment import Experiment
from workbench.settings.variant import Variant

ALWAYS_SAID = {"name", "kind", "family", "drawing"}
"""Fields that tell one kind of settings from another: part of an id though they are defaults."""
DECIDES_NOTHING = {"validate_every"}


def essence(settings: BaseModel) -> dict[str, Any]:
    """The settings that decide something, defaults left out, so that a new field with a default changes no id."""
    said = {}
    for key, field in type(settings).model_fields.items():
        value = getattr(settings, key)
        if key in DECIDES_NOTHING or (value == field.get_default(call_default_factory=True) and key not in ALWAYS_SAID):
            continue
        said[key] = essence(value) if isinstance(value, BaseModel) else value
    return said


def hash8(settings: BaseModel) -> str:
    """Eight hex digits of a digest of the essence."""
    text = json.dumps(essence(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_id(experiment: Experiment) -> str:
    """``<name>-<hash8>``, the folder of a run; the name too is made of the experiment, so equal ones share it."""
    loss = experiment.loss
    changed = [f"{key}{value}" for key, value in essence(loss).items() if key != "name"]
    name = "-".join([experiment.detector.title, "_".join([loss.name, *changed]), experiment.backbone.title])
    return f"{name}-{hash8(experiment)}"


def variant_id(variant: Variant) -> str:
    """The folder of an evaluation within a run's seed."""
    nms = "nms" if variant.nms == "hard" else f"{variant.nms}_nms"
    said = [f"{nms}{variant.nms_iou:g}", str(variant.image)]
    if not variant.centerness:
        said.append("without_centerness")
    if variant.oracle:
        said.append(variant.oracle.title)
    return "-".join([*said, hash8(variant)])
