"""Forest plot of claims: each measured effect as a dot with its interval, beside the published effect.

Claims are grouped by family, a panel each with an axis of its own, because the effects of an oracle are twenty times
those of a loss. Dots and diamonds differ in form and filling, and verdicts have symbols, so that a black-and-white
print is readable.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from workbench.report.claims.judge import Judgement
from workbench.report.claims.words import by_family, metric_in_words, symbol
from workbench.report.figures.fonts import drawable
from workbench.report.figures.style import COLOURS, STYLE, TITLE_LETTERS, WIDTH, write_figure
from workbench.report.text import wrapped

LETTERS = 46  # letters of a statement per line
MOST_LETTERS = 3 * LETTERS
HEADING_LETTERS = 90
VERDICT_LETTERS = 28  # letters of a verdict per line
LINE, SPACE, PANEL = 0.145, 0.1, 0.62  # inches: a line of a statement, between two claims, and around a panel
LEFT, RIGHT = 0.4, 0.25  # shares of the width for statements and verdicts
MEASURED, PUBLISHED, GREY = COLOURS[0], COLOURS[1], "#555555"
BAND = "#E3E3E3"
"""Colour of the effects for which a claim about a limit is true."""
LIMITED = ("at most", "equivalent")
"""Kinds of claims about a limit."""


def draw_forest(judgements: Sequence[Judgement], title: str, out_png: Path, out_pdf: Path) -> None:
    """Draw the claims that were run; without any, the figure states this.

    Args:
        judgements: claims in the order of the panels.
        title: title above all panels.
    """
    with mpl.rc_context(STYLE):
        write_figure(forest_figure(judgements, title), out_png, out_pdf)


def forest_figure(judgements: Sequence[Judgement], title: str) -> Figure:
    """Return the figure; see `draw_forest`."""
    families = by_family([j for j in judgements if j.verdict.effect and j.word != "not testable here"])
    if not families:
        figure = Figure(figsize=(WIDTH, 0.8))
        figure.text(0.012, 0.85, drawable(title, TITLE_LETTERS), size=10, weight="bold", va="top")
        figure.text(0.012, 0.25, "No claim has been run yet.", color=GREY)
        return figure
    labels = {heading: [_label(judgement) for judgement in group] for heading, group in families.items()}
    sizes = {heading: sum(_height(label) for label in texts) for heading, texts in labels.items()}
    top, bottom = 0.55, 0.1  # inches
    height = top + bottom + sum(size + PANEL for size in sizes.values())
    figure = Figure(figsize=(WIDTH, height))
    figure.text(0.012, 1 - 0.08 / height, drawable(title, TITLE_LETTERS), size=10, weight="bold", va="top")
    _draw_legend(figure, height, [judgement for group in families.values() for judgement in group])
    above = top
    for heading, group in families.items():
        above += 0.22  # the panel's title
        size = sizes[heading]
        axis = figure.add_axes((LEFT, 1 - (above + size) / height, 1 - LEFT - RIGHT, size / height))
        _draw_panel(axis, group, labels[heading])
        text = drawable(heading.partition(" (")[0], HEADING_LETTERS)
        figure.text(0.012, 1 - (above - 0.06) / height, text, size=8.5, weight="bold", va="bottom")
        figure.text(0.99, 1 - (above - 0.06) / height, _seeds(group), size=7.5, color=GREY, va="bottom", ha="right")
        above += size + PANEL - 0.22
    return figure


def _label(judgement: Judgement) -> str:
    content = judgement.claim.content
    return wrapped(drawable(f"{content.statement}{metric_in_words(content)}", MOST_LETTERS), LETTERS)


def _height(label: str) -> float:
    return LINE * (label.count("\n") + 1) + SPACE


def _draw_legend(figure: Figure, height: float, judgements: Sequence[Judgement]) -> None:
    """Explain the marks that some claim has."""
    common = {"color": MEASURED, "marker": "o", "markersize": 4.5, "linewidth": 1.3}
    handles = {"measured, 95 % interval": Line2D([], [], **common)}
    if any(judgement.verdict.published is not None for judgement in judgements):
        diamond = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "linewidth": 0}
        handles["published"] = Line2D([], [], color=PUBLISHED, **diamond)
    if any(judgement.claim.content.kind in LIMITED for judgement in judgements):
        handles["limit of the claim"] = Patch(color=BAND)
    place = {"loc": "upper left", "bbox_to_anchor": (0.005, 1 - 0.26 / height)}
    figure.legend(handles.values(), handles, **place, ncols=3, frameon=False, columnspacing=1.6, borderaxespad=0)


def _draw_panel(axis: Axes, group: Sequence[Judgement], labels: Sequence[str]) -> None:
    """Draw the claims of a family from top to bottom; a claim takes the height of its statement."""
    heights = [_height(label) for label in labels]
    middles = [sum(heights[:n]) + height / 2 for n, height in enumerate(heights)]
    axis.set_ylim(sum(heights), 0)
    axis.set_xlim(*_limits(group))
    axis.axvline(0, color="black", linewidth=0.8, zorder=1)
    for judgement, middle, height in zip(group, middles, heights, strict=True):
        _draw_claim(axis, judgement, middle, height)
        axis.text(1.02, middle, _verdict(judgement), transform=axis.get_yaxis_transform(), va="center", size=7.5)
    axis.set_yticks(middles, labels)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(True, axis="x")
    unit = "AP or correlation ×100" if group[0].claim.content.ranks else "AP ×100"
    axis.set_xlabel(f"difference of {unit}", labelpad=2)


def _draw_claim(axis: Axes, judgement: Judgement, middle: float, height: float) -> None:
    content, effect, published = judgement.claim.content, judgement.verdict.effect, judgement.verdict.published
    if content.kind in LIMITED:
        low, high = (axis.get_xlim()[0], content.bound) if content.bound else (-content.margin, content.margin)
        axis.barh(middle, high - low, left=low, height=0.86 * height, color=BAND, zorder=0)
    if published is not None:
        diamond = {"marker": "D", "markersize": 4.5, "markerfacecolor": "white", "color": PUBLISHED}
        axis.plot(published, middle + 0.045, **diamond, linestyle="none", zorder=4)
    if not math.isnan(effect.low):
        axis.hlines(middle - 0.045, effect.low, effect.high, color=MEASURED, linewidth=1.3, zorder=3)
        for end in (effect.low, effect.high):
            axis.vlines(end, middle - 0.075, middle - 0.015, color=MEASURED, linewidth=1.0, zorder=3)
    axis.plot(effect.estimate, middle - 0.045, marker="o", markersize=4.5, color=MEASURED, zorder=5)


def _limits(group: Sequence[Judgement]) -> tuple[float, float]:
    """Return the ends of a panel's axis: zero, all intervals and published effects, and the limits of claims."""
    values = [0.0]
    for judgement in group:
        content, effect = judgement.claim.content, judgement.verdict.effect
        values += [effect.estimate, effect.low, effect.high, judgement.verdict.published or 0.0, content.bound or 0.0]
        values += [content.margin or 0.0, -(content.margin or 0.0)]
    values = [value for value in values if not math.isnan(value)]
    margin = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _verdict(judgement: Judgement) -> str:
    first, *others = textwrap.wrap(judgement.word, VERDICT_LETTERS)
    return "\n".join([f"{symbol(judgement.word)} {first}", *(f"    {line}" for line in others)])


def _seeds(group: Sequence[Judgement]) -> str:
    seeds = sorted({judgement.seeds for judgement in group})
    numbers = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{numbers} {'seed' if seeds[-1] == 1 else 'seeds'}"
