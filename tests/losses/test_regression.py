"""Box losses and the centerness target against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from workbench.losses.regression import centerness_target, distribution_loss, giou_loss, smooth_l1_loss


def slow_giou_loss(a, b):
    def size(box):
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    shared = size([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    hull = size([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    union = size(a) + size(b) - shared
    return 1 - shared / union + (hull - union) / hull


def test_the_giou_loss_agrees_with_loops():
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 60, (2, 40, 2))
    a, b = np.concatenate([corner, corner + rng.uniform(1, 50, (2, 40, 2))], axis=-1)
    actual = giou_loss(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(actual, [slow_giou_loss(x, y) for x, y in zip(a, b, strict=True)], atol=1e-12)
    assert actual.max() > 1  # some pairs do not overlap
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
def test_the_centerness_target_agrees_with_the_equation(distances, expected):
    actual = centerness_target(torch.tensor([distances, (1, 1, 1, 1)], dtype=torch.float64))
    assert actual.tolist() == pytest.approx([expected, 1])


# ----------------------------------------------------------------------------------------------------- smooth L1


def slow_smooth_l1(actual, expected, beta):
    total = 0.0
    for a, b in zip(actual, expected, strict=True):
        d = abs(a - b)
        total += d - beta / 2 if d >= beta else d * d / (2 * beta)
    return total


@pytest.mark.parametrize("beta", [0, 0.11, 1.0])
def test_smooth_l1_agrees_with_loops(beta):
    rng = np.random.default_rng(2)
    actual, targets = rng.normal(0, 0.3, (2, 60, 4))
    actual[0] = targets[0]
    actual[1] = targets[1] + beta  # the end of the parabola
    x = torch.tensor(actual, requires_grad=True)
    losses = smooth_l1_loss(x, torch.tensor(targets), beta)
    expected = [slow_smooth_l1(a, b, beta) for a, b in zip(actual, targets, strict=True)]
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-12, atol=1e-15)
    assert losses[0] == 0
    losses.sum().backward()
    difference = actual - targets
    slope = np.sign(difference) if beta == 0 else np.clip(difference / beta, -1, 1)
    np.testing.assert_allclose(x.grad[2:], slope[2:], rtol=1e-12)


def test_smooth_l1_agrees_with_a_calculation_by_hand():
    losses = smooth_l1_loss(torch.tensor([[0.05, -0.11, 1, 0]]), torch.zeros(1, 4), 0.11)
    assert losses.item() == pytest.approx(0.0025 / 0.22 + 0.055 + 0.945)


# ------------------------------------------------------------------------------------- distribution focal loss


def slow_distribution_loss(logits, target):
    """Loss of one side (eq. 6): -((y_{i+1} - y) ln S_i + (y - y_i) ln S_{i+1})."""
    largest = max(logits)
    total = math.log(math.fsum(math.exp(x - largest) for x in logits)) + largest
    i = math.floor(target)
    return (i + 1 - target) * (total - logits[i]) + (target - i) * (total - logits[i + 1])


@pytest.mark.parametrize("values", [17, 13, 2])
def test_the_distribution_loss_agrees_with_the_equation(values):
    rng = np.random.default_rng(values)
    last = values - 1
    targets = np.concatenate([rng.uniform(0, last - 0.1, 40), np.arange(last), [0, 0.5, last - 0.1]])
    targets = np.resize(targets, (len(targets) // 4, 4))
    logits = rng.normal(0, 3, (*targets.shape, values))
    actual = distribution_loss(torch.tensor(logits), torch.tensor(targets))
    assert actual.shape == targets.shape
    expected = [
        [slow_distribution_loss(x, y) for x, y in zip(*rows, strict=True)] for rows in zip(logits, targets, strict=True)
    ]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    single = distribution_loss(torch.tensor(logits).float(), torch.tensor(targets).float())
    np.testing.assert_allclose(single, expected, rtol=2e-5)


def test_distribution_loss_of_uniform_logits():
    targets = torch.tensor([0, 0.3, 7, 15, 15.9])
    actual = distribution_loss(torch.zeros(5, 17), targets)
    assert actual.tolist() == pytest.approx([2.83321] * 5, abs=1e-5)


def test_the_distribution_loss_raises_the_two_values_next_to_the_target():
    logits = torch.zeros(3, 17, dtype=torch.float64, requires_grad=True)
    distribution_loss(logits, torch.tensor([4.25, 4, 15.9], dtype=torch.float64)).sum().backward()
    pull = 1 / 17 - logits.grad  # the gradient of a cross entropy is p - y
    expected = torch.zeros(3, 17, dtype=torch.float64)
    expected[0, 4], expected[0, 5], expected[1, 4], expected[2, 15], expected[2, 16] = 0.75, 0.25, 1, 0.1, 0.9
    torch.testing.assert_close(pull, expected, rtol=0, atol=1e-12)


def test_the_distribution_loss_of_no_location_keeps_the_graph():
    logits = torch.zeros(3, 4, 17, requires_grad=True)
    distribution_loss(logits[:0], torch.zeros(0, 4)).sum().backward()
    assert logits.grad.abs().sum() == 0


def test_the_distribution_loss_of_confident_logits_is_finite():
    logits = torch.tensor([[-200.0] * 16 + [200.0]], requires_grad=True)
    loss = distribution_loss(logits, torch.tensor([3.5]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(400)
    assert logits.grad.isfinite().all()
