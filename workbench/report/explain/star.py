"""The nine sampling points of the star-shaped box feature, on a picture (VarifocalNet, section 4.2).

The offsets are the ones that the deformable convolution of a trained detector received, taken where it received them;
without a trained one, those of a box set by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.patheffects as effects
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from workbench.boxes import aligned_iou, decode_distances, encode_distances
from workbench.detectors import build_detector
from workbench.detectors.detector import DenseDetector
from workbench.detectors.predictions import Predictions
from workbench.detectors.vfnet import star_offsets
from workbench.layers.deform import regular_grid
from workbench.report.explain.pictures import Picture, show
from workbench.report.figures.curves import COLOURS, WIDTH
from workbench.report.figures.drawing import drawing
from workbench.runs.folders import seed_folder
from workbench.runs.load import load_run, read_experiment
from workbench.settings.catalog import load_row
from workbench.settings.experiment import Experiment
from workbench.support.errors import WorkbenchError

BY_HAND = (0.62, 1.3, 0.8, 0.7)
"""What an initial box set by hand has of its object's distances l, t, r, b."""
REFINED_BY_HAND = (0.96, 1.05, 1.02, 0.95)
HALO = [effects.withStroke(linewidth=3, foreground="white")]


@dataclass(frozen=True, eq=False)
class Star:
    """What one cell samples for one object.

    Attributes:
        name: of the object.
        level: of the pyramid, 3 to 7.
        cell: ``[2]``, the cell's point, x and y in pixels.
        offsets: ``[9, 2]``, dy and dx of each tap as the deformable convolution receives them, in cells.
        initial, refined, target: boxes ``[4]`` in pixels; target is the object's.
    """

    name: str
    level: int
    cell: Tensor
    offsets: Tensor
    initial: Tensor
    refined: Tensor
    target: Tensor

    @property
    def stride(self) -> int:
        """Pixels a cell."""
        return 2**self.level

    @property
    def points(self) -> Tensor:
        """``[9, 2]``, where the convolution samples: x and y in pixels."""
        return self.cell + (self.offsets + regular_grid("cpu").view(9, 2)).flip(-1) * self.stride

    @property
    def quality(self) -> tuple[float, float]:
        """IoU of the initial and of the refined box with the object."""
        return aligned_iou(self.initial, self.target).item(), aligned_iou(self.refined, self.target).item()


def find_stars(
    picture: Picture, results: Path | str, scale: str, data: str | None = None, most: int = 3
) -> tuple[list[Star], str]:
    """Stars of a trained VFNet where ``find_run`` finds one, else of boxes set by hand, and a line that says which.

    Raises:
        WorkbenchError: no object of the picture has a cell assigned to it.
    """
    found = find_run(results, scale, data)
    if found is None:
        detector = build_detector(load_row("table3", "t3_full_vfl", scale).experiment)
        said = f"No trained VFNet at scale {scale} yet (snakemake --cores all t3_full_vfl): the boxes are set by hand."
        stars = hand_made_stars(detector, picture, most)
    else:
        folder, training = found
        stars = trained_stars(load_run(folder, training).detector, picture, most)
        said = f"Weights of {folder.name}, {seed_folder(training)}."
    if not stars:
        raise WorkbenchError("no object of this picture is assigned to a cell; choose another PICTURE")
    return stars, said


def find_run(results: Path | str, scale: str, data: str | None = None) -> tuple[Path, int | str] | None:
    """Folder and training of the full VFNet of Table 3 in ``results`` (``results/<scale>``), else any VFNet's there.

    Args:
        data: folder of the data set, for a scale that does not draw its own.
    """
    runs = Path(results) / "runs"
    row = load_row("table3", "t3_full_vfl", scale, Path(data) if data else None)
    others = sorted(path.parent for path in runs.glob("*/experiment.json") if path.parent.name != row.run)
    for folder in (runs / row.run, *others):
        weights = sorted(folder.glob("*/model.safetensors"), key=lambda path: (path.parent.name == "released", path))
        if weights and _refines(read_experiment(folder)):
            training = weights[0].parent.name
            return folder, training if training == "released" else int(training.removeprefix("seed"))
    return None


