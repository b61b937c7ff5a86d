"""Score against IoU: any number of runs and seeds, the same bytes each time, vectors in the PDF."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.report.odd_text import ODD_TEXTS
from workbench.report.figures.fonts import drawable
from workbench.report.figures.ranking import _figure, _medians, draw_rankings
from workbench.report.figures.style import STYLE
from workbench.support.errors import WorkbenchError


def locations(count=400, seed=0):
    rng = np.random.default_rng(seed)
    iou = rng.uniform(0, 1, count)
    return pd.DataFrame({"iou": iou, "score": (iou * rng.uniform(0, 1, count)).clip(0, 1)})


def draw(folder, points):
    draw_rankings(points, folder / "figures" / "a.png", folder / "figures" / "a.pdf", "Table")
    return (folder / "figures" / "a.png").read_bytes(), (folder / "figures" / "a.pdf").read_bytes()


def test_the_same_points_give_the_same_bytes(tmp_path):
    points = {f"run {i} of a name that is long": [locations(seed=s) for s in range(i % 2 + 1)] for i in range(3)}
    png, pdf = draw(tmp_path, points)
    assert (png, pdf) == draw(tmp_path, points)
    assert b"/Subtype /Image" not in pdf
    with Image.open(tmp_path / "figures" / "a.png") as image:
        assert image.width == 1400


def test_a_single_location_is_drawn(tmp_path):
    png, _ = draw(tmp_path, {"run": [locations(1)], "no location": [locations(0)]})
    assert png.startswith(b"\x89PNG")


def test_runs_without_locations_are_an_error(tmp_path):
    with pytest.raises(WorkbenchError, match="no run has a foreground location; use images with objects"):
        draw(tmp_path, {"run": [locations(0)]})
    assert not (tmp_path / "figures").exists()


def test_only_bins_with_enough_locations_have_a_median():
    iou = [0.05] * 11 + [0.15] * 9 + [1.0] * 10
    score = [0.0] * 5 + [0.3] + [1.0] * 5 + [0.5] * 9 + [0.2] * 5 + [0.4] * 5
    middles, medians = _medians(pd.DataFrame({"iou": iou, "score": score}))
    np.testing.assert_allclose(middles, [0.05, 0.95])
    np.testing.assert_allclose(medians, [0.3, 0.3])


def test_odd_names_are_drawn_without_formulas(tmp_path):
    names = ["formula of TeX", "HTML", "100 letters", "Chinese", "newline", "hidden from a legend"]
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        draw(tmp_path, {ODD_TEXTS[name]: [locations()] for name in names})
        figure = _figure({drawable(ODD_TEXTS[name]): [locations()] for name in names}, "Table")
        figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels(which="both")]  # of the colour bar
    assert labels
    assert not any("$" in label for label in labels)
