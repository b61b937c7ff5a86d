"""Box arithmetic against plain loops in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from workbench import boxes as B

PYRAMIDS = {  # canvas height and width
    "square": (128, 128),
    "tall": (320, 96),
    "wide": (64, 416),
}
STRIDES = (8, 16, 32, 64, 128)


def pyramid(canvas):
    return [(math.ceil(canvas[0] / s), math.ceil(canvas[1] / s)) for s in STRIDES]


def random_boxes(rng, *shape):
    corner = rng.uniform(-20, 100, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(0, 60, (*shape, 2))], axis=-1)


def slow_ious(a, b):
    """IoU and GIoU of two boxes, axis by axis."""
    shared, hull = 1.0, 1.0
    for low, high in ((0, 2), (1, 3)):
        shared *= max(0.0, min(a[high], b[high]) - max(a[low], b[low]))
        hull *= max(a[high], b[high]) - min(a[low], b[low])
    union = max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared, 1e-6)
    hull = max(hull, 1e-6)
    return shared / union, shared / union - (hull - union) / hull


def test_pairwise_and_aligned_agree_with_loops():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 2, 9), random_boxes(rng, 2, 7)
    ious = B.pairwise_iou(torch.tensor(a), torch.tensor(b))
    gious = B.aligned_giou(torch.tensor(a).unsqueeze(2), torch.tensor(b).unsqueeze(1))
    assert ious.shape == (2, 9, 7)
    expected = np.array([[[slow_ious(x, y) for y in b[i]] for x in a[i]] for i in range(2)])
    assert (expected[..., 0] == 0).any()
    assert (expected[..., 0] > 0.3).any()
    np.testing.assert_allclose(ious, expected[..., 0], atol=1e-12)
    np.testing.assert_allclose(gious, expected[..., 1], atol=1e-12)
    np.testing.assert_allclose(
        B.aligned_iou(torch.tensor(a[:, :7]), torch.tensor(b)), expected[:, range(7), range(7), 0]
    )


def test_published_values():
    a, b = torch.tensor([0.0, 0, 10, 10]), torch.tensor([5.0, 5, 15, 15])
    assert B.aligned_iou(a, b).item() == pytest.approx(0.142857, abs=1e-6)
    assert B.aligned_giou(a, b).item() == pytest.approx(-0.079365, abs=1e-6)
    assert B.aligned_iou(a, a).item() == B.aligned_giou(a, a).item() == 1
    assert B.area(b).item() == 100  # without +1


def test_boxes_without_area_give_finite_values_and_gradients():
    dot = torch.tensor([[3.0, 3, 3, 3]], requires_grad=True)
    loss = B.aligned_giou(dot, torch.tensor([[3.0, 3, 3, 3]])) + B.aligned_iou(dot, torch.tensor([[0.0, 0, 9, 9]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert dot.grad.isfinite().all()


def test_distances_are_encoded_and_decoded():
    point, box = torch.tensor([[10.0, 20.0]]), torch.tensor([[7.0, 18.0, 15.0, 29.0]])
    distances = B.encode_distances(point, box)
    assert distances.tolist() == [[3, 2, 5, 9]]  # l, t, r, b
    assert B.decode_distances(point, distances).tolist() == box.tolist()
    assert B.encode_distances(point, torch.tensor([[12.0, 0, 13, 1]])).tolist() == [[-2, 20, 3, -19]]


def test_clipping_uses_each_images_own_height_and_width():
    box = torch.tensor([-5.0, -6, 500, 600]).repeat(2, 3, 1)
    clipped = B.clip_boxes(box, torch.tensor([[48, 128], [300, 31]]))
    assert clipped[0].tolist() == [[0, 0, 128, 48]] * 3
    assert clipped[1].tolist() == [[0, 0, 31, 300]] * 3
    beyond = torch.tensor([[[200.0, 60, 210, 70]]])
    assert B.clip_boxes(beyond, torch.tensor([[48, 128]])).tolist() == [[[128, 48, 128, 48]]]
    short = B.clip_boxes(box, torch.tensor([[48, 128], [300, 31]]), margin=1)
    assert short[:, 0].tolist() == [[0, 0, 127, 47], [0, 0, 30, 299]]


@pytest.mark.parametrize("canvas", PYRAMIDS.values(), ids=PYRAMIDS)
def test_points_are_row_major_without_half_stride(canvas):
    shapes = pyramid(canvas)
    levels = B.pyramid_points(shapes, STRIDES, "cpu")
    for points, (rows, columns), stride in zip(levels, shapes, STRIDES, strict=True):
        assert points.dtype == torch.float32
        assert points.tolist() == [[j * stride, i * stride] for i in range(rows) for j in range(columns)]


@pytest.mark.parametrize("canvas", PYRAMIDS.values(), ids=PYRAMIDS)
def test_locations_in_images(canvas):
    """A location is inside if its row and column begin within the image's size, rounded up to a multiple of 32."""
    shapes = pyramid(canvas)
    sizes = [(canvas[0], canvas[1]), (33, 64), (canvas[0] - 31, 1), (32, canvas[1] - 32)]
    expected = [
        [
            i < math.ceil(32 * math.ceil(height / 32) / stride) and j < math.ceil(32 * math.ceil(width / 32) / stride)
            for (rows, columns), stride in zip(shapes, STRIDES, strict=True)
            for i in range(rows)
            for j in range(columns)
        ]
        for height, width in sizes
    ]
    actual = B.locations_in_images(shapes, STRIDES, torch.tensor(sizes))
    assert actual.tolist() == expected
    assert actual[0].all()
    assert not actual[1:].all(dim=1).any()


