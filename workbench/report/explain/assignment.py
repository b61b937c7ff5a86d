"""Which cells of the pyramid each detector trains to predict which object, on a picture.

ATSS, FoveaBox and RetinaNet assign by their detectors' code. FCOS is not a detector of the workbench, but its rule is
one of the assigners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.patheffects as effects
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from workbench.assigners.assignment import Assignment
from workbench.assigners.atss import INSIDE, TOPK
from workbench.assigners.fcos import assign_fcos
from workbench.boxes import aligned_iou, encode_distances, pyramid_points, square_anchors
from workbench.data.batch import Batch
from workbench.detectors.detector import DenseDetector
from workbench.report.explain.pictures import Picture, show
from workbench.report.figures.curves import COLOURS, WIDTH
from workbench.report.figures.drawing import drawing

STRIDES = (8, 16, 32, 64, 128)
"""Strides of FCOS's pyramid, P3 to P7."""
OBJECT_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HALO = [effects.withStroke(linewidth=2, foreground="white")]
DOTS = 300  # a level with more cells is drawn without those that are background


@dataclass(frozen=True, eq=False)
class Assigned:
    """What a rule makes of a picture.

    Attributes:
        points: ``[P_l, 2]`` of each level, the cells' points in pixels.
        cells: a line for each cell and object it is to predict: level (3 to 7), x, y, object, anchors (how many of the
            cell's are the object's).
        strides: of each level, in pixels.
    """

    points: list[Tensor]
    cells: pd.DataFrame
    strides: Sequence[int]


@torch.no_grad()
def assigned_by(detector: DenseDetector, batch: Batch) -> Assigned:
    """The assignment of a detector whose cells need not have learnt anything, for the first image of a batch."""
    predictions = detector.predict(batch.images)
    assignment = detector.assign(predictions, batch)
    return _assigned(assignment, list(predictions.points), predictions.anchors_per_place, predictions.strides)


