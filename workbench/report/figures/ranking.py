"""Score against IoU at the foreground cells of trained runs, a panel each: does the score rank boxes by their quality?

That it does so poorly is where the paper starts from (section 1), and what an IoU-aware score is to mend. Darkness
stands for the number of cells, so a print without colour reads as well; the line is the median score.
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

from workbench.evaluation.correlation import kendall, spearman
from workbench.report.figures.curves import STYLE, WIDTH, write_figure
from workbench.support.errors import WorkbenchError

COLUMNS = 3
SIDE = 1.75  # of a panel, in inches
LETTERS = 17  # of the caption in an inch
NAME = 26  # letters of a run's name in a line
CELLS = 28  # hexagons across a panel
SHADES = ListedColormap(mpl.colormaps["Blues"](np.linspace(0.22, 1, 40)))  # vectors in print; one cell is not yet white
BINS = 10  # of the median's line
FEWEST = 10  # cells in a bin, or it has no median

Points = Mapping[str, Sequence[pd.DataFrame]]


def draw_rankings(points: Points, out_png: Path, out_pdf: Path, title: str) -> None:
    """Draw score against IoU, a panel for each run, with Spearman's and Kendall's rank correlation in it.

    Args:
        points: by the run's name, in the order of the panels, a frame for each seed, with the columns `iou` and
            `score`, both in [0, 1], one line for each foreground cell. Seeds are drawn together; correlations are means
            over them.
        out_png: the figure at 200 dots an inch.
        out_pdf: the same as vectors.
        title: above all panels.

    Raises:
        WorkbenchError: no run has a foreground cell, or a file cannot be written.
    """
    points = {name: [f for f in frames if len(f)] for name, frames in points.items()}
    points = {name: frames for name, frames in points.items() if frames}
    if not points:
        raise WorkbenchError(f"{out_png}: no run has a foreground cell; does the data set have objects?")
    with mpl.rc_context(STYLE):
        write_figure(_figure(points, title), out_png, out_pdf)


def _figure(points: Points, title: str) -> Figure:
    columns = min(COLUMNS, len(points))
    lines = math.ceil(len(points) / columns)
    width = WIDTH - 2 * (COLUMNS - columns)
    seeds = ", seeds together" if any(len(frames) > 1 for frames in points.values()) else ""
    most = max(len(frame) for frames in points.values() for frame in frames)
    caption = f"Up to {most:,} foreground cells of the validation images{seeds}; scores as NMS sees them. Line: median."
    caption = textwrap.wrap(caption, int(LETTERS * width))
    top, bottom = 0.3, 0.15 + 0.13 * len(caption)  # inches
    names = {name: "\n".join(textwrap.wrap(name, NAME)) for name in points}
    above = 0.4 + 0.13 * (max(name.count("\n") for name in names.values()))
    height = top + (above + SIDE + 0.2) * lines + 0.2 + bottom
    figure = Figure(figsize=(width, height), layout="constrained")
    area = (0, bottom / height, 1, 1 - (bottom + top) / height)
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, hspace=0.02, wspace=0.03, rect=area)
    figure.text(0.012, 1 - 0.08 / height, title, size=10, weight="bold", va="top")
    figure.text(0.012, 0.08 / height, "\n".join(caption), color="#555555", va="bottom")

    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    drawn = [_draw_panel(axis, names[name], frames) for axis, (name, frames) in zip(axes, points.items(), strict=False)]
    norm = LogNorm(1, max(2, *(found.get_array().max() for found in drawn)))
    for found in drawn:
        found.set_norm(norm)
    for axis in axes[: len(points)][-columns:]:  # the lowest panel of each column
        axis.set_xlabel("IoU of the predicted box")
        axis.tick_params(labelbottom=True)
    for axis in axes[len(points) :]:
        axis.axis("off")
    for axis in axes[::columns]:
        axis.set_ylabel("Score of the object's class")
    figure.colorbar(
        drawn[0], ax=list(axes), label="cells", format="%g", shrink=min(1, 1.2 / lines), aspect=25, pad=0.02
    )
    return figure


def _draw_panel(axis: Axes, name: str, frames: Sequence[pd.DataFrame]) -> PolyCollection:
    """One run; returns its hexagons, whose darkness the caller makes comparable between panels."""
    cells = pd.concat(frames)
    found = axis.hexbin(
        cells["iou"],
        cells["score"],
        gridsize=CELLS,
        extent=(0, 1, 0, 1),
        mincnt=1,
        cmap=SHADES,
        norm=LogNorm(),
        linewidths=0.1,
    )
    middles, medians = _medians(cells)
    axis.plot(middles, medians, color="white", linewidth=2.8)
    axis.plot(middles, medians, color="black", linewidth=1.2, marker="o", markersize=2.6)
    rho, tau = (np.mean([rank(f["iou"], f["score"]) for f in frames]) for rank in (spearman, kendall))
    axis.text(0, 1.03, f"Spearman {rho:.2f}, Kendall {tau:.2f}", transform=axis.transAxes)
    axis.set_title(name, pad=15)
    ticks = (0, 0.5, 1)
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks, aspect="equal")
    return found


def _medians(cells: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the bins of IoU that have cells enough, and the median score in each."""
    bins = np.minimum((cells["iou"] * BINS).astype(int), BINS - 1)
    groups = cells["score"].groupby(bins)
    medians = groups.median()[groups.size() >= FEWEST]
    return (medians.index.to_numpy() + 0.5) / BINS, medians.to_numpy()
