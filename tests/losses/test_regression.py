"""Box losses and the centerness target against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from workbench.losses.regression import centerness_target, giou_loss


def slow_giou_loss(a, b):
    def size(box):
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    shared = size([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = size([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = size(a) + size(b) - shared
    return 1 - shared / union + (hull - union) / hull


def test_giou_loss():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 60, (2, 40, 2))
    a, b = np.concatenate([corner, corner + rng.uniform(1, 50, (2, 40, 2))], axis=-1)
    found = giou_loss(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(found, [slow_giou_loss(x, y) for x, y in zip(a, b, strict=True)], atol=1e-12)
    assert found.max() > 1  # some do not overlap
    assert giou_loss(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 15, 15]])).item() == pytest.approx(
        1.079365, abs=1e-6
    )


def test_giou_loss_pulls_a_box_towards_a_far_target():
    box = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)
    giou_loss(box, torch.tensor([[30.0, 0, 40, 10]])).sum().backward()
    assert box.grad[0, 2] < 0  # the right side must move right
    assert torch.isfinite(box.grad).all()


def test_giou_loss_of_no_boxes_keeps_the_graph():
    boxes = torch.zeros(3, 4, requires_grad=True)
    giou_loss(boxes[:0], torch.zeros(0, 4)).sum().backward()
    assert boxes.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ((5, 5, 5, 5), 1),
        ((1, 5, 4, 5), math.sqrt(1 / 4)),
        ((2, 9, 8, 1), math.sqrt(2 / 8 * 1 / 9)),
        ((3, 1, 6, 8), math.sqrt(3 / 6 * 1 / 8)),
    ],
)
def test_centerness_target(distances, expected):
    found = centerness_target(torch.tensor([distances, (1, 1, 1, 1)], dtype=torch.float64))
    assert found.tolist() == pytest.approx([expected, 1])
