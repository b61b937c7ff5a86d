"""Assignment of pyramid locations to objects by several rules, drawn on a picture.

ATSS, FoveaBox and RetinaNet use the assigners of their detectors. FCOS is not a detector of the workbench, but its
rule is one of the assigners.
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
from workbench.report.figures.drawing import drawing
from workbench.report.figures.style import COLOURS, WIDTH

STRIDES = (8, 16, 32, 64, 128)
"""Strides of FCOS's pyramid, P3 to P7."""
OBJECT_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HALO = [effects.withStroke(linewidth=2, foreground="white")]
DOTS = 300  # most locations of a level whose points are all drawn; on other levels only positives are drawn


@dataclass(frozen=True, eq=False)
class Assigned:
    """Assignment of a rule on a picture.

    Attributes:
        points: ``[P_l, 2]`` for each level, the points of all locations in pixels.
        locations: one line for each location and object that it is trained to predict. Columns: level (3 to 7), x, y,
            object, anchors (number of the location's anchors that are assigned to the object).
        strides: stride of each level in pixels.
    """

    points: list[Tensor]
    locations: pd.DataFrame
    strides: Sequence[int]


@torch.no_grad()
def assigned_by(detector: DenseDetector, batch: Batch) -> Assigned:
    """Return the assignment of a detector for the first image of a batch; the detector may be untrained."""
    predictions = detector.predict(batch.images)
    assignment = detector.assign(predictions, batch)
    return _assigned(assignment, list(predictions.points), predictions.anchors_per_place, predictions.strides)


