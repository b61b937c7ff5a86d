"""A step has the same loss and gradients on any number of devices: those of the authors' GPUs, imitated one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.training.rank import (
    CANVAS,
    CANVASES,
    FAMILIES,
    WAYS,
    family_detector,
    family_experiment,
    make_canvases,
    run_ranks,
)
from workbench.boxes import aligned_giou, aligned_iou, clip_boxes, encode_deltas, encode_distances
from workbench.losses.regression import centerness_target, distribution_loss

CASES = [(family, *way) for family in FAMILIES for way in WAYS]
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}
OWN = ("retinanet", "foveabox", "reppoints")
"""Families whose normalisers are each GPU's own."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Results of one, two and four processes."""
    out = tmp_path_factory.mktemp("ranks")
    return run_ranks("families", (1, 2, 4), out, timeout=600)


# The authors' GPUs, one by one. A GPU has one canvas; losses are sums, and counts are what the sums are divided by.


def parts_of_gpu(family, detector, batch):
    """Name of a term → (sum of losses, its normaliser) on one GPU."""
    p = detector.predict(batch.images)
    assignment = detector.assign(p, batch)
    image, location = assignment.places
    objects, labels = assignment.gather(batch.boxes), assignment.gather(batch.labels)
    boxes, points, strides = p.boxes[image, location], p.all_points[location], p.all_strides[location]
    iou = aligned_iou(boxes.detach(), objects)
    per_image = assignment.positive.sum(1)
    count = per_image.sum() if family in ("vfnet", "fcos_atss") else per_image.clamp(min=1).sum()
    if family == "foveabox":
        clipped = clip_boxes(p.boxes.detach(), batch.sizes, p.clip_margin)[image, location]
        iou, count = aligned_iou(clipped, objects), per_image.sum() + len(per_image)
    parts = {"cls": (classification(family, detector, p, assignment, labels, iou), count)}
    giou = 1 - aligned_giou(boxes, objects)
    centerness = centerness_target(encode_distances(points, objects))
    entropy = 0 if p.quality is None else F.binary_cross_entropy_with_logits(p.quality[image, location], centerness.to(giou.dtype), reduction="sum")  # fmt: skip
    if family == "vfnet":
        initial = p.initial_boxes[image, location]
        initial_iou = aligned_iou(initial.detach(), objects)
        parts["box_initial"] = 1.5 * ((1 - aligned_giou(initial, objects)) * initial_iou).sum(), initial_iou.sum()
        parts["box"] = 2 * (giou * iou).sum(), iou.sum()
    elif family in ("fcos_atss", "atss"):
        parts["box"] = 2 * (giou * centerness).sum(), centerness.sum()
        parts["centerness"] = entropy, count
    elif family == "gfl":
        score = p.logits[image, location].detach().sigmoid().amax(-1)
        distances = (encode_distances(points, objects) / strides).clamp(0, 15.9)
        loss = distribution_loss(p.codes[image, location].unflatten(-1, (4, -1)), distances).mean(-1)
        parts["box"] = 2 * (giou * score).sum(), score.sum()
        parts["distribution"] = 0.25 * (loss * score).sum(), score.sum()
    elif family == "retinanet":
        parts["box"] = (p.codes[image, location] - encode_deltas(p.anchors[location], objects)).abs().sum(), count
    elif family == "foveabox":
        ratio = encode_distances(points, objects) / (0.25 * detector.head.code.anchor_scale * strides)
        target = ratio.clamp(1 / 16, 16).log()
        loss = F.smooth_l1_loss(p.codes[image, location], target, beta=0.11, reduction="sum")
        parts["box"] = loss, per_image.sum()
    else:
        unit = detector.objective.unit
        first = detector.objective.initial_assigner(p, batch)
        for name, weight, source, chosen in (("box_initial", 0.5, p.initial_boxes, first), ("box", 1, p.boxes, assignment)):  # fmt: skip
            i, k = chosen.places
            size = unit * p.all_strides[k]
            loss = F.smooth_l1_loss(source[i, k] / size, chosen.gather(batch.boxes) / size, beta=0.11, reduction="sum")
            parts[name] = weight * loss, chosen.positive.sum(1).clamp(min=1).sum()
    return parts


def classification(family, detector, p, assignment, labels, iou):
    """Sum of the varifocal, quality focal or focal loss over all locations that count."""
    loss = detector.objective.classification
    target = torch.zeros_like(p.logits)
    image, location = assignment.places
    least = 0 if family in ("retinanet", "reppoints") else 1e-6
    target[image, location, labels] = iou.clamp(min=least).to(target.dtype) if loss.wants_quality else 1.0
    losses = loss(p.logits, target)
    ignored = assignment.index == -3 if loss.counts_padding else assignment.index < -1
    return losses[~ignored].sum()


def imitation(family, dtype):
    """Terms of a step and gradients by name: gradients of the GPUs are averaged, as in the released code."""
    experiment = family_experiment(family)
    detector = family_detector(experiment, dtype)
    canvases = make_canvases(experiment.data.classes, CANVASES, CANVAS, dtype=dtype)
    with torch.no_grad():
        counts = [{name: count for name, (_, count) in parts_of_gpu(family, detector, c).items()} for c in canvases]
    terms = 0
    for number, canvas in enumerate(canvases):
        parts = parts_of_gpu(family, detector, canvas)
        losses = []
        for name, (total, _) in parts.items():
            normaliser = counts[number][name] if family in OWN else sum(c[name] for c in counts) / CANVASES
            least = 1e-12 if family in ("atss", "gfl", "fcos_atss") and name in ("box", "distribution") else 1
            losses.append(total / torch.as_tensor(normaliser).clamp(min=least))
        (sum(losses) / CANVASES).backward()  # gradients add up over the GPUs
        terms = terms + torch.stack(losses).detach() / CANVASES
    return terms, {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def imitations():
    return {(family, dtype): imitation(family, dtype) for family in FAMILIES for dtype in LIMITS}


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_that_of_the_authors_gpus(steps, imitations, case, ranks):
    family, dtype, _ = case
    terms, gradients = imitations[family, dtype]
    for actual_terms, actual in (result[case] for result in steps[ranks]):
        torch.testing.assert_close(actual_terms, terms, rtol=LIMITS[dtype], atol=0)
        assert actual.keys() == gradients.keys()
        for name, expected in gradients.items():
            error, size = (actual[name] - expected).norm(), expected.norm()
            assert error <= LIMITS[dtype] * size, f"{name}: {error / size:.1e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_compared_gradients_are_not_zero(imitations, family):
    _, gradients = imitations[family, torch.float64]
    assert sum(bool(g.norm() > 0) for g in gradients.values()) > 0.9 * len(gradients)


@pytest.mark.slow  # networks of full size in up to eight processes
def test_every_row_makes_a_step_at_scale_coco_on_any_number_of_devices(tmp_path):
    """Rows with canvases of four have four of them, so that they take four of eight devices."""
    steps = run_ranks("rows", (1, 2, 4, 8), tmp_path, timeout=7200)
    (alone,) = steps[1]
    assert all(terms.isfinite().all() and gradients["all"] > 0 for terms, gradients in alone.values())
    for ranks in (2, 4, 8):
        for results in steps[ranks]:
            assert len(results) == (len(alone) if ranks < 8 else sum("vfnet" in run or "atss" in run or "gfl" in run for _, run in alone))  # fmt: skip
            for case, (terms, gradients) in results.items():
                torch.testing.assert_close(terms, alone[case][0], rtol=1e-4, atol=0)
                torch.testing.assert_close(gradients["all"], alone[case][1]["all"], rtol=1e-3, atol=0)