def assigned_by_fcos(batch: Batch, anchor_scale: float) -> Assigned:
    """FCOS's assignment, for the first image of a batch; sizes follow the anchor scale as other detectors' do."""
    shapes, (height, width) = [], batch.images.shape[-2:]
    for stride in STRIDES:
        shapes.append((-(-height // stride), -(-width // stride)))
    points = pyramid_points(shapes, STRIDES, batch.images.device, offset=0.5)
    return _assigned(assign_fcos(points, STRIDES, batch.boxes, batch.valid, anchor_scale), points, 1, STRIDES)


def _assigned(assignment: Assignment, points: list[Tensor], anchors: int, strides: Sequence[int]) -> Assigned:
    frame = pd.DataFrame(torch.cat(points).tolist(), columns=["x", "y"])
    frame.insert(0, "level", [level for level, at in enumerate(points, 3) for _ in at])
    frame["object"] = assignment.index[0].tolist()
    cells = frame[frame["object"] >= 0].groupby(["level", "y", "x", "object"]).size().rename("anchors").reset_index()
    return Assigned([at[::anchors] for at in points], cells, strides)


def count_cells(picture: Picture, rules: Mapping[str, Assigned]) -> pd.DataFrame:
    """How many cells each rule gives each object, level by level."""
    lines = {}
    for name, rule in rules.items():
        counts = rule.cells.groupby(["object", "level"]).size()
        lines[name] = [
            ", ".join(f"{n} on P{level}" for level, n in counts.get(number, pd.Series(dtype=int)).items()) or "none"
            for number in range(len(picture.names))
        ]
    index = pd.Index([f"{number}: {name}" for number, name in enumerate(picture.names)], name="object")
    return pd.DataFrame(lines, index=index)


def atss_candidates(picture: Picture, atss: Assigned, number: int, anchor_scale: float) -> pd.DataFrame:
    """The candidates of one object, level by level, nearest first, with what became of them.

    Columns: level, x, y, iou (of the cell's anchor with the object), and state: "taken", "IoU too low", "outside" (the
    anchor's centre, of the object) or "another object's". ``attrs`` holds mean and threshold.
    """
    box, lines = picture.boxes[number], []
    for level, at in enumerate(atss.points, 3):
        distance = (at - (box[:2] + box[2:]) / 2).norm(dim=-1)
        near = at[distance.topk(min(TOPK, len(at)), largest=False).indices]
        sides = torch.full((len(near), 1), anchor_scale * atss.strides[level - 3])
        iou = aligned_iou(square_anchors(near, sides), box)
        inside = encode_distances(near, box).amin(-1) > INSIDE
        lines += zip([level] * len(near), *near.T.tolist(), iou.tolist(), inside.tolist(), strict=True)
    frame = pd.DataFrame(lines, columns=["level", "x", "y", "iou", "inside"])
    mean, threshold = frame["iou"].mean(), frame["iou"].mean() + frame["iou"].std()
    own = atss.cells[atss.cells["object"] == number]
    taken = frame[["level", "x", "y"]].apply(tuple, axis=1).isin(own[["level", "x", "y"]].apply(tuple, axis=1))
    frame["state"] = "another object's"
    frame.loc[~frame.pop("inside"), "state"] = "outside"
    frame.loc[frame["iou"] < threshold, "state"] = "IoU too low"
    frame.loc[taken, "state"] = "taken"
    frame.attrs = {"mean": mean, "threshold": threshold}
    return frame


@drawing
def draw_candidates(picture: Picture, atss: Assigned, anchor_scale: float, most: int = 3) -> Figure:
    """ATSS at work: the IoU of each candidate of the largest objects, and the threshold that follows from them."""
    numbers = picture.largest(most)
    figure = Figure(figsize=(WIDTH, 2.75), layout="constrained")
    axes = figure.subplots(1, len(numbers), squeeze=False, sharey=True)[0]
    for axis, number in zip(axes, numbers, strict=True):
        frame = atss_candidates(picture, atss, number, anchor_scale)
        for state, style in _STATES.items():
            some = frame[frame["state"] == state]
            axis.plot(some.index, some["iou"], linestyle="none", markersize=4.5, label=state, **style)
        axis.axhline(frame.attrs["threshold"], color="black", linewidth=1, label="mean + deviation")
        axis.axhline(frame.attrs["mean"], color="black", linewidth=1, linestyle=(0, (1.2, 1.2)), label="mean")
        starts = frame.groupby("level").apply(lambda part: part.index[0]).tolist()
        for start in starts[1:]:
            axis.axvline(start - 0.5, color="#B0B0B0", linewidth=0.6)
        ends = [*starts[1:], len(frame)]
        levels = [f"P{level}" for level in frame["level"].unique()]
        axis.set_xticks([(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)], levels)
        axis.tick_params(axis="x", length=0)
        axis.set_title(f"{number}: {picture.names[number]}")
        axis.set_xlabel("candidates of each level")
    axes[0].set_ylabel("IoU of anchor and object")
    axes[0].set_ylim(bottom=-0.03)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, columnspacing=1.2)
    return figure


_STATES = {
    "taken": {"marker": "o", "color": COLOURS[0]},
    "outside": {"marker": "x", "color": COLOURS[1]},
    "another object's": {"marker": "d", "color": COLOURS[2]},
    "IoU too low": {"marker": "o", "color": "#6A6A6A", "markerfacecolor": "white"},
}


@drawing
def draw_assignments(picture: Picture, rules: Mapping[str, Assigned], most: int = 6) -> Figure:
    """A line of panels for each rule, a column for each level that some rule uses; the cells of the largest objects."""
    numbers = picture.largest(most)
    used = (rule.cells.loc[rule.cells["object"].isin(numbers), "level"] for rule in rules.values())
    levels = sorted(set().union(*used)) or [3]
    height, width = picture.pixels.shape[:2]
    panel = WIDTH / max(len(levels), 2)
    size = (WIDTH, min(panel * height / width, panel) * len(rules) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rules), len(levels), squeeze=False, sharex=True, sharey=True)
    for line, (name, rule) in zip(axes, rules.items(), strict=True):
        line[0].set_ylabel(f"{name}\ny (pixels)")
        for axis, level in zip(line, levels, strict=True):
            _draw_cells(axis, picture, rule, level, numbers, 72 * panel / width)
    for axis, level in zip(axes[0], levels, strict=True):
        axis.set_title(f"P{level}, stride {next(iter(rules.values())).strides[level - 3]}")
    for axis in axes[-1]:
        axis.set_xlabel("x (pixels)")
    handles = [
        axes[0, 0].plot([], [], **_object_style(number), linestyle="none", label=f"{number}: {picture.names[number]}")[
            0
        ]
        for number in numbers
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, columnspacing=1.2)
    return figure


def _draw_cells(axis: Axes, picture: Picture, rule: Assigned, level: int, numbers: list[int], pixel: float) -> None:
    """One panel; ``pixel`` is the size of the picture's on paper, in points."""
    show(axis, picture)
    at, size = rule.points[level - 3], min(5.0, max(2.5, 0.75 * pixel * rule.strides[level - 3]))
    if len(at) <= DOTS:
        axis.plot(*at.T, ".", color="#6A6A6A", markersize=1.5, zorder=2)
    for number in numbers:
        (x1, y1, x2, y2), style = picture.boxes[number].tolist(), _object_style(number)
        axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=style["color"], linewidth=0.9, zorder=3)
        axis.annotate(str(number), (x1, y1), (2, -8), textcoords="offset points", path_effects=HALO, zorder=5)
        taken = rule.cells[(rule.cells["level"] == level) & (rule.cells["object"] == number)]
        axis.plot(taken["x"], taken["y"], **style | {"markersize": size}, linestyle="none", zorder=4)


def _object_style(number: int) -> dict:
    return {
        "marker": OBJECT_MARKERS[number % len(OBJECT_MARKERS)],
        "markerfacecolor": COLOURS[number % len(COLOURS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "markersize": 5,
        "color": COLOURS[number % len(COLOURS)],
    }
