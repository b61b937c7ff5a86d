"""AP as bars: intervals that do not contain AP, words and odd numbers, equal and odd labels."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from tests.report.odd_text import ODD_TEXTS
from workbench.report.figures.bars import ap_figure
from workbench.report.figures.style import STYLE, write_figure


def table(*lines, names=None):
    """Rows with AP and the ends of its interval."""
    frame = pd.DataFrame(list(lines), columns=["AP", "AP_low", "AP_high"], dtype=str)
    frame = frame.assign(row=[f"row{n}" for n in range(len(lines))], run="run", AP_published="40.0")
    return frame.set_index(pd.Index(names or frame["row"], name="row"))


def drawn(frame):
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        figure = ap_figure("table3", frame)
        figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize(
    ("line", "end"),
    [
        (("12.30", "5.10", "12.10"), 12.3),
        (("4.00", "5.10", "12.10"), 12.1),
        (("8.00", "5.10", "12.10"), 12.1),
        (("8.00", "8.00", "8.00"), 8.0),
        (("8.00", "-", "-"), 8.0),
        (("8.00", "not run", "9.00"), 9.0),
        (("0.00", "0.00", "0.50"), 0.5),
    ],
)
def test_the_interval_is_drawn_wherever_it_is(line, end):
    figure = drawn(table(line, ("10.00", "9.00", "11.00")))
    axis = figure.axes[0]
    assert axis.patches[0].get_x() + axis.patches[0].get_width() == pytest.approx(float(line[0]))
    segments = axis.collections[0].get_segments()
    if line[1][0].isdigit() and line[2][0].isdigit():
        np.testing.assert_allclose(segments[0][:, 0], [float(line[1]), float(line[2])])
    assert axis.texts[0].xy[0] == pytest.approx(end)
    left, right = axis.get_xlim()
    ends = [float(word) for word in line if word[0].isdigit()]
    assert left <= min(ends) <= max(ends) < right


@pytest.mark.parametrize("word", ["not run", "n/a", "nan", "inf", "-inf", "1e400", "", "$x", "true", "<b>"])
def test_words_and_odd_numbers_are_written(word):
    figure = drawn(table((word, word, word), ("10.00", "9.00", "11.00")))
    assert figure.axes[0].texts[0].get_text() == word
    assert np.isfinite(figure.axes[0].get_xlim()).all()
    assert drawn(table((word, word, word)))


def test_rows_with_equal_names_are_told_apart():
    figure = drawn(table(*[("10.00", "9.00", "11.00")] * 3, names=["same", "same", "other"]))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["same", "same (2)", "other"]
    assert len(figure.axes[0].patches) == 3


def test_odd_labels_are_drawn(tmp_path):
    names = list(ODD_TEXTS.values())
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        figure = ap_figure("table3", table(*[("10.00", "9.00", "11.00")] * len(names), names=names))
        write_figure(figure, tmp_path / "a.png", tmp_path / "a.pdf")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [" ".join(label.split()) for label in labels][-1] == "–"
    assert len(set(labels)) == len(names)
    assert max(label.count("\n") for label in labels) <= 2
