"""Parts of every family: settings, builder, and names in MMDetection. If a part is missing, the test names the part."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import pytest

from tests.samples import make_experiment
from workbench.detectors import FAMILIES, Family, build_detector
from workbench.losses.classification import CLASSIFICATION_LOSSES
from workbench.settings.base import Settings
from workbench.settings.detectors import AnyDetector, VFNet
from workbench.settings.experiment import Head
from workbench.weights.mmdet_names import name_starts

HEAD = Head(channels=8, norm_groups=4, stacked_convs=1, anchor_scale=4.0, init_std=0.1)
FACTS = ("title", "nms_iou", "centerness")
"""Attributes of every family's settings, which run names, post-processing and evaluations read."""


def settings_classes() -> tuple[type[Settings], ...]:
    """Settings of all families."""
    return get_args(get_args(AnyDetector)[0])


def missing_parts(classes: tuple[type[Settings], ...], families: dict[str, Family]) -> list[str]:
    """One line for each part that a family lacks."""
    lines = []
    names = {cls.model_fields["family"].default: cls for cls in classes}
    lines += [f"{name}: no settings class in AnyDetector" for name in families if name not in names]
    for name, cls in names.items():
        lines += [f"{name}: {cls.__name__} has no {fact}" for fact in FACTS if not _has(cls, fact)]
        family = families.get(name)
        if family is None:
            lines.append(f"{name}: no entry in workbench.detectors.FAMILIES")
            continue
        if family.settings is not cls:
            lines.append(f"{name}: the entry's settings are {family.settings.__name__}, not {cls.__name__}")
        if not callable(family.build):
            lines.append(f"{name}: no builder")
        if not callable(family.mmdetection_names):
            lines.append(f"{name}: no names in MMDetection")
    return lines


def _has(cls: type[Settings], fact: str) -> bool:
    return hasattr(cls, fact) or fact in cls.model_fields


def nameless_tensors(experiment, detector) -> list[str]:
    """Tensors of a detector for which no start of a name in MMDetection is stated."""
    ours = tuple(name_starts(experiment).values())
    return [name for name in detector.state_dict() if not name.startswith(ours)]


def test_no_family_lacks_a_part():
    assert missing_parts(settings_classes(), FAMILIES) == []


class Incomplete(Settings):
    """Settings of a family without anything else."""

    family: Literal["incomplete"] = "incomplete"


@pytest.mark.parametrize(
    ("family", "lines"),
    [
        (None, ["no entry in workbench.detectors.FAMILIES"]),
        (Family(Incomplete, None, None), ["no builder", "no names in MMDetection"]),
        (Family(Incomplete, print, None), ["no names in MMDetection"]),
        (Family(VFNet, print, print), ["the entry's settings are VFNet, not Incomplete"]),
    ],
)
def test_a_missing_part_is_named(family, lines):
    families = FAMILIES | ({} if family is None else {"incomplete": family})
    facts = [f"incomplete: Incomplete has no {fact}" for fact in FACTS]
    expected = facts + [f"incomplete: {line}" for line in lines]
    assert missing_parts((*settings_classes(), Incomplete), families) == expected


def test_a_family_without_settings_is_named():
    lines = missing_parts(settings_classes(), FAMILIES | {"incomplete": Family(Incomplete, print, print)})
    assert lines == ["incomplete: no settings class in AnyDetector"]


def test_a_tensor_without_a_name_in_mmdetection_is_named(monkeypatch):
    experiment = make_experiment(VFNet(), CLASSIFICATION_LOSSES["varifocal"](), HEAD)
    family = FAMILIES["vfnet"]

    def names(experiment):
        complete = family.mmdetection_names(experiment)
        head = {theirs: ours for theirs, ours in complete.head.items() if ours != "head.cls_star."}
        return dataclasses.replace(complete, head=head)

    monkeypatch.setitem(FAMILIES, "vfnet", dataclasses.replace(family, mmdetection_names=names))
    assert nameless_tensors(experiment, build_detector(experiment)) == ["head.cls_star.weight"]