def _refines(experiment: Experiment) -> bool:
    detector = experiment.detector
    return detector.family == "vfnet" and detector.refine


@torch.no_grad()
def received_offsets(detector: DenseDetector, images: Tensor) -> tuple[Predictions, list[Tensor]]:
    """Predictions for images ``[B, 3, H, W]``, and what the star convolution got, ``[B, 18, H_l, W_l]`` a level."""
    received: list[Tensor] = []
    hook = detector.head.cls_star.register_forward_pre_hook(lambda _, arguments: received.append(arguments[1]))
    try:
        return detector.predict(images), received
    finally:
        hook.remove()


def trained_stars(detector: DenseDetector, picture: Picture, most: int = 3) -> list[Star]:
    """The stars of the objects that are found best, each of the cell of highest score among those assigned to it."""
    predictions, received = received_offsets(detector, picture.batch.images)
    offsets = torch.cat([level[0].flatten(1).T for level in received]).view(-1, 9, 2)
    index = detector.assign(predictions, picture.batch).index[0]
    scores = predictions.scores().classes[0].amax(-1)
    points, levels = torch.cat(list(predictions.points)), _levels(predictions)
    found = []
    for number, name in enumerate(picture.names):
        score, cell = torch.where(index == number, scores, -1.0).max(0)
        if score >= 0:
            boxes = predictions.initial_boxes[0, cell], predictions.boxes[0, cell], picture.boxes[number]
            found.append((score.item(), Star(name, levels[cell].item(), points[cell], offsets[cell], *boxes)))
    return [star for _, star in sorted(found, key=lambda pair: -pair[0])[:most]]


@torch.no_grad()
def hand_made_stars(detector: DenseDetector, picture: Picture, most: int = 3) -> list[Star]:
    """The stars of boxes set by hand, at cells assigned to the largest objects; the detector may be untrained."""
    predictions = detector.predict(picture.batch.images)
    index = detector.assign(predictions, picture.batch).index[0]
    points, levels = torch.cat(list(predictions.points)), _levels(predictions)
    stars = []
    for number in picture.largest(most):
        taken = (index == number).nonzero()[:, 0]
        if len(taken):
            cell = taken[len(taken) // 2]
            target = picture.boxes[number]
            true = encode_distances(points[cell], target)
            initial = true * true.new_tensor(BY_HAND)
            offsets = star_offsets(initial.view(1, 4, 1, 1), predictions.strides[levels[cell] - 3]).view(9, 2)
            boxes = [decode_distances(points[cell], d) for d in (initial, true * true.new_tensor(REFINED_BY_HAND))]
            stars.append(Star(picture.names[number], levels[cell].item(), points[cell], offsets, *boxes, target))
    return stars


def _levels(predictions: Predictions) -> Tensor:
    """``[P]``, the pyramid's level of each cell."""
    return torch.cat([torch.full((len(at),), number) for number, at in enumerate(predictions.points, 3)])


def taps(star: Star) -> pd.DataFrame:
    """The nine taps: regular position and offset in cells, sampled point in pixels."""
    columns = torch.cat([regular_grid("cpu").view(9, 2), star.offsets, star.points], dim=1).double().round(decimals=2)
    names = ["grid dy", "grid dx", "offset dy", "offset dx", "x (px)", "y (px)"]
    return pd.DataFrame((columns + 0.0).tolist(), columns=names).rename_axis("tap")


def refinement(stars: Sequence[Star]) -> pd.DataFrame:
    """How each star's box changes: the factors of its four distances, and its IoU before and after."""
    lines = []
    for star in stars:
        before, after = (encode_distances(star.cell, box) for box in (star.initial, star.refined))
        factors = dict(zip(("Δl", "Δt", "Δr", "Δb"), (after / before).tolist(), strict=True))
        lines.append({"object": star.name, **factors, **dict(zip(("IoU'", "IoU"), star.quality, strict=True))})
    return pd.DataFrame(lines).set_index("object").round(2)


@drawing
def draw_stars(picture: Picture, stars: Sequence[Star]) -> Figure:
    """Each star on its part of the picture: the object's box, the initial and the refined one, and the nine points."""
    figure = Figure(figsize=(WIDTH, 0.85 + WIDTH / max(len(stars), 2)), layout="constrained")
    axes = figure.subplots(1, len(stars), squeeze=False)[0]
    for axis, star in zip(axes, stars, strict=True):
        show(axis, picture)
        _draw_box(axis, star.target, "object", color="black", linewidth=1.6, linestyle=(0, (1, 1.3)))
        # The widest first: where the boxes are nearly the same, all of them are seen.
        _draw_box(axis, star.refined, "refined box", color=COLOURS[5], linewidth=3.5)
        _draw_box(axis, star.initial, "initial box", color="#8C3B00", linewidth=1.4, linestyle=(0, (5, 2)), halo=False)
        for point in star.points.tolist():
            axis.plot(*zip(star.cell.tolist(), point, strict=True), color="black", linewidth=0.5, zorder=4)
        points = {"color": "white", "markeredgecolor": "black", "markersize": 5, "label": "sampled point"}
        axis.plot(*star.points.T, "o", **points, zorder=5)
        axis.plot(*star.cell, "P", color="black", markersize=6, label="the cell's own point", zorder=6)
        axis.set_title(f"{star.name}\nP{star.level}, IoU {star.quality[0]:.2f} → {star.quality[1]:.2f}")
        axis.set_xlabel("x (pixels)")
        axis.set_ylabel("y (pixels)")
        _look_at(axis, torch.stack([star.target, star.initial, star.refined]).view(-1, 2), margin=0.25)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, columnspacing=1.2)
    return figure


