"""Loss curves of a table's rows: one panel for the total loss, for each term and for the validation AP."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from workbench.report.figures.fonts import drawable, legend_names
from workbench.report.figures.style import COLOURS, DASHES, STYLE, TITLE_LETTERS, WIDTH, write_figure
from workbench.report.text import width
from workbench.support.errors import WorkbenchError

Curves = Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]]

PANEL_HEIGHT = 1.9  # inches
LEGEND_IN_PANEL = 8  # most rows of a legend that fits into the place of a panel
POINTS = 500  # most points per curve in the files
SMOOTHING = 0.04  # share of a curve's points in the window of the running median; the mean uses a quarter of it
MARKERS = ("", "o", "s", "^")
_NAMES = {
    "loss": "Total loss",
    "loss_cls": "Classification loss",
    "loss_box_initial": "Box loss, initial boxes",
    "loss_box": "Box loss",
    "loss_centerness": "Centerness loss",
    "loss_distribution": "Distribution focal loss",
    "val_ap": "Validation AP (×100)",
}


def draw_loss_curves(curves: Curves, out_png: Path, out_pdf: Path, title: str) -> None:
    """Draw the losses of a table's rows over the epochs: a panel for the total and for each term that some row has.

    Args:
        curves: row's name (any text) → the frame of its train.csv, or one frame per seed. Rows are in the order of the
            legend; up to about 15 are legible. Columns: `step`, `epoch` (integers), `loss`, `loss_<term>`, and
            optionally `val_ap` (a fraction, NaN at steps without validation), which has its own panel.
        out_png: path of the figure with 200 dots per inch, 7 inches wide.
        out_pdf: path of the figure as vectors.
        title: title above all panels.

    Raises:
        WorkbenchError: no curve has a point, a frame lacks step, epoch or loss, or a file cannot be written.
    """
    with mpl.rc_context(STYLE):
        write_figure(loss_figure(curves, title), out_png, out_pdf)


def loss_figure(curves: Curves, title: str) -> Figure:
    """Return the figure that `draw_loss_curves` writes, in the current style of matplotlib."""
    names, title = legend_names(curves), drawable(title, TITLE_LETTERS)
    rows = {name: _seeds_of(name, frames) for name, frames in zip(names, curves.values(), strict=True)}
    rows = {name: frames for name, frames in rows.items() if any(np.isfinite(f["loss"]).any() for f in frames)}
    if not rows:
        raise WorkbenchError(f"{title}: no training has logged a loss yet; train a row of the table first")
    return _figure(rows, title)


def _seeds_of(name: str, frames: pd.DataFrame | Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the frames of a row that have points, with a new column `x`: the position in epochs."""
    frames = [frames] if isinstance(frames, pd.DataFrame) else list(frames)
    for frame in frames:
        missing = {"step", "epoch", "loss"} - set(frame.columns)
        if missing:
            raise WorkbenchError(
                f"{name}: train.csv lacks the column {', '.join(sorted(missing))}; train the row again"
            )
    return [frame.assign(x=_epochs(frame)) for frame in frames if len(frame)]


def _epochs(frame: pd.DataFrame) -> pd.Series:
    """Return the position of each step in epochs, as a fraction.

    The log does not contain the number of steps per epoch, so it is estimated. At each line of the log, an epoch has at
    least step / (epochs begun) steps. The maximum of this ratio is exact if the last step of an epoch is in the log.
    Otherwise it is too small by at most one logging interval.
    """
    begun = frame["epoch"] - frame["epoch"].iloc[0] + 1
    return frame["step"] / max((frame["step"] / begun).max(), 1)


def _figure(rows: dict[str, list[pd.DataFrame]], title: str) -> Figure:
    """Arrange the panels in two columns. The legend takes the place of an empty last panel; a long one is below."""
    panels = _panels(rows)
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    in_panel = lines * columns > len(panels) and len(rows) <= LEGEND_IN_PANEL
    legend_columns = 1 if in_panel else _legend_columns(rows)
    caption, top = 0.25, 0.3  # inches
    legend = 0 if in_panel else 0.15 + 0.165 * math.ceil(len(rows) / legend_columns)
    height = top + PANEL_HEIGHT * lines + legend + caption

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    area = (0, (caption + legend) / height, 1, 1 - (caption + legend + top) / height)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.02, wspace=0.04, rect=area)
    figure.text(0.012, 1 - 0.08 / height, title, size=10, weight="bold", va="top")
    figure.text(0.012, 0.08 / height, _caption(rows), color="#555555", va="bottom")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
    for axis, column in zip(axes, panels, strict=False):
        _draw_panel(axis, rows, column)
    for axis in axes[: len(panels)][-columns:]:  # the lowest panel of each column
        axis.set_xlabel("Epoch")
    for axis in axes[len(panels) :]:
        axis.axis("off")
    place = {"loc": "center left"} if in_panel else {"loc": "lower center", "bbox_to_anchor": (0.5, caption / height)}
    owner = axes[-1] if in_panel else figure
    handles, names = axes[0].get_legend_handles_labels()
    owner.legend(handles, names, **place, ncols=legend_columns, frameon=False, handlelength=3.6, columnspacing=1.6)
    return figure


