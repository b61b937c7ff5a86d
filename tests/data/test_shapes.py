"""Outlines, regions and their painting: sizes, differences of masks, clipping, and COCO's run lengths."""

import numpy as np
import pytest

from workbench.data import painting, shapes


def test_painting_changes_the_pixels_of_the_mask_only():
    rng = np.random.Generator(np.random.PCG64(0))
    for name in shapes.OUTLINES:
        points = shapes.outline(name, rng, 280, 1.4, 0.3, 0.1) + np.array([24, 20])  # too small for a shadow
        region = shapes.draw_region([points], 48, 40)
        canvas = np.full((40, 48, 3), 128, np.float32)
        painting.paint_object(rng, canvas, region, points, "checked", 0.2)
        x, y, w, h = region.box()
        rows, columns = np.nonzero(np.abs(canvas - 128).max(axis=-1) > 0.5)
        assert (columns.min(), rows.min()) == (int(x), int(y))
        assert (columns.max() + 1, rows.max() + 1) == (np.ceil(x + w - 1e-9), np.ceil(y + h - 1e-9))


def test_clipping_an_outline_keeps_the_part_inside():
    points = np.array([[-30.0, 10], [70, -20], [35, 80]])
    clipped = shapes.clip_outline(points, 48, 40)
    assert clipped.min() >= 0
    assert (clipped <= [48, 40]).all()
    whole, part = (shapes.draw_region([p], 48, 40).mask for p in (points, clipped))
    assert (whole != part).mean() < 0.01


@pytest.mark.parametrize("name", shapes.OUTLINES)
def test_an_outline_has_the_area_of_its_box_and_the_centre_0(name):
    rng = np.random.default_rng(0)
    for aspect, angle, bend in [(1, 0, 0), (4, 0.7, 0.25), (1 / 6, -2.5, -0.25)]:
        points = shapes.outline(name, rng, 900.0, aspect, angle, bend)
        assert np.ptp(points, axis=0).prod() == pytest.approx(900)
        assert points.min(axis=0) + points.max(axis=0) == pytest.approx(0, abs=1e-9)


def test_a_region_without_another_one_is_the_difference_of_their_masks():
    rng, size = np.random.default_rng(1), (60, 50)
    for _ in range(50):
        places = rng.uniform(-5, 60, (2, 2))
        regions = [
            shapes.draw_region([shapes.outline("star", rng, rng.uniform(50, 900), 1, 0) + place], *size)
            for place in places
        ]
        full = []
        for region in [*regions, regions[0].without(regions[1])]:
            mask = np.zeros((size[1] * shapes.FINE, size[0] * shapes.FINE), bool)
            y, x = region.y * shapes.FINE, region.x * shapes.FINE
            mask[y : y + region.mask.shape[0], x : x + region.mask.shape[1]] = region.mask
            full.append(mask)
        assert (full[2] == (full[0] & ~full[1])).all()


def test_run_lengths_start_with_zeros():
    mask = np.array([[True, False], [True, True]])
    assert shapes.run_lengths(mask) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
    assert shapes.run_lengths(~mask) == {"size": [2, 2], "counts": [2, 1, 1]}
