"""Nine sampling points of the star-shaped box feature, on a picture (VarifocalNet, section 4.2).

The offsets are recorded at the input of the deformable convolution of a trained detector. Without a trained detector,
they are computed from an example box.
"""

from __future__ import annotations

import contextlib
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
from workbench.report.figures.drawing import drawing
from workbench.report.figures.style import COLOURS, WIDTH
from workbench.runs.folders import Run, Training
from workbench.runs.load import load_training
from workbench.runs.results import ScaleFolder
from workbench.settings.catalog import load_row
from workbench.support.errors import WorkbenchError

INITIAL_FACTORS = (0.62, 1.3, 0.8, 0.7)
"""Distances l, t, r, b of an example's initial box, as factors of its object's distances."""
REFINED_FACTORS = (0.96, 1.05, 1.02, 0.95)
"""Distances l, t, r, b of an example's refined box, as factors of its object's distances."""
HALO = [effects.withStroke(linewidth=3, foreground="white")]


@dataclass(frozen=True, eq=False)
class Star:
    """Sampling points of one location for one object.

    Attributes:
        name: name of the object.
        level: level of the pyramid, 3 to 7.
        location: ``[2]``, point of the location, x and y in pixels.
        offsets: ``[9, 2]``, dy and dx of each tap as the deformable convolution receives them, in strides of the level.
        initial: ``[4]``, initial box in pixels.
        refined: ``[4]``, refined box in pixels.
        target: ``[4]``, box of the object in pixels.
    """

    name: str
    level: int
    location: Tensor
    offsets: Tensor
    initial: Tensor
    refined: Tensor
    target: Tensor

    @property
    def stride(self) -> int:
        """Distance between neighbouring locations in pixels, a power of 2."""
        return 2**self.level

    @property
    def points(self) -> Tensor:
        """Sampling points of the convolution, ``[9, 2]``: x and y in pixels."""
        return self.location + (self.offsets + regular_grid("cpu").view(9, 2)).flip(-1) * self.stride

    @property
    def quality(self) -> tuple[float, float]:
        """IoU of the initial box, and of the refined box, with the object."""
        return aligned_iou(self.initial, self.target).item(), aligned_iou(self.refined, self.target).item()


def find_stars(
    picture: Picture, results: Path | str, scale: str, data: str | None = None, most: int = 3
) -> tuple[list[Star], str]:
    """Return stars of a trained VFNet, and a line of text that names its training.

    If ``find_training_with_stars`` finds none, the stars are computed from example boxes, and the line reports this.

    Raises:
        WorkbenchError: no object of the picture has a location assigned to it.
    """
    training = find_training_with_stars(results, scale, data)
    if training is None:
        detector = build_detector(load_row("table3", "t3_full_vfl", scale).experiment)
        source = f"No trained VFNet at scale {scale}: the boxes are examples; run snakemake --cores all t3_full_vfl."
        stars = example_stars(detector, picture, most)
    else:
        stars = trained_stars(load_training(training).detector, picture, most)
        source = f"Weights of {training.run.name}, {training.name}."
    if not stars:
        raise WorkbenchError("picture: no location is assigned to any object; choose another PICTURE")
    return stars, source


def find_training_with_stars(results: Path | str, scale: str, data: str | None = None) -> Training | None:
    """Return the training of a VFNet in ``results`` (``results/<scale>``), or None.

    The full VFNet of Table 3 is preferred; otherwise any VFNet with refinement is returned. A run of an earlier version
    of the workbench is left out.

    Args:
        data: folder of the data set, for a scale that does not draw its own images.
    """
    folder = ScaleFolder(Path(results))
    row = load_row("table3", "t3_full_vfl", scale, Path(data) if data else None)
    if trainings := folder.run(row.run).finished_trainings():
        return trainings[0]
    others = (run for run in folder.runs() if run.settings.is_file() and run.finished_trainings())
    return next((run.finished_trainings()[0] for run in others if _refines(run)), None)


def _refines(run: Run) -> bool:
    with contextlib.suppress(WorkbenchError):
        detector = run.read_experiment().detector
        return detector.family == "vfnet" and detector.refine
    return False


