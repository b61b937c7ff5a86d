"""Score against IoU at the foreground locations of trained runs, one panel per run.

The figure shows whether the score ranks boxes by their quality. The paper starts from the observation that
classification scores rank boxes poorly (section 1); an IoU-aware score ranks them better. Darkness shows the number of
locations, so that a black-and-white print is readable. The line is the median score.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from workbench.evaluation.rank_correlation import rank_correlations
from workbench.report.figures.fonts import drawable, legend_names
from workbench.report.figures.style import STYLE, TITLE_LETTERS, WIDTH, write_figure
from workbench.report.text import wrapped
from workbench.support.errors import WorkbenchError

COLUMNS = 3
SIDE = 1.75  # inches: side of a panel
LETTERS = 17  # letters of the caption per inch
NAME_LETTERS = 22  # letters of a run's name per line
HEXAGONS = 28  # hexagons across a panel
SHADES = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.22, 1, 40)))  # a single location is darker than white
BINS = 10  # bins of IoU for the median
MIN_LOCATIONS = 10  # fewest locations in a bin for which the median is drawn

Points = Mapping[str, Sequence[pd.DataFrame]]


def draw_rankings(points: Points, out_png: Path, out_pdf: Path, title: str) -> None:
    """Draw score against IoU, one panel per run, with Spearman's and Kendall's rank correlation.

    Args:
        points: run's name (any text) → one frame per seed, in the order of the panels. Columns: `iou` and `score`,
            both in [0, 1]; one line per foreground location. All seeds are drawn together; correlations are means over
            seeds.
        out_png: path of the figure with 200 dots per inch.
        out_pdf: path of the figure as vectors.
        title: title above all panels.

    Raises:
        WorkbenchError: no run has a foreground location, or a file cannot be written.
    """
    names = legend_names(points)
    points = {name: [f for f in frames if len(f)] for name, frames in zip(names, points.values(), strict=True)}
    points = {name: frames for name, frames in points.items() if frames}
    if not points:
        raise WorkbenchError(f"{out_png}: no run has a foreground location; use images with objects")
    with mpl.rc_context(STYLE):
        write_figure(_figure(points, drawable(title, TITLE_LETTERS)), out_png, out_pdf)


def _figure(points: Points, title: str) -> Figure:
    columns = min(COLUMNS, len(points))
    lines = math.ceil(len(points) / columns)
    width = WIDTH - 2 * (COLUMNS - columns)
    seeds = ", all seeds together" if any(len(frames) > 1 for frames in points.values()) else ""
    most = max(len(frame) for frames in points.values() for frame in frames)
    caption = (
        f"Up to {most:,} foreground locations of the validation images{seeds}. Scores as used by NMS. Line: median."
    )
    caption = textwrap.wrap(caption, int(LETTERS * width))
    top, bottom = 0.3, 0.15 + 0.13 * len(caption)  # inches
    names = {name: wrapped(name, NAME_LETTERS) for name in points}
    above = 0.4 + 0.13 * (max(name.count("\n") for name in names.values()))
    height = top + (above + SIDE + 0.2) * lines + 0.2 + bottom
    figure = Figure(figsize=(width, height), layout="constrained")
    area = (0, bottom / height, 1, 1 - (bottom + top) / height)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, hspace=0.02, wspace=0.03, rect=area)
    figure.text(0.012, 1 - 0.08 / height, title, size=10, weight="bold", va="top")
    figure.text(0.012, 0.08 / height, "\n".join(caption), color="#555555", va="bottom")

    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    drawn = [_draw_panel(axis, names[name], frames) for axis, (name, frames) in zip(axes, points.items(), strict=False)]
    norm = LogNorm(1, max(2, *(hexagons.get_array().max() for hexagons in drawn)))
    for hexagons in drawn:
        hexagons.set_norm(norm)
    for axis in axes[: len(points)][-columns:]:  # the lowest panel of each column
        axis.set_xlabel("IoU of the predicted box")
        axis.tick_params(labelbottom=True)
    for axis in axes[len(points) :]:
        axis.axis("off")
    for axis in axes[::columns]:
        axis.set_ylabel("Score of the object's class")
    bar = figure.colorbar(
        drawn[0], ax=list(axes), label="locations", format="%g", shrink=min(1, 1.2 / lines), aspect=25, pad=0.02
    )
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_minor_locator(NullLocator())  # its labels would be formulas
    return figure


def _draw_panel(axis: Axes, name: str, frames: Sequence[pd.DataFrame]) -> PolyCollection:
    """Draw one run and return its hexagons, so that the caller can use one colour scale for all panels."""
    locations = pd.concat(frames)
    hexagons = axis.hexbin(
        locations["iou"],
        locations["score"],
        gridsize=HEXAGONS,
        extent=(0, 1, 0, 1),
        mincnt=1,
        cmap=SHADES,
        norm=LogNorm(),
        linewidths=0.1,
    )
    middles, medians = _medians(locations)
    axis.plot(middles, medians, color="white", linewidth=2.8)
    axis.plot(middles, medians, color="black", linewidth=1.2, marker="o", markersize=2.6)
    rho, tau = np.mean([rank_correlations(f["iou"], f["score"]) for f in frames], axis=0)
    axis.text(0, 1.03, f"Spearman {rho:.2f}, Kendall {tau:.2f}", transform=axis.transAxes)
    axis.set_title(name, pad=15)
    ticks = (0, 0.5, 1)
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks, aspect="equal")
    return hexagons


def _medians(locations: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres of the bins of IoU with enough locations, and the median score of each bin."""
    bins = np.minimum((locations["iou"] * BINS).astype(int), BINS - 1)
    groups = locations["score"].groupby(bins)
    medians = groups.median()[groups.size() >= MIN_LOCATIONS]
    return (medians.index.to_numpy() + 0.5) / BINS, medians.to_numpy()
