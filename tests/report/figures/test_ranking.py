"""Score against IoU: any number of runs and seeds, the same bytes each time, vectors in print."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from workbench.report.figures.ranking import _medians, draw_rankings
from workbench.support.errors import WorkbenchError


def cells(count=400, seed=0):
    rng = np.random.default_rng(seed)
    iou = rng.uniform(0, 1, count)
    return pd.DataFrame({"iou": iou, "score": (iou * rng.uniform(0, 1, count)).clip(0, 1)})


def draw(folder, points):
    draw_rankings(points, folder / "figures" / "a.png", folder / "figures" / "a.pdf", "Table")
    return (folder / "figures" / "a.png").read_bytes(), (folder / "figures" / "a.pdf").read_bytes()


def test_same_points_same_bytes_and_print_size(tmp_path):
    points = {f"run {i} of a name that is long": [cells(seed=s) for s in range(i % 2 + 1)] for i in range(3)}
    png, pdf = draw(tmp_path, points)
    assert (png, pdf) == draw(tmp_path, points)
    assert b"/Subtype /Image" not in pdf
    with Image.open(tmp_path / "figures" / "a.png") as image:
        assert image.width == 1400


def test_a_single_cell(tmp_path):
    png, _ = draw(tmp_path, {"run": [cells(1)], "none": [cells(0)]})
    assert png.startswith(b"\x89PNG")


def test_no_cell_at_all(tmp_path):
    with pytest.raises(WorkbenchError, match="no run has a foreground cell"):
        draw(tmp_path, {"run": [cells(0)]})
    assert not (tmp_path / "figures").exists()


def test_medians_of_the_bins_that_have_cells_enough():
    iou = [0.05] * 11 + [0.15] * 9 + [1.0] * 10
    score = [0.0] * 5 + [0.3] + [1.0] * 5 + [0.5] * 9 + [0.2] * 5 + [0.4] * 5
    middles, medians = _medians(pd.DataFrame({"iou": iou, "score": score}))
    np.testing.assert_allclose(middles, [0.05, 0.95])
    np.testing.assert_allclose(medians, [0.3, 0.3])