@torch.no_grad()
def received_offsets(detector: DenseDetector, images: Tensor) -> tuple[Predictions, list[Tensor]]:
    """Return predictions for images ``[B, 3, H, W]``, and the offsets that the star convolution received.

    The offsets are ``[B, 18, H_l, W_l]`` for each level.
    """
    received: list[Tensor] = []
    hook = detector.head.cls_star.register_forward_pre_hook(lambda _, arguments: received.append(arguments[1]))
    try:
        return detector.predict(images), received
    finally:
        hook.remove()


def trained_stars(detector: DenseDetector, picture: Picture, most: int = 3) -> list[Star]:
    """Return the stars of the objects with the highest scores, each at its assigned location of highest score."""
    predictions, received = received_offsets(detector, picture.batch.images)
    offsets = torch.cat([level[0].flatten(1).T for level in received]).view(-1, 9, 2)
    index = detector.assign(predictions, picture.batch).index[0]
    scores = predictions.scores().classes[0].amax(-1)
    points, levels = torch.cat(list(predictions.points)), _levels(predictions)
    scored = []
    for number, name in enumerate(picture.names):
        score, location = torch.where(index == number, scores, -1.0).max(0)
        if score >= 0:
            boxes = predictions.initial_boxes[0, location], predictions.boxes[0, location], picture.boxes[number]
            scored.append(
                (score.item(), Star(name, levels[location].item(), points[location], offsets[location], *boxes))
            )
    return [star for _, star in sorted(scored, key=lambda pair: -pair[0])[:most]]


@torch.no_grad()
def example_stars(detector: DenseDetector, picture: Picture, most: int = 3) -> list[Star]:
    """Return the stars of example boxes at locations assigned to the largest objects; the detector may be untrained."""
    predictions = detector.predict(picture.batch.images)
    index = detector.assign(predictions, picture.batch).index[0]
    points, levels = torch.cat(list(predictions.points)), _levels(predictions)
    stars = []
    for number in picture.largest(most):
        assigned = (index == number).nonzero()[:, 0]
        if len(assigned):
            location = assigned[len(assigned) // 2]
            target = picture.boxes[number]
            distances = encode_distances(points[location], target)
            initial = distances * distances.new_tensor(INITIAL_FACTORS)
            offsets = star_offsets(initial.view(1, 4, 1, 1), predictions.strides[levels[location] - 3]).view(9, 2)
            refined = distances * distances.new_tensor(REFINED_FACTORS)
            boxes = [decode_distances(points[location], box) for box in (initial, refined)]
            stars.append(
                Star(picture.names[number], levels[location].item(), points[location], offsets, *boxes, target)
            )
    return stars


def _levels(predictions: Predictions) -> Tensor:
    """Return the pyramid level of each location, ``[P]``."""
    return torch.cat([torch.full((len(at),), number) for number, at in enumerate(predictions.points, 3)])


def taps(star: Star) -> pd.DataFrame:
    """Tabulate the nine taps: position in the regular grid and offset in strides, sampling point in pixels."""
    columns = torch.cat([regular_grid("cpu").view(9, 2), star.offsets, star.points], dim=1).double().round(decimals=2)
    names = ["grid dy", "grid dx", "offset dy", "offset dx", "x (px)", "y (px)"]
    return pd.DataFrame((columns + 0.0).tolist(), columns=names).rename_axis("tap")


def refinement(stars: Sequence[Star]) -> pd.DataFrame:
    """Tabulate the refinement of each star's box: the factors of its distances, and its IoU before and after."""
    lines = []
    for star in stars:
        before, after = (encode_distances(star.location, box) for box in (star.initial, star.refined))
        factors = dict(zip(("Δl", "Δt", "Δr", "Δb"), (after / before).tolist(), strict=True))
        lines.append({"object": star.name, **factors, **dict(zip(("IoU'", "IoU"), star.quality, strict=True))})
    return pd.DataFrame(lines).set_index("object").round(2)


@drawing
def draw_stars(picture: Picture, stars: Sequence[Star]) -> Figure:
    """Draw each star on its part of the picture: box of the object, initial box, refined box and nine points."""
    figure = Figure(figsize=(WIDTH, 0.85 + WIDTH / max(len(stars), 2)), layout="constrained")
    axes = figure.subplots(1, len(stars), squeeze=False)[0]
    for axis, star in zip(axes, stars, strict=True):
        show(axis, picture)
        _draw_box(axis, star.target, "object", color="black", linewidth=1.6, linestyle=(0, (1, 1.3)))
        # The widest line first, so that boxes that nearly coincide are all visible.
        _draw_box(axis, star.refined, "refined box", color=COLOURS[5], linewidth=3.5)
        _draw_box(axis, star.initial, "initial box", color="#8C3B00", linewidth=1.4, linestyle=(0, (5, 2)), halo=False)
        for point in star.points.tolist():
            axis.plot(*zip(star.location.tolist(), point, strict=True), color="black", linewidth=0.5, zorder=4)
        points = {"color": "white", "markeredgecolor": "black", "markersize": 5, "label": "sampling point"}
        axis.plot(*star.points.T, "o", **points, zorder=5)
        axis.plot(*star.location, "P", color="black", markersize=6, label="location", zorder=6)
        axis.set_title(f"{star.name}\nP{star.level}, IoU {star.quality[0]:.2f} → {star.quality[1]:.2f}")
        axis.set_xlabel("x (pixels)")
        axis.set_ylabel("y (pixels)")
        _look_at(axis, torch.stack([star.target, star.initial, star.refined]).view(-1, 2), margin=0.25)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, columnspacing=1.2)
    return figure


