"""FCOS's assignment against loops over locations and objects."""

import numpy as np
import pytest
import torch

from tests.samples import CANVAS, STRIDES, level_shapes, make_batch
from workbench.assigners.fcos import FCOSAssigner, assign_fcos
from workbench.boxes import pyramid_points
from workbench.detectors import Predictions


def slow_owner(x, y, stride, low, high, boxes):
    """Index of the object that a location takes."""
    best = None
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        left, right = max(x1, cx - 1.5 * stride), min(x2, cx + 1.5 * stride)
        top, bottom = max(y1, cy - 1.5 * stride), min(y2, cy + 1.5 * stride)
        reach = max(x - x1, y - y1, x2 - x, y2 - y)
        if left < x < right and top < y < bottom and low <= reach <= high:
            size = (x2 - x1) * (y2 - y1)
            if best is None or size < best[0]:
                best = size, number
    return -1 if best is None else best[1]


@pytest.mark.parametrize("scale", [8.0, 4.0])
def test_the_rule_agrees_with_loops(scale):
    generator = np.random.default_rng(3)
    shapes = [(20, 26), (10, 13), (5, 7), (3, 4), (2, 2)]
    points = pyramid_points(shapes, STRIDES, "cpu", offset=0.5)
    # Multiples of four or of a half: distances equal the ends of ranges, and points are on sides and central squares.
    corner, side = generator.integers(-10, 150, (3, 12, 2)), generator.integers(2, 360, (3, 12, 2)) / 2
    corner[0], side[0] = corner[0] // 4 * 4, 32 * generator.integers(1, 7, (12, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + side], axis=-1)).float()
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[2, 5:] = False
    index = assign_fcos(points, STRIDES, boxes, valid, scale).index
    edges = [0, 8 * scale, 16 * scale, 32 * scale, 64 * scale, 1e8]
    for image in range(3):
        expected = [
            slow_owner(x, y, stride, low, high, boxes[image, valid[image]].double().tolist())
            for level, stride, low, high in zip(points, STRIDES, edges[:-1], edges[1:], strict=True)
            for x, y in level.tolist()
        ]
        assert index[image].tolist() == expected
    assert len(index.unique()) > 8
    none = assign_fcos(points, STRIDES, boxes[:, :0], valid[:, :0], scale).index
    assert (none == -1).all()
    assert none.shape == index.shape


def test_the_assigner_applies_the_rule_to_predictions():
    """The points, strides and objects come from the predictions and from the batch."""
    shapes = level_shapes(*CANVAS)
    points = pyramid_points(shapes, STRIDES, "cpu")
    nothing = torch.zeros(2, sum(map(len, points)), 4)
    predictions, batch = Predictions(nothing, nothing, points, shapes, STRIDES), make_batch((3, 2))
    index = FCOSAssigner(4.0)(predictions, batch).index
    assert torch.equal(index, assign_fcos(points, STRIDES, batch.boxes, batch.valid, 4.0).index)
    assert (index >= 0).any()
    assert not torch.equal(index, FCOSAssigner(8.0)(predictions, batch).index)