@drawing
def draw_offsets(picture: Picture, star: Star) -> Figure:
    """What the deformable convolution receives: an offset for each tap of its regular grid, in cells of the level."""
    figure = Figure(figsize=(4.2, 4.7), layout="constrained")
    axis = figure.subplots()
    show(axis, picture, star.stride)
    start = star.cell / star.stride + regular_grid("cpu").view(9, 2).flip(-1)
    for number, (tap, offset) in enumerate(zip(start.tolist(), star.offsets.flip(-1).tolist(), strict=True)):
        end = (tap[0] + offset[0], tap[1] + offset[1])
        arrow = {"arrowstyle": "-|>", "color": COLOURS[1], "linewidth": 1.1, "shrinkA": 0, "shrinkB": 4}
        axis.annotate("", end, tap, arrowprops=arrow, zorder=4)
        axis.annotate(str(number), end, (5, 3), textcoords="offset points", path_effects=HALO, zorder=7)
    axis.plot(*start.T, "s", color="white", markeredgecolor="black", markersize=5, label="regular grid", zorder=5)
    ends = star.points / star.stride
    axis.plot(*ends.T, "o", color=COLOURS[0], markeredgecolor="black", markersize=6, label="sampled point", zorder=6)
    axis.plot([], [], color=COLOURS[1], marker=">", markevery=[-1], label="offset")
    _look_at(axis, torch.cat([start, ends]), margin=0.15)
    axis.grid(True, color="#8A8A8A", zorder=1)
    axis.set_axisbelow(False)
    axis.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(9, integer=True))
    axis.set_xlabel(f"x (cells of P{star.level}, {star.stride} pixels each)")
    axis.set_ylabel("y (cells)")
    axis.set_title(f"{star.name}: taps 0 to 8")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _look_at(axis: Axes, points: Tensor, margin: float) -> None:
    """Limits of a square around points ``[N, 2]``, with a margin in shares of its side; it may leave the picture."""
    low, high = points.amin(0), points.amax(0)
    half = (high - low).max().item() * (0.5 + margin)
    x, y = ((low + high) / 2).tolist()
    axis.set_xlim(x - half, x + half)
    axis.set_ylim(y + half, y - half)


def _draw_box(axis: Axes, box: Tensor, label: str, halo: bool = True, **style: object) -> None:
    x1, y1, x2, y2 = box.tolist()
    effect = HALO if halo else None
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], label=label, path_effects=effect, zorder=3, **style)