@drawing
def draw_offsets(picture: Picture, star: Star) -> Figure:
    """Draw the offsets that the deformable convolution receives, one for each tap of its grid, in strides."""
    figure = Figure(figsize=(4.2, 4.7), layout="constrained")
    axis = figure.subplots()
    show(axis, picture, star.stride)
    start = star.location / star.stride + regular_grid("cpu").view(9, 2).flip(-1)
    for number, (tap, offset) in enumerate(zip(start.tolist(), star.offsets.flip(-1).tolist(), strict=True)):
        end = (tap[0] + offset[0], tap[1] + offset[1])
        arrow = {"arrowstyle": "-|>", "color": COLOURS[1], "linewidth": 1.1, "shrinkA": 0, "shrinkB": 4}
        axis.annotate("", end, tap, arrowprops=arrow, zorder=4)
        axis.annotate(str(number), end, (5, 3), textcoords="offset points", path_effects=HALO, zorder=7)
    axis.plot(*start.T, "s", color="white", markeredgecolor="black", markersize=5, label="regular grid", zorder=5)
    ends = star.points / star.stride
    axis.plot(*ends.T, "o", color=COLOURS[0], markeredgecolor="black", markersize=6, label="sampling point", zorder=6)
    axis.plot([], [], color=COLOURS[1], marker=">", markevery=[-1], label="offset")
    _look_at(axis, torch.cat([start, ends]), margin=0.15)
    axis.grid(True, color="#8A8A8A", zorder=1)
    axis.set_axisbelow(False)
    axis.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(9, integer=True))
    axis.set_xlabel(f"x (strides of P{star.level}, {star.stride} pixels)")
    axis.set_ylabel("y (strides)")
    axis.set_title(f"{star.name}: taps 0 to 8")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _look_at(axis: Axes, points: Tensor, margin: float) -> None:
    """Set the limits to a square around points ``[N, 2]``, with a margin relative to its side.

    The square may extend beyond the picture.
    """
    low, high = points.amin(0), points.amax(0)
    half = (high - low).max().item() * (0.5 + margin)
    x, y = ((low + high) / 2).tolist()
    axis.set_xlim(x - half, x + half)
    axis.set_ylim(y + half, y - half)


def _draw_box(axis: Axes, box: Tensor, label: str, halo: bool = True, **style: object) -> None:
    x1, y1, x2, y2 = box.tolist()
    effect = HALO if halo else None
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], label=label, path_effects=effect, zorder=3, **style)
