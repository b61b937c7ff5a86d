"""Forest plot: dots, intervals, published effects and limits at their places; the same bytes each time."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest

from tests.report.made_up import judged
from workbench.report.figures.forest import draw_forest, forest_figure
from workbench.report.figures.style import STYLE

DIFFERENCES = {
    "component_vfl": [[1.0, 1.2, 1.1, 0.9]],
    "component_star": None,
    "vfl_is_robust": [[0.1, 0.2, 0.0]] * 4,
    "oracle_true_centerness": [[1.9, 2.0, 1.8]],
    "ranking_at_iou_80": [[2.0, 2.1]],
    "control_star_points": [[3.0]],
}


def drawn(judgements):
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        figure = forest_figure(judgements, "Claims, scale mini")
        figure.draw_without_rendering()
    return figure


def markers(axis):
    """Positions of the dots and of the published effects, as (form, x)."""
    return [(line.get_marker(), float(line.get_xdata()[0])) for line in axis.lines if line.get_marker() in ("o", "D")]


def test_each_family_has_a_panel_with_its_own_axis():
    figure = drawn(judged(**DIFFERENCES))
    assert [len(axis.get_yticks()) for axis in figure.axes] == [1, 1, 1, 1, 1]
    titles = [text.get_text() for text in figure.texts if text.get_weight() == "bold"]
    assert titles[1:] == [
        "Table 3: contribution of the varifocal loss, the star convolution and the box refinement",
        "Table 2: hyper-parameters of the varifocal loss",
        "Table 1: ground truth in place of predictions at foreground cells",
        "Table 3: ranking of boxes",
        "Controls: where the star samples, a placebo, and a smaller backbone",
    ]
    assert [text.get_text() for text in figure.texts if "seed" in text.get_text()][-2:] == ["2 seeds", "1 seed"]


def test_effects_are_at_their_places():
    judgement = judged(component_vfl=DIFFERENCES["component_vfl"])[0]
    axis = drawn([judgement]).axes[0]
    assert markers(axis) == [("D", 1.1), ("o", pytest.approx(1.05))]
    interval = axis.collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(interval, [judgement.verdict.effect.low, judgement.verdict.effect.high])
    left, right = axis.get_xlim()
    assert left < 0 < interval[1] < right
    label = axis.get_yticklabels()[0].get_text()
    assert " ".join(label.split()) == "the varifocal loss instead of the focal loss raises raw VFNet's AP"


@pytest.mark.parametrize(("name", "low", "high"), [("vfl_is_robust", -1, 1), ("oracle_true_centerness", None, 3)])
def test_limits_are_grey_bands(name, low, high):
    axis = drawn(judged(**{name: DIFFERENCES[name]})).axes[0]
    (band,) = axis.patches
    assert band.get_x() == (axis.get_xlim()[0] if low is None else low)
    assert band.get_x() + band.get_width() == pytest.approx(high)


@pytest.mark.parametrize(
    ("name", "marks"),
    [("component_vfl", ["published"]), ("oracle_true_centerness", ["published", "limit of the claim"]), ("control_star_points", [])],
)  # fmt: skip
def test_the_legend_has_the_marks_that_are_drawn(name, marks):
    (legend,) = drawn(judged(**{name: DIFFERENCES[name]})).legends
    assert [text.get_text() for text in legend.get_texts()] == ["measured, 95 % interval", *marks]


def test_a_single_seed_has_a_dot_without_an_interval():
    axis = drawn(judged(control_star_points=[[3.0]])).axes[0]
    assert markers(axis) == [("o", 3.0)]
    assert not axis.collections


def test_measured_and_published_differ_without_colour():
    axis = drawn(judged(component_vfl=DIFFERENCES["component_vfl"])).axes[0]
    published, measured = (line for line in axis.lines if line.get_marker() in ("D", "o"))
    assert published.get_markerfacecolor() == "white"
    assert measured.get_markerfacecolor() == measured.get_color()


def test_without_any_run_the_figure_states_this():
    figure = drawn(judged(component_star=None))
    assert not figure.axes
    assert figure.texts[-1].get_text() == "No claim has been run yet."


def test_equal_claims_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        draw_forest(judged(**DIFFERENCES), "Claims", tmp_path / f"{name}.png", tmp_path / f"{name}.pdf")
    for form in ("png", "pdf"):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
