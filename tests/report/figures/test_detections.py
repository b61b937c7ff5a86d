"""Detections on images: boxes and texts are drawn, the rest of the image is unchanged."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from workbench.report.figures.detections import _colour, _fitted, draw_detections, draw_objects
from workbench.report.figures.fonts import Pen

NAMES = ["cube", "ball", "ring"]
GREY = (90, 90, 90)


def changed(image, boxes, scores=None, labels=None, **options):
    """Return the drawing, and a mask of the pixels that are no longer grey."""
    scores = [0.9] * len(boxes) if scores is None else scores
    drawn = draw_detections(image, boxes, scores, labels or [0] * len(boxes), NAMES, **options)
    return drawn, (np.asarray(drawn) != GREY).any(axis=2)


@pytest.mark.parametrize(("size", "factor"), [((192, 192), 4), ((100, 40), 7), ((640, 480), 1), ((1333, 800), 1)])
def test_small_images_are_enlarged_by_an_integer_factor(size, factor):
    drawn, _ = changed(Image.new("RGB", size, GREY), [[10, 10, 30, 30]])
    assert drawn.size == (size[0] * factor, size[1] * factor)
    assert drawn.mode == "RGB"


def test_only_the_box_and_its_text_are_drawn():
    image = Image.new("RGB", (800, 600), GREY)
    drawn, mask = changed(image, [[100, 200, 300, 400]], labels=[1])
    pixels = np.asarray(drawn)
    for y, x in [(200, 299), (399, 299), (399, 100), (300, 100), (300, 299)]:
        assert tuple(pixels[y, x]) == _colour(1)
    assert not mask[205:395, 105:295].any()  # the text is above the box, not inside it
    assert not mask[400:].any()
    assert not mask[:, 300:].any()
    assert image.getpixel((100, 300)) == GREY  # the input is unchanged


def test_low_scores_and_boxes_outside_the_image_are_left_out():
    image = Image.new("RGB", (800, 600), GREY)
    outside = [[-50, -50, -1, -1], [800, 10, 900, 50], [50, 50, 50, 80], [np.nan, 0, 10, 10]]
    assert not changed(image, outside)[1].any()
    assert not changed(image, [[10, 10, 50, 50]], [0.29])[1].any()
    assert changed(image, [[10, 10, 50, 50]], [0.29], min_score=0.2)[1].any()


def test_box_across_the_border_is_cut_and_its_text_stays_inside():
    for box in ([-30, -30, 60, 60], [780, 580, 900, 900], [-10, -10, 1000, 1000]):
        drawn, mask = changed(Image.new("RGB", (800, 600), GREY), [box])
        assert drawn.size == (800, 600)
        assert mask.sum() > 1000  # at least the background of the text


def test_labels_do_not_cover_each_other():
    """Both texts of two equal boxes are legible, so they fill twice the area of one text."""
    image = Image.new("RGB", (800, 600), GREY)
    one = changed(image, [[300, 300, 500, 400]])[1].sum()
    box_alone = 2 * 2 * (200 + 100) - 16
    two = changed(image, [[300, 300, 500, 400]] * 2)[1].sum()
    assert two - box_alone > 1.6 * (one - box_alone)


def test_an_image_of_any_mode_without_detections_becomes_rgb():
    for mode in ("L", "RGBA", "P"):
        drawn = draw_detections(Image.new(mode, (700, 500)), np.zeros((0, 4)), [], [], NAMES)
        assert (drawn.mode, drawn.size) == ("RGB", (700, 500))


def test_neighbouring_classes_have_distant_colours():
    colours = np.array([_colour(label) for label in range(20)], dtype=float)
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 150
    assert len({tuple(c) for c in colours}) == 20


@pytest.mark.parametrize("size", [(800, 600), (4000, 3000), (8000, 1000), (1000, 8000)])
def test_lines_and_text_are_in_proportion_to_the_image(size):
    side = (size[0] * size[1]) ** 0.5
    box = [size[0] * 0.1, size[1] * 0.4, size[0] * 0.9, size[1] * 0.9]
    mask = changed(Image.new("RGB", size, GREY), [box])[1]
    lines = mask[round(size[1] * 0.5) :, size[0] // 2].sum()
    assert lines == pytest.approx(side / 400, abs=1)
    text = mask[: round(box[1]) - 1].any(axis=1).sum()
    assert 0.02 * side < text < 0.035 * side


@pytest.mark.parametrize("name", ["x" * 40, "猫" * 20, "two words " * 4])
def test_a_long_name_is_shortened_to_the_width_and_leaves_space_for_the_score(name):
    pen = Pen(ImageDraw.Draw(Image.new("RGB", (100, 800))), 13)
    text = _fitted(pen, name, " 0.00", 80)
    assert "…" in text
    assert pen.length(f"{text} 0.90") <= 80
    assert _fitted(pen, name, " 0.00", 1000) == name


def objects(boxes, labels=None, crowd=None):
    """Mask of the pixels that a drawing of true boxes changes."""
    image = Image.new("RGB", (800, 600), GREY)
    labels, crowd = labels or [0] * len(boxes), crowd or [False] * len(boxes)
    return (np.asarray(draw_objects(image, boxes, labels, crowd, NAMES)) != GREY).any(axis=2)


def test_true_boxes_have_names_without_scores():
    box = [[100, 200, 300, 400]]
    with_score = changed(Image.new("RGB", (800, 600), GREY), box)[1]
    plain, crowd = objects(box), objects(box, crowd=[True])
    assert plain.sum() < with_score.sum()
    assert crowd.sum() > plain.sum()
    assert plain[399, 100:300].all()


def test_the_smaller_of_two_true_boxes_is_on_top():
    boxes = [[100, 200, 200, 300], [100, 100, 400, 300]]
    image = draw_objects(Image.new("RGB", (800, 600), GREY), boxes, [0, 1], [False, False], NAMES)
    assert image.getpixel((150, 299)) == _colour(0)
    assert image.getpixel((300, 299)) == _colour(1)


def test_of_many_true_boxes_only_the_largest_of_a_class_has_a_text():
    few = [[70 * i, 300, 70 * i + 60, 330] for i in range(10)]
    texts = objects(few)[:300].sum()  # the texts are above the boxes
    larger = [[700, 300, 790, 360]]
    many = objects([*few, *larger])[:300]
    assert 0 < many.sum() < texts / 5
    assert not many[:, :690].any()
