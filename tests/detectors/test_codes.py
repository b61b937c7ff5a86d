"""Box codes: a box that is encoded and decoded is the same box, at any stride."""

from __future__ import annotations

import pytest
import torch

from workbench.detectors.codes import DistanceDistributions, LogDistances, SquareAnchorDeltas

POINTS = torch.tensor([[8.0, 16], [32, 32], [64, 0]])
STRIDES = torch.tensor([[8.0], [16], [32]])
BOXES = torch.tensor([[3.0, 4, 20, 40], [10, 12, 90, 70], [16, -50, 150, 100]])


@pytest.mark.parametrize(
    "code", [SquareAnchorDeltas(8.0), SquareAnchorDeltas(4.0), LogDistances(8.0), LogDistances(4.0)]
)
def test_encoded_boxes_are_decoded_to_the_same_boxes(code):
    codes = code.encode(BOXES, POINTS, STRIDES)
    assert codes.shape == (3, code.size)
    torch.testing.assert_close(code.decode(codes, POINTS, STRIDES), BOXES, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("code", [SquareAnchorDeltas(4.0), LogDistances(4.0), DistanceDistributions(16, 0.5)])
def test_boxes_scale_with_the_stride(code):
    """The same codes on the next level give boxes of twice the size."""
    codes = torch.randn(3, code.size, generator=torch.Generator().manual_seed(0))
    one, two = code.decode(codes, POINTS, STRIDES), code.decode(codes, 2 * POINTS, 2 * STRIDES)
    torch.testing.assert_close(two, 2 * one)


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_a_certain_distribution_is_decoded_to_the_encoded_box(interval):
    """Targets are in intervals; a distribution that is certain of whole targets has them as its expectation."""
    code = DistanceDistributions(16, interval)
    boxes = torch.cat([POINTS - 3 * STRIDES, POINTS + 2 * STRIDES], dim=1)
    steps = code.encode(boxes, POINTS, STRIDES)
    assert steps.tolist() == [[3 / interval, 3 / interval, 2 / interval, 2 / interval]] * 3
    codes = torch.full((3, 4, 17), -torch.inf).scatter(2, steps.long().unsqueeze(-1), 0).flatten(1)
    torch.testing.assert_close(code.decode(codes, POINTS, STRIDES), boxes)


def test_targets_of_distributions_end_before_the_last_value():
    far = torch.cat([POINTS - 100 * STRIDES, POINTS + 100 * STRIDES], dim=1)
    assert DistanceDistributions(16, 1.0).encode(far, POINTS, STRIDES).flatten().tolist() == pytest.approx([15.9] * 12)
