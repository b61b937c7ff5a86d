"""Loss curves: any number of rows and seeds, different terms, gaps, and the same bytes each time."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.report.odd_text import ODD_TEXTS
from workbench.report.figures.curves import _caption, _curve, _epochs, _panels, _style, draw_loss_curves, loss_figure
from workbench.report.figures.style import STYLE, WIDTH
from workbench.support.errors import WorkbenchError


def train_csv(steps=120, steps_per_epoch=20, every=2, terms=("loss_cls", "loss_box"), seed=0, first_epoch=1):
    random = np.random.default_rng(seed)
    step = np.arange(every, steps + 1, every)
    losses = {term: np.exp(-step / steps * 3 + random.normal(0, 0.1, len(step))) for term in terms}
    frame = pd.DataFrame({"step": step, "epoch": (step - 1) // steps_per_epoch + first_epoch, "lr": 0.01, **losses})
    return frame.assign(loss=sum(losses.values()), images_per_second=9.0)


def draw(tmp_path, curves):
    draw_loss_curves(curves, tmp_path / "figures" / "a.png", tmp_path / "figures" / "a.pdf", "Table")
    return (tmp_path / "figures" / "a.png").read_bytes(), (tmp_path / "figures" / "a.pdf").read_bytes()


def test_the_same_curves_give_the_same_bytes(tmp_path):
    curves = {
        "raw": train_csv(),
        "full": train_csv(terms=("loss_cls", "loss_box_initial", "loss_box")),
        "seeds": [train_csv(seed=1), train_csv(seed=2, steps=110)],
    }
    png, pdf = draw(tmp_path, curves)
    assert (png, pdf) == draw(tmp_path, curves)
    assert b"CreationDate" not in pdf
    assert b"/Subtype /Image" not in pdf  # vectors only
    with Image.open(tmp_path / "figures" / "a.png") as image:
        assert image.width == 1400


@pytest.mark.parametrize("rows", [1, 15])
def test_one_row_and_fifteen_rows_are_drawn(tmp_path, rows):
    png, pdf = draw(tmp_path, {f"row {i}": train_csv(seed=i, steps=40) for i in range(rows)})
    assert png.startswith(b"\x89PNG")
    assert pdf.startswith(b"%PDF")


def test_fifteen_rows_differ_without_colour():
    styles = [(str(style["linestyle"]), style["marker"]) for style in map(_style, range(15))]
    assert len(set(styles)) == 15


def test_gaps_and_divergence():
    """Values that are not finite are left out; a training without a step has no line; AP has a point per validation."""
    diverged = train_csv()
    diverged.loc[30:, ["loss", "loss_cls"]] = [np.inf, np.nan]
    measured = train_csv().assign(val_ap=np.nan)
    measured.loc[measured["step"] % 20 == 0, "val_ap"] = [0.1, 0.2, 0.3, 0.2, 0.4, 0.5]
    trainings = {"diverged": diverged, "one step": train_csv(2), "no step": train_csv(0), "measured": measured}
    axes = {axis.get_title(): axis for axis in loss_figure(trainings, "Table").axes}
    lines = {
        title: {line.get_label(): line.get_xydata() for line in axis.lines if not line.get_label().startswith("_")}
        for title, axis in axes.items()
    }
    assert list(lines) == ["Total loss", "Classification loss", "Box loss", "Validation AP (×100)"]
    for title in ("Total loss", "Classification loss"):
        assert {name: len(points) for name, points in lines[title].items()} == {
            "diverged": 30,
            "one step": 1,
            "measured": 60,
        }
    assert len(lines["Box loss"]["diverged"]) == 60
    ap = lines["Validation AP (×100)"]
    assert list(ap) == ["measured"]
    np.testing.assert_allclose(ap["measured"], list(zip(range(1, 7), (10, 20, 30, 20, 40, 50), strict=True)))
    for axis in axes.values():
        assert np.isfinite(axis.get_ylim()).all()
        assert all(np.isfinite(line.get_ydata()).all() for line in axis.lines)


def test_each_column_of_some_row_has_a_panel():
    rows = {
        "a": [train_csv(terms=("loss_distribution", "loss_new", "loss_box"))],
        "b": [train_csv(terms=("loss_cls",)).assign(val_ap=0.1, loss_unused=np.nan)],
    }
    assert _panels(rows) == ["loss", "loss_cls", "loss_box", "loss_distribution", "loss_new", "val_ap"]


@pytest.mark.parametrize("first_epoch", [0, 1])
def test_epochs_are_computed_from_steps(first_epoch):
    frame = train_csv(first_epoch=first_epoch)
    np.testing.assert_allclose(_epochs(frame), frame["step"] / 20)
    np.testing.assert_allclose(_epochs(frame.iloc[:37]), frame["step"].iloc[:37] / 20)


def test_curves_are_smoothed_and_have_few_points():
    frame = train_csv(steps=40_000, steps_per_epoch=1000)
    frame.loc[100, "loss"] = 1e6
    raw, smooth = _curve(frame.assign(x=_epochs(frame)), "loss")
    assert len(raw) == len(smooth) <= 500
    assert smooth.max() < 3


def test_bad_input_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(WorkbenchError, match="no training has logged a loss"):
        draw(tmp_path, {"a": train_csv(0)})
    with pytest.raises(WorkbenchError, match=r"row a: .*lacks the column loss, step"):
        draw(tmp_path, {"row a": train_csv().drop(columns=["step", "loss"])})
    assert not list(tmp_path.iterdir())


def test_rows_with_odd_names_are_all_in_the_legend():
    names = list(ODD_TEXTS.values())
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        curves = {name: train_csv(steps=20, terms=("loss_$x$",)) for name in names}
        figure = loss_figure(curves, ODD_TEXTS["100 letters"])
        figure.draw_without_rendering()
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert len(set(shown)) == len(names)
    assert all(text.get_window_extent().x1 < figure.bbox.x1 for text in figure.texts)
    assert legend.get_window_extent().width < figure.bbox.width


def test_names_that_are_equal_when_shortened_are_told_apart():
    names = ["a" * 60 + end + "b" * 60 for end in "xy"]
    figure = loss_figure({name: train_csv(steps=20) for name in names}, "Table")
    legend = next(legend for axis in (figure, *figure.axes) if (legend := getattr(axis, "legend_", None)))
    assert len({text.get_text() for text in legend.get_texts()}) == 2


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_caption_fits_the_width(seeds):
    """A letter of 8 points is about 0.065 inches wide."""
    assert len(_caption({"row": [None] * seeds})) * 0.065 < WIDTH