def _panels(rows: dict[str, list[pd.DataFrame]]) -> list[str]:
    """Return the columns to draw: the total, the terms in the order of `_NAMES`, all other terms, the validation AP."""
    wanted = [(f, c) for frames in rows.values() for f in frames for c in f if c == "val_ap" or c.startswith("loss_")]
    measured = dict.fromkeys(column for frame, column in wanted if np.isfinite(frame[column]).any())
    terms = [c for c in measured if c != "val_ap"]
    named = [c for c in _NAMES if c in terms]
    others = [c for c in terms if c not in named]
    return ["loss", *named, *others, *(["val_ap"] if "val_ap" in measured else [])]


def _legend_columns(rows: dict[str, list[pd.DataFrame]]) -> int:
    """Return how many columns fit the width, at 0.068 inches per letter and 0.7 inches for the line before a name."""
    return max(1, min(len(rows), 4, int(WIDTH / (0.7 + 0.068 * max(map(width, rows))))))


def _caption(rows: dict[str, list[pd.DataFrame]]) -> str:
    """Explain the lines in one line of text that fits the width."""
    text = f"Losses: running median over {SMOOTHING:.0%}, then mean over {SMOOTHING / 4:.0%} of the log"
    if any(len(frames) > 1 for frames in rows.values()):
        return f"{text}. Lines: mean over seeds; bands: range."
    return f"{text}; raw values are pale. AP as measured."


def _draw_panel(axis: Axes, rows: dict[str, list[pd.DataFrame]], column: str) -> None:
    """Draw one column of every row that has it. The first panel, the total loss, has all rows and feeds the legend."""
    drawn = []
    for number, (name, frames) in enumerate(rows.items()):
        curves = [_curve(f, column) for f in frames if column in f and np.isfinite(f[column]).any()]
        if not curves:
            continue
        style = _style(number)
        x, values = _on_one_axis([smooth for _, smooth in curves])
        every = max(1, len(x) // 6)  # about six markers per line, shifted so that two rows' markers do not coincide
        if column == "val_ap":
            style |= {} if style["marker"] else {"marker": ".", "markersize": 5, "markerfacecolor": style["color"]}
        else:
            style |= {"markevery": (number * every // len(DASHES) % every, every)}
        axis.plot(x, values.mean(axis=0), label=name, **style)
        if len(curves) > 1:
            axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.18, linewidth=0)
        elif column != "val_ap":
            raw = curves[0][0]
            axis.plot(raw.index, raw, color=style["color"], alpha=1.4 / (3 + len(rows)), linewidth=0.4, zorder=1)
        drawn.append(values.ravel())
    axis.set_title(_NAMES.get(column) or drawable(f"Loss {column.removeprefix('loss_').replace('_', ' ')}", 40))
    axis.grid(True)
    axis.set_xlim(left=0)
    axis.tick_params(labelbottom=True)
    _scale_y(axis, np.concatenate(drawn), column)


def _style(number: int) -> dict[str, Any]:
    """Return the line style of a row. Dashes and markers alone distinguish 20 rows, without colour."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number // len(DASHES) % len(MARKERS)],
        "linewidth": 1.2,
        "markersize": 3,
        "markerfacecolor": "white",
        "markeredgewidth": 0.9,
        "zorder": 3,
    }


def _curve(frame: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """Return a column over epochs, raw and smoothed, each with at most `POINTS` points so that the PDF stays small."""
    raw = pd.Series(frame[column].to_numpy(float), index=frame["x"].to_numpy(float))
    raw = raw[np.isfinite(raw)]
    if column == "val_ap":
        return 100 * raw, 100 * raw
    window = max(1, round(SMOOTHING * len(raw))) | 1  # odd, so that the median is one of the values
    smooth = raw.rolling(window, center=True, min_periods=1).median()  # removes spikes
    smooth = smooth.rolling(window // 4 | 1, center=True, min_periods=1).mean()  # removes the steps of the median
    stride = math.ceil(len(raw) / POINTS)
    return raw[::stride], smooth[::stride]


def _on_one_axis(curves: list[pd.Series]) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate curves `[seeds, points]` at the positions of the first curve, up to the end of the shortest curve."""
    x = curves[0].index.to_numpy()
    x = x[x <= min(curve.index[-1] for curve in curves) + 1e-9]
    return x, np.stack([np.interp(x, curve.index, curve) for curve in curves])


def _scale_y(axis: Axes, values: np.ndarray, column: str) -> None:
    """Set limits that fit the smoothed curves, not single raw spikes; logarithmic if they span more than a factor 4."""
    low, high = float(values.min()), float(values.max())
    if column == "val_ap" or low <= 0 or high / low < 4:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(max(low - margin, 0) if low >= 0 else low - margin, high + margin)
        return
    axis.set_yscale("log")
    axis.set_ylim(low / 1.15, high * 1.15)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
