"""AP as dots: one axis, intervals that do not contain AP, words and odd numbers, equal and odd labels."""

import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from tests.report.odd_text import ODD_TEXTS
from workbench.report.figures.dots import ap_figure
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
    "line",
    [
        ("12.30", "5.10", "12.10"),
        ("4.00", "5.10", "12.10"),
        ("8.00", "5.10", "12.10"),
        ("8.00", "8.00", "8.00"),
        ("8.00", "-", "-"),
        ("8.00", "not run", "9.00"),
        ("0.00", "0.00", "0.50"),
    ],
)
def test_the_interval_is_drawn_wherever_it_is(line):
    axis = drawn(table(line, ("10.00", "9.00", "11.00"))).axes[0]
    measured, _ = axis.lines
    np.testing.assert_allclose(measured.get_xdata(), [float(line[0]), 10])
    ends = [[float(word) for word in words] for words in (line[1:], ("9", "11")) if "".join(words)[0].isdigit()]
    segments = [list(segment[:, 0]) for segment in axis.collections[0].get_segments()]
    assert segments == ends
    left, right = axis.get_xlim()
    numbers = [float(word) for word in line if word[0].isdigit()]
    assert left < min(numbers) <= max(numbers) < right


def test_measured_and_published_ap_have_one_axis_and_different_forms():
    figure = drawn(table(("8.00", "7.00", "9.00"), ("10.00", "9.00", "11.00")))
    assert len(figure.axes) == 1
    measured, published = figure.axes[0].lines
    assert list(published.get_xdata()) == [40, 40]
    assert (measured.get_ydata() < published.get_ydata()).all()
    assert measured.get_marker() != published.get_marker()
    assert (measured.get_markerfacecolor(), published.get_markerfacecolor()) == (measured.get_color(), "white")
    left, right = figure.axes[0].get_xlim()
    assert left < 7 < 40 < right


def test_numbers_have_their_rank():
    texts = [text.get_text() for text in drawn(table(("8", "7", "9"), ("10", "9", "11"))).axes[0].texts]
    assert texts == ["measured\n(rank)", "8.0 (2)", "10.0 (1)", "published\n(rank)", "40.0 (1)", "40.0 (1)"]


def test_the_split_of_other_published_figures_is_stated():
    frame = table(("8", "7", "9")).rename(columns={"AP_published": "AP_test-dev_published"})
    assert [text.get_text() for text in drawn(frame).legends[0].get_texts()] == [
        "measured, 95 % interval",
        "published (test-dev)",
    ]


@pytest.mark.parametrize("word", ["not run", "n/a", "nan", "inf", "-inf", "1e400", "$x", "true", "<b>"])
def test_words_and_odd_numbers_are_written(word):
    figure = drawn(table((word, word, word), ("10.00", "9.00", "11.00")))
    assert figure.axes[0].texts[1].get_text() == word
    assert np.isfinite(figure.axes[0].get_xlim()).all()
    assert drawn(table((word, word, word)))


def test_rows_with_equal_names_are_told_apart():
    figure = drawn(table(*[("10.00", "9.00", "11.00")] * 3, names=["same", "same", "other"]))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["same", "same (2)", "other"]
    assert len(figure.axes[0].lines[0].get_xdata()) == 3


def test_odd_labels_are_drawn(tmp_path):
    names = list(ODD_TEXTS.values())
    with warnings.catch_warnings(action="error"), mpl.rc_context(STYLE):
        figure = ap_figure("table3", table(*[("10.00", "9.00", "11.00")] * len(names), names=names))
        write_figure(figure, tmp_path / "a.png", tmp_path / "a.pdf")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [" ".join(label.split()) for label in labels][-1] == "–"
    assert len(set(labels)) == len(names)
    assert max(label.count("\n") for label in labels) <= 2