def test_number_of_points_of_the_papers_image_size():
    shapes = pyramid((800, 1088))
    assert shapes == [(100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
    assert sum(map(len, B.pyramid_points(shapes, STRIDES, "cpu"))) == 18134
    assert B.locations_in_images(shapes, STRIDES, torch.tensor([[800, 1067]])).all()
    assert sum(map(len, B.pyramid_points(pyramid((800, 1216)), STRIDES, "cpu"))) == 20267


# ------------------------------------------------------------------------------------------------ deltas, anchors


STD = (0.1, 0.1, 0.2, 0.2)


def test_deltas_agree_with_a_calculation_by_hand():
    """Anchor 20 × 40 at (20, 40); box 40 × 20 at (24, 44)."""
    anchor, box = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[4.0, 34, 44, 54]])
    deltas = [4 / 20, 4 / 40, math.log(2), -math.log(2)]
    assert B.encode_deltas(anchor, box).tolist()[0] == pytest.approx(deltas)
    assert B.encode_deltas(anchor, box, STD).tolist()[0] == pytest.approx(
        [d / s for d, s in zip(deltas, STD, strict=True)]
    )
    assert B.decode_deltas(anchor, torch.tensor([deltas])).tolist()[0] == pytest.approx(box.tolist()[0])
    assert B.decode_deltas(anchor, torch.zeros(1, 4), STD).tolist() == anchor.tolist()
    one = B.decode_deltas(anchor, torch.tensor([[1.0, -1, 0, 0]]), STD)  # a tenth of the width and of the height
    assert one.tolist()[0] == pytest.approx([12, 16, 32, 56])


@pytest.mark.parametrize("std", [(1, 1, 1, 1), STD], ids=str)
def test_encoded_deltas_are_decoded_to_the_same_boxes(std):
    rng = np.random.default_rng(3)
    anchors, boxes = random_boxes(rng, 2, 50), random_boxes(rng, 2, 50)
    anchors[..., 2:] += 4
    boxes[..., 2:] += 4
    anchors, boxes = torch.tensor(anchors), torch.tensor(boxes)
    deltas = B.encode_deltas(anchors, boxes, std)
    assert deltas.shape == (2, 50, 4)
    torch.testing.assert_close(B.decode_deltas(anchors, deltas, std), boxes)
    again = B.encode_deltas(anchors, B.decode_deltas(anchors, deltas, std), std)
    torch.testing.assert_close(again, deltas)


def test_the_growth_of_a_size_is_bounded():
    assert round(B.LARGEST_GROWTH, 3) == 4.135
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    for delta, side in ((4.0, 16 * math.exp(4)), (4.2, 1000), (50, 1000), (-4.2, 0.256), (-1e4, 0.256)):
        decoded = B.decode_deltas(anchor, torch.tensor([[0, 0, delta, -delta]]))[0]
        assert (decoded[2] - decoded[0]).item() == pytest.approx(side, rel=1e-4)
        assert (decoded[3] - decoded[1]).item() == pytest.approx(16 * 16 / side, rel=1e-4)
    # The bound applies to the delta times its deviation; shifts have no bound.
    decoded = B.decode_deltas(anchor, torch.tensor([[500.0, 0, 20, 21]]), STD)[0]
    assert (decoded[2] - decoded[0]).item() == pytest.approx(16 * math.exp(4), rel=1e-4)
    assert (decoded[3] - decoded[1]).item() == pytest.approx(1000, rel=1e-4)
    assert (decoded[2] + decoded[0]).item() / 2 == pytest.approx(8 + 50 * 16, rel=1e-4)


def test_deltas_at_the_bound_have_finite_gradients():
    deltas = torch.tensor([[3.0, -3, 1e4, -1e4]], requires_grad=True)
    B.decode_deltas(torch.tensor([[0.0, 0, 16, 16]]), deltas).square().sum().backward()
    assert deltas.grad.isfinite().all()


@pytest.mark.parametrize("canvas", PYRAMIDS.values(), ids=PYRAMIDS)
def test_anchors_and_values_of_a_level_belong_to_its_locations(canvas):
    points = B.pyramid_points(pyramid(canvas), STRIDES, "cpu")
    sides = [4.0 * s for s in STRIDES]
    expected = [
        [x - side / 2, y - side / 2, x + side / 2, y + side / 2]
        for level, side in zip(points, sides, strict=True)
        for x, y in level.tolist()
    ]
    assert B.square_anchors(torch.cat(points), B.per_location(sides, points)).tolist() == expected
    strides = B.per_location(STRIDES, points)
    assert strides.tolist() == [[s] for level, s in zip(points, STRIDES, strict=True) for _ in level]
    assert strides.dtype == torch.float32
