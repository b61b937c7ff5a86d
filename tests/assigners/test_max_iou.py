"""Assignment by IoU against its definition in loops over images, objects and anchors, in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.assigners.padded import pad
from tests.detectors.slow import slow_iou
from workbench.assigners import max_iou
from workbench.assigners.assignment import BACKGROUND, IGNORE
from workbench.assigners.max_iou import assign_max_iou
from workbench.boxes import locations_in_images, pyramid_points
from workbench.detectors.retinanet import AnchorGrid

STRIDES = (8, 16, 32, 64, 128)
NEAR = 1e-5
"""Difference up to which rounding may decide, if numbers are not exact."""


def slow_max_iou(anchors, boxes, inside, near=0.0):
    """Allowed indices of each anchor of one image; more than one if comparisons within ``near`` decide."""
    table = [[slow_iou(a, box) if here else None for a, here in zip(anchors, inside, strict=True)] for box in boxes]
    allowed = []
    for a, here in enumerate(inside):
        if not here:
            allowed.append({IGNORE})
            continue
        best = max((row[a] for row in table), default=-1.0)
        owners = [g for g, row in enumerate(table) if row[a] >= best - near]
        may = {BACKGROUND} if best < 0.4 + near else set()
        may |= {IGNORE} if 0.4 - near <= best < 0.5 + near else set()
        may |= set(owners if near else owners[:1]) if best >= 0.5 - near else set()
        allowed.append(may)
    for g, row in enumerate(table):
        largest = max((value for value in row if value is not None), default=None)
        tied = [a for a, value in enumerate(row) if value is not None and value >= largest - near]
        for a in tied:
            sure = near == 0 or len(tied) == 1
            allowed[a] = {g} if sure else allowed[a] | {g}
    return allowed


# -------------------------------------------------------------------------- exact: small whole numbers, any boxes


def whole_boxes(rng, count, side=24, empty=False):
    """Boxes with corners on whole pixels: the order and the ties of their IoUs are the same in single precision."""
    corners = rng.integers(0, side, (count, 2))
    size = rng.integers(0 if empty else 1, side, (count, 2))
    return np.concatenate([corners, np.minimum(corners + size, side + 4)], axis=1).astype(np.float32)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("pairs", [2**22, 500, 1])
def test_the_assignment_of_boxes_on_whole_pixels_agrees_with_loops(monkeypatch, pairs, per_image):
    """The samples have ties, objects without overlap, empty boxes, and images without objects or anchors."""
    monkeypatch.setattr(max_iou, "PAIRS", pairs)
    rng = np.random.default_rng(pairs)
    seen = dict.fromkeys(("taken", "ignored", "forced", "apart"), 0)
    for repeat in range(60):
        counts = [[3, 0], [0, 0, 0], [1, 7, 40], [200 if repeat < 4 else 12, 5]][repeat % 4]
        boxes = [whole_boxes(rng, n, empty=repeat % 3 == 0) for n in counts]
        boxes = [np.concatenate([own, own[: len(own) // 2]]) for own in boxes]  # some occur twice
        if repeat % 5 == 0:
            boxes[0] = boxes[0] + 100  # far from all anchors
        anchors = np.stack([whole_boxes(rng, 90, empty=repeat % 3 == 0) for _ in counts])
        anchors[:, 45:] = anchors[:, :45]
        inside = rng.random((len(counts), 90)) < (0.8 if repeat % 7 else 0)
        given = torch.from_numpy(anchors if per_image else anchors[0])
        actual = assign_max_iou(given, *pad(boxes), torch.from_numpy(inside)).index
        for b in range(len(counts)):
            own = anchors[b if per_image else 0].tolist()
            allowed = slow_max_iou(own, boxes[b].tolist(), inside[b])
            expected = [value for (value,) in allowed]
            assert actual[b].tolist() == expected
            claimed = [slow_iou(own[a], boxes[b][g]) for a, g in enumerate(expected) if g >= 0]
            seen["taken"] += len(claimed)
            seen["ignored"] += sum(i == IGNORE and here for i, here in zip(expected, inside[b], strict=True))
            seen["forced"] += sum(0 < value < 0.5 for value in claimed)
            seen["apart"] += claimed.count(0)
    assert min(seen.values()) > 50, seen


# -------------------------------------------------------------------------------------------- anchors of a pyramid


def objects(rng, count, canvas, kind):
    """Boxes of many sizes; some reach beyond the image."""
    if kind == "borders":  # half-way between the anchors of two levels, or of two octaves
        ratio = rng.choice([0.5, 1, 2], count) ** 0.5
        side = 4 * rng.choice(STRIDES[:3], count) * 2 ** rng.choice([5 / 6, 1 / 2, 1 / 6], count)
        wh = np.stack([side / ratio, side * ratio], axis=1)
        centre = (
            rng.integers(0, np.array(canvas[::-1]) // 4 + 1, (count, 2)) * 4
        )  # on the locations' points and between them
    else:
        side = {"any": (1, max(canvas)), "tiny": (1, 16), "long": (2, max(canvas))}[kind]
        wh = np.exp(rng.uniform(*np.log(side), (count, 2)))
        if kind == "long":
            wh[np.arange(count), rng.integers(0, 2, count)] = 2
        centre = rng.uniform(-0.1, 1.1, (count, 2)) * canvas[::-1]
    return np.concatenate([centre - wh / 2, centre + wh / 2], axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", ["any", "tiny", "long", "borders"])
@pytest.mark.parametrize("canvas", [(96, 96), (160, 64), (64, 192)], ids=lambda c: f"{c[0]}x{c[1]}")
def test_the_assignment_to_anchors_agrees_with_loops(canvas, kind):
    """Anchors of RetinaNet, in batches of two or three images of different sizes."""
    rng = np.random.default_rng([*canvas, len(kind)])
    shapes = [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]
    points = pyramid_points(shapes, STRIDES, "cpu")
    sure = positives = 0
    for repeat, counts in enumerate([[2, 0], [8, 30, 0], [0, 0], [1, 1], [200, 5]]):
        anchors = AnchorGrid((4, 2)[repeat % 2])(points, STRIDES)
        sizes = [canvas] + [tuple(int(rng.integers(1, side + 1)) for side in canvas) for _ in counts[1:]]
        boxes = [objects(rng, n, canvas, kind) for n in counts]
        inside = locations_in_images(shapes, STRIDES, torch.tensor(sizes)).repeat_interleave(9, dim=1)
        actual = assign_max_iou(anchors, *pad(boxes), inside).index
        for b in range(len(counts)):
            allowed = slow_max_iou(anchors.tolist(), boxes[b].tolist(), inside[b].tolist(), NEAR)
            assert all(index in may for index, may in zip(actual[b].tolist(), allowed, strict=True))
            sure += sum(len(may) == 1 and max(may) >= 0 for may in allowed)
            positives += int((actual[b] >= 0).sum())
    assert positives > 200
    assert (
        sure > (0.02 if kind in ("tiny", "long") else 0.4) * positives
    )  # an object inside many anchors ties with them


# ------------------------------------------------------------------------------------------------------ one by one


def of_one_image(anchors, boxes, **thresholds):
    anchors = torch.tensor(anchors)
    locations = torch.ones(1, len(anchors), dtype=torch.bool)
    return assign_max_iou(anchors, *pad([np.array(boxes)]), locations, **thresholds).index[0].tolist()


TEN = [0.0, 0, 10, 10]


def test_both_thresholds():
    """Heights are IoUs with the last object, which has a larger IoU with another anchor."""
    anchors = [TEN, [0.0, 0, 10, 5], [0.0, 0, 10, 4.99], [0.0, 0, 10, 4], [0.0, 0, 10, 3.99]]
    assert of_one_image(anchors, [TEN]) == [0, 0, IGNORE, IGNORE, BACKGROUND]
    assert of_one_image(anchors, [TEN], negative=0.45, positive=0.6) == [0, IGNORE, IGNORE, BACKGROUND, BACKGROUND]


def test_every_tied_anchor_is_claimed_however_small_the_iou():
    anchors = [[0.0, 0, 10, 1], [0.0, 9, 10, 10], [0.0, 0, 5, 1], [20.0, 20, 30, 30]]
    assert of_one_image(anchors, [TEN]) == [0, 0, BACKGROUND, BACKGROUND]


def test_a_claim_overrides_a_better_owner_and_an_earlier_claim():
    wide, narrow = [0.0, 0, 10, 10], [0.0, 0, 10, 2]
    assert of_one_image([TEN], [wide, narrow]) == [1]  # the only anchor for the narrow object
    assert of_one_image([TEN], [narrow, wide]) == [1]
    assert of_one_image([TEN, [0.0, 0, 10, 9]], [wide, narrow]) == [0, 1]


def test_the_first_of_equal_objects_owns_and_the_last_of_them_claims():
    assert of_one_image([TEN, [0.0, 0, 10, 9]], [TEN, TEN]) == [1, 0]


def test_an_object_without_overlap_claims_all_anchors_without_overlap():
    assert of_one_image([TEN, [5.0, 5, 15, 15]], [TEN, [100.0, 100, 110, 110]]) == [1, 1]


def test_padding_claims_nothing_and_anchors_outside_stay_out():
    anchors = torch.tensor([TEN, [0.0, 0, 10, 9], [50.0, 50, 60, 60], [0.0, 0, 0, 0]])
    boxes, valid = pad([np.array([TEN]), np.zeros((0, 4))])
    boxes, valid = torch.cat([boxes, boxes * 0], dim=1), torch.cat([valid, ~valid & False], dim=1)
    locations = torch.tensor([[False, True, True, True], [True, False, True, True]])
    index = assign_max_iou(anchors, boxes, valid, locations).index
    assert index.tolist() == [[IGNORE, 0, BACKGROUND, BACKGROUND], [BACKGROUND, IGNORE, BACKGROUND, BACKGROUND]]


def test_a_thousand_objects_are_assigned_in_parts(monkeypatch):
    sizes = []

    def counted(a, b):
        sizes.append(a.shape[0] * a.shape[1] * b.shape[-2])
        return exact(a, b)

    exact = max_iou.pairwise_iou
    monkeypatch.setattr(max_iou, "pairwise_iou", counted)
    monkeypatch.setattr(max_iou, "PAIRS", 2**16)
    rng = np.random.default_rng(0)
    anchors, boxes = (torch.from_numpy(objects(rng, n, (300, 300), "any")) for n in (5000, 2000))
    locations = torch.ones(2, 5000, dtype=torch.bool)
    index = assign_max_iou(anchors, boxes.view(2, 1000, 4), torch.ones(2, 1000, dtype=torch.bool), locations).index
    assert max(sizes) <= 2**16
    assert sum(sizes) == 2 * 5000 * 1000
    monkeypatch.setattr(max_iou, "PAIRS", 2**30)
    whole = assign_max_iou(anchors, boxes.view(2, 1000, 4), torch.ones(2, 1000, dtype=torch.bool), locations).index
    assert torch.equal(index, whole)
    assert index.unique().numel() > 900