def assigned_by_fcos(batch: Batch, anchor_scale: float) -> Assigned:
    """Return FCOS's assignment for the first image of a batch; its ranges are proportional to the anchor scale."""
    shapes, (height, width) = [], batch.images.shape[-2:]
    for stride in STRIDES:
        shapes.append((-(-height // stride), -(-width // stride)))
    points = pyramid_points(shapes, STRIDES, batch.images.device, offset=0.5)
    return _assigned(assign_fcos(points, STRIDES, batch.boxes, batch.valid, anchor_scale), points, 1, STRIDES)


def _assigned(assignment: Assignment, points: list[Tensor], anchors: int, strides: Sequence[int]) -> Assigned:
    frame = pd.DataFrame(torch.cat(points).tolist(), columns=["x", "y"])
    frame.insert(0, "level", [level for level, at in enumerate(points, 3) for _ in at])
    frame["object"] = assignment.index[0].tolist()
    positives = frame[frame["object"] >= 0].groupby(["level", "y", "x", "object"])
    locations = positives.size().rename("anchors").reset_index()
    return Assigned([at[::anchors] for at in points], locations, strides)


def count_locations(picture: Picture, rules: Mapping[str, Assigned]) -> pd.DataFrame:
    """Count the locations that each rule assigns to each object, per level."""
    lines = {}
    for name, rule in rules.items():
        counts = rule.locations.groupby(["object", "level"]).size()
        lines[name] = [
            ", ".join(f"{n} on P{level}" for level, n in counts.get(number, pd.Series(dtype=int)).items()) or "none"
            for number in range(len(picture.names))
        ]
    index = pd.Index([f"{number}: {name}" for number, name in enumerate(picture.names)], name="object")
    return pd.DataFrame(lines, index=index)


def atss_candidates(picture: Picture, atss: Assigned, number: int, anchor_scale: float) -> pd.DataFrame:
    """Return ATSS's candidates for one object, by level, the nearest first.

    Columns: level, x, y, iou (IoU of the location's anchor with the object) and state. The state is "positive",
    "IoU too low", "outside the object" (the centre of the anchor) or "positive for another object". ``attrs`` contains
    the mean of the IoUs and the threshold.
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
    assigned = atss.locations[atss.locations["object"] == number]
    positive = frame[["level", "x", "y"]].apply(tuple, axis=1).isin(assigned[["level", "x", "y"]].apply(tuple, axis=1))
    frame["state"] = "positive for another object"
    frame.loc[~frame.pop("inside"), "state"] = "outside the object"
    frame.loc[frame["iou"] < threshold, "state"] = "IoU too low"
    frame.loc[positive, "state"] = "positive"
    frame.attrs = {"mean": mean, "threshold": threshold}
    return frame


@drawing
def draw_candidates(picture: Picture, atss: Assigned, anchor_scale: float, most: int = 3) -> Figure:
    """Draw ATSS's candidates for the largest objects: the IoU of each candidate, their mean and the threshold."""
    numbers = picture.largest(most)
    figure = Figure(figsize=(WIDTH, 2.75), layout="constrained")
    axes = figure.subplots(1, len(numbers), squeeze=False, sharey=True)[0]
    for axis, number in zip(axes, numbers, strict=True):
        frame = atss_candidates(picture, atss, number, anchor_scale)
        for state, style in _STATES.items():
            candidates = frame[frame["state"] == state]
            axis.plot(candidates.index, candidates["iou"], linestyle="none", markersize=4.5, label=state, **style)
        axis.axhline(frame.attrs["threshold"], color="black", linewidth=1, label="threshold: mean + deviation")
        axis.axhline(frame.attrs["mean"], color="black", linewidth=1, linestyle=(0, (1.2, 1.2)), label="mean")
        starts = frame.groupby("level").apply(lambda part: part.index[0]).tolist()
        for start in starts[1:]:
            axis.axvline(start - 0.5, color="#B0B0B0", linewidth=0.6)
        ends = [*starts[1:], len(frame)]
        levels = [f"P{level}" for level in frame["level"].unique()]
        axis.set_xticks([(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)], levels)
        axis.tick_params(axis="x", length=0)
        axis.set_title(f"{number}: {picture.names[number]}")
        axis.set_xlabel("candidates by level")
    axes[0].set_ylabel("IoU of anchor and object")
    axes[0].set_ylim(bottom=-0.03)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, columnspacing=1.2)
    return figure


_STATES = {
    "positive": {"marker": "o", "color": COLOURS[0]},
    "outside the object": {"marker": "x", "color": COLOURS[1]},
    "positive for another object": {"marker": "d", "color": COLOURS[2]},
    "IoU too low": {"marker": "o", "color": "#6A6A6A", "markerfacecolor": "white"},
}


@drawing
def draw_assignments(picture: Picture, rules: Mapping[str, Assigned], most: int = 6) -> Figure:
    """Draw the locations assigned to the largest objects: one line of panels per rule, one column per level in use."""
    numbers = picture.largest(most)
    used = (rule.locations.loc[rule.locations["object"].isin(numbers), "level"] for rule in rules.values())
    levels = sorted(set().union(*used)) or [3]
    height, width = picture.pixels.shape[:2]
    panel = WIDTH / max(len(levels), 2)
    size = (WIDTH, min(panel * height / width, panel) * len(rules) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rules), len(levels), squeeze=False, sharex=True, sharey=True)
    for line, (name, rule) in zip(axes, rules.items(), strict=True):
        line[0].set_ylabel(f"{name}\ny (pixels)")
        for axis, level in zip(line, levels, strict=True):
            _draw_locations(axis, picture, rule, level, numbers, 72 * panel / width)
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


def _draw_locations(axis: Axes, picture: Picture, rule: Assigned, level: int, numbers: list[int], pixel: float) -> None:
    """Draw one panel; ``pixel`` is the size of a pixel of the picture on paper, in points (1/72 inch)."""
    show(axis, picture)
    at, size = rule.points[level - 3], min(5.0, max(2.5, 0.75 * pixel * rule.strides[level - 3]))
    if len(at) <= DOTS:
        axis.plot(*at.T, ".", color="#6A6A6A", markersize=1.5, zorder=2)
    for number in numbers:
        (x1, y1, x2, y2), style = picture.boxes[number].tolist(), _object_style(number)
        axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color=style["color"], linewidth=0.9, zorder=3)
        axis.annotate(str(number), (x1, y1), (2, -8), textcoords="offset points", path_effects=HALO, zorder=5)
        lines = rule.locations[(rule.locations["level"] == level) & (rule.locations["object"] == number)]
        axis.plot(lines["x"], lines["y"], **style | {"markersize": size}, linestyle="none", zorder=4)


def _object_style(number: int) -> dict:
    return {
        "marker": OBJECT_MARKERS[number % len(OBJECT_MARKERS)],
        "markerfacecolor": COLOURS[number % len(COLOURS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "markersize": 5,
        "color": COLOURS[number % len(COLOURS)],
    }
