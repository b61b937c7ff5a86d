"""Parts of several detectors against MMDetection 3.3.0: assignment of ATSS, losses and overlaps."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.parity.comparison import CLASSES, draw_boxes
from tests.parity.test_vfnet import FOCAL
from tests.samples import STRIDES
from workbench.assigners.assignment import BACKGROUND, PADDING
from workbench.assigners.atss import assign_atss
from workbench.boxes import (
    aligned_giou,
    aligned_iou,
    encode_distances,
    locations_in_images,
    pairwise_iou,
    pyramid_points,
)
from workbench.losses.classification import FocalLoss, QualityFocalLoss, VarifocalLoss
from workbench.losses.regression import giou_loss

# 4. Assignment.


def square_anchors(mm):
    return mm.task(
        {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "center_offset": 0.0,
            "strides": list(STRIDES),
        }
    )


def tied(anchors, counts, boxes, nearness=1e-5):
    """Mask of the objects that rounding decides: a candidate, the threshold or the centre test within ``nearness``."""
    anchors, boxes = anchors.double(), boxes.double()
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    result = torch.zeros(len(boxes), dtype=torch.bool)
    distance = torch.cdist((boxes[:, :2] + boxes[:, 2:]) / 2, centres, compute_mode="donot_use_mm_for_euclid_dist")
    iou = pairwise_iou(boxes, anchors)
    candidates, start = [], 0
    for count in counts:
        values, locations = distance[:, start : start + count].sort(dim=1)
        if count > 9:
            result |= (values[:, 9] - values[:, 8]) < nearness * values[:, 9]
        candidates.append(locations[:, :9] + start)
        start += count
    chosen = iou.gather(1, torch.cat(candidates, dim=1))
    threshold = chosen.mean(1) + chosen.std(1)
    result |= ((chosen - threshold[:, None]).abs() < nearness).any(1)
    margin = encode_distances(centres[torch.cat(candidates, dim=1)], boxes[:, None]).amin(-1) - 0.01
    return result | (margin.abs() < nearness * 100).any(1), iou


def test_atss_assignment_agrees(mm):
    assigner, generator = mm.task({"type": "ATSSAssigner", "topk": 9}), square_anchors(mm)
    rng = np.random.default_rng(4)
    images, positives, differing = 0, 0, 0
    while images < 240:
        sizes = rng.integers(33, 420, (3, 2))
        counts = rng.choice([0, 1, 2, 5, 20, 60], 3).tolist()
        boxes, valid = torch.zeros(3, max(counts), 4), torch.zeros(3, max(counts), dtype=torch.bool)
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True)):
            boxes[i, :count], valid[i, :count] = torch.from_numpy(draw_boxes(rng, count, *size, smallest=1.0)), True
        canvas = -(-sizes.max(0) // 32) * 32
        shapes = [tuple(int(-(-side // 8)) for side in canvas)]
        while len(shapes) < 5:
            shapes.append(tuple(-(-side // 2) for side in shapes[-1]))
        priors = generator.grid_priors(shapes, device="cpu")
        points = pyramid_points(shapes, STRIDES, "cpu")
        inside = locations_in_images(shapes, STRIDES, torch.from_numpy(sizes))
        index = assign_atss(points, [8 * s for s in STRIDES], boxes, valid, inside).index
        for level, (anchors, level_points) in enumerate(zip(priors, points, strict=True)):
            half = 4 * STRIDES[level]
            assert torch.equal(anchors, torch.cat([level_points - half, level_points + half], dim=1))
        for i, count in enumerate(counts):
            pad = tuple(int(-(-side // 32) * 32) for side in sizes[i])
            flags = generator.valid_flags(shapes, pad, device="cpu")
            keep = torch.cat(flags)
            assert torch.equal(keep, inside[i])
            per_level, anchors = [int(x.sum()) for x in flags], torch.cat(priors)[keep]
            truth = mm.Instances(bboxes=boxes[i, :count], labels=torch.zeros(count, dtype=torch.int64))
            actual = assigner.assign(mm.Instances(priors=anchors), per_level, truth).gt_inds - 1
            assert (index[i][~keep] == PADDING).all()
            our_values = index[i][keep]
            images, positives = images + 1, positives + int((actual >= 0).sum())
            if torch.equal(our_values, actual):
                continue
            differing += 1
            doubtful, iou = tied(anchors, per_level, boxes[i, :count])
            for location in (our_values != actual).nonzero().flatten().tolist():
                owners = [owner for owner in (int(our_values[location]), int(actual[location])) if owner != BACKGROUND]
                equal = len(owners) == 2 and abs(float(iou[owners[0], location] - iou[owners[1], location])) < 1e-6
                assert equal or any(doubtful[owner] for owner in owners), (images, location, owners)
    assert positives > 5000
    assert differing <= images // 50


def classification_inputs():
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(60, CLASSES, generator=generator) * 4
    labels = torch.randint(0, CLASSES + 1, (60,), generator=generator)  # the last one is background
    quality = torch.rand(60, generator=generator)
    hot = F.one_hot(labels, CLASSES + 1)[:, :CLASSES].float()
    return logits.requires_grad_(), labels, quality, hot


def assert_same_with_gradient(actual, expected, of):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    (one,), (other,) = (torch.autograd.grad(value.sum(), of) for value in (actual, expected))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("gamma", "alpha"), [(1.0, 0.5), (1.5, 0.75), (2.0, 0.75), (2.5, 1.25), (3.0, 1.0)])
@pytest.mark.parametrize("weighting", [True, False])
def test_varifocal_loss_agrees(mm, gamma, alpha, weighting):
    logits, _, quality, hot = classification_inputs()
    target = hot * quality[:, None]
    theirs = mm.model({"type": "VarifocalLoss", "alpha": alpha, "gamma": gamma, "iou_weighted": weighting})
    actual = VarifocalLoss(alpha=alpha, gamma=gamma, q_weighting=weighting)(logits, target)
    assert_same_with_gradient(actual, theirs(logits, target, reduction_override="none"), logits)


def test_focal_and_quality_focal_loss_agree(mm):
    logits, labels, quality, hot = classification_inputs()
    focal, quality_focal = mm.model(FOCAL["loss_cls"]), mm.model({"type": "QualityFocalLoss", "beta": 2.0})
    assert_same_with_gradient(FocalLoss()(logits, hot), focal(logits, labels, reduction_override="none"), logits)
    actual = QualityFocalLoss()(logits, hot * quality[:, None]).sum(1)
    assert_same_with_gradient(actual, quality_focal(logits, (labels, quality), reduction_override="none"), logits)


def test_overlaps_agree(mm):
    rng = np.random.default_rng(8)
    a, b = (torch.from_numpy(draw_boxes(rng, 400, 300, 300, smallest=0.5)) for _ in range(2))
    near = b + torch.from_numpy(rng.normal(0, 5, (400, 4)).astype(np.float32)).sort(dim=1).values  # keeps x1 < x2
    a[:300] = near[:300]
    a[0] = torch.tensor([5.0, 5.0, 5.0, 5.0])  # empty
    a.requires_grad_()
    overlaps = mm.task({"type": "BboxOverlaps2D"})
    assert_same_with_gradient(giou_loss(a, b), mm.model({"type": "GIoULoss"})(a, b, reduction_override="none"), a)
    with torch.no_grad():
        torch.testing.assert_close(aligned_iou(a, b), overlaps(a, b, "iou", True))
        torch.testing.assert_close(pairwise_iou(a, b), overlaps(a, b, "iou", False))
        torch.testing.assert_close(aligned_giou(a, b), overlaps(a, b, "giou", True))
