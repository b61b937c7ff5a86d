"""Classification losses compared: values, gradients and weights over the predicted score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from workbench.losses.classification import ClassificationLoss
from workbench.report.figures.drawing import drawing
from workbench.report.figures.style import COLOURS, DASHES, WIDTH

Losses = Mapping[str, ClassificationLoss]

SCORES = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)


def target_of(loss: ClassificationLoss, quality: float) -> float:
    """Return the target of a prediction whose box has the IoU `quality` with its object; 0 for background."""
    return quality if loss.wants_quality else float(quality > 0)


def values_and_gradients(loss: ClassificationLoss, scores: Tensor, quality: float) -> tuple[Tensor, Tensor]:
    """Return the loss and its derivative with respect to the logit, each ``[N]``.

    Args:
        scores: ``[N]``, predicted probabilities.
        quality: IoU of the predicted box with its object, 0 for background.
    """
    logits = scores.double().logit().requires_grad_()
    values = loss(logits, torch.full_like(scores.double(), target_of(loss, quality)))
    (gradients,) = torch.autograd.grad(values.sum(), logits)
    return values.detach(), gradients


def weights(loss: ClassificationLoss, scores: Tensor, quality: float) -> Tensor:
    """Return the factor between the loss and the binary cross entropy, ``[N]``.

    Args:
        scores: ``[N]``, predicted probabilities.
        quality: IoU of the predicted box with its object, 0 for background.
    """
    target = torch.full_like(scores.double(), target_of(loss, quality))
    logits = scores.double().logit()
    return loss(logits, target) / F.binary_cross_entropy_with_logits(logits, target, reduction="none")


@drawing
def draw_losses(losses: Losses, qualities: Sequence[float]) -> Figure:
    """Draw values (above) and gradients (below), one column per quality."""
    figure, axes = _panels(2, len(qualities))
    for column, quality in zip(axes.T, qualities, strict=True):
        for number, (name, loss) in enumerate(losses.items()):
            for axis, line in zip(column, values_and_gradients(loss, SCORES, quality), strict=True):
                axis.plot(SCORES, line, label=name, **_line(number))
        column[1].axhline(0, color="black", linewidth=0.6)
        for axis in column:
            _mark(axis, quality)
        column[0].set_title(_title(quality))
        column[1].set_xlabel("score p")
    axes[0, 0].set_ylim(0, 2)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("gradient w.r.t. the logit")
    return _with_legend(figure, axes[0, 0])


@drawing
def draw_weights(losses: Losses, qualities: Sequence[float]) -> Figure:
    """Draw the weight of the cross entropy over the score, one panel per quality."""
    figure, axes = _panels(1, len(qualities))
    for axis, quality in zip(axes[0], qualities, strict=True):
        for number, (name, loss) in enumerate(losses.items()):
            axis.plot(SCORES, weights(loss, SCORES, quality), label=name, **_line(number))
        _mark(axis, quality)
        axis.set_title(_title(quality))
        axis.set_xlabel("score p")
    axes[0, 0].set_ylim(0, 1.05)
    axes[0, 0].set_ylabel("weight of the cross entropy")
    return _with_legend(figure, axes[0, 0])


@drawing
def draw_weighting(losses: Losses, scores: Sequence[float]) -> Figure:
    """Draw the negative gradient of a positive over its quality, one panel per current score."""
    figure, axes = _panels(1, len(scores))
    qualities = torch.linspace(0.02, 1, 99, dtype=torch.float64)
    for axis, score in zip(axes[0], scores, strict=True):
        for number, (name, loss) in enumerate(losses.items()):
            pulls = [-values_and_gradients(loss, torch.tensor([score]), q)[1].item() for q in qualities.tolist()]
            axis.plot(qualities, pulls, label=name, **_line(number))
        axis.axhline(0, color="black", linewidth=0.6)
        _mark(axis, score)
        axis.set_title(f"score p = {score:g}")
        axis.set_xlabel("quality q (IoU)")
    axes[0, 0].set_ylabel("upward pull (−gradient)")
    return _with_legend(figure, axes[0, 0])


def _panels(rows: int, columns: int) -> tuple[Figure, object]:
    figure = Figure(figsize=(WIDTH, 0.45 + 2.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    for axis in axes.flat:
        axis.grid(True)
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    return figure, axes


def _line(number: int) -> dict:
    """Return the style of a line. The first line is wide and light, so that a line on top of it is visible."""
    colour = COLOURS[(5, 1, 0, 3)[number % 4]]
    return {"color": colour, "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.5 if number else 3.2}


def _mark(axis: Axes, equality: float) -> None:
    """Draw a vertical line at the value at which score and quality are equal."""
    if 0 < equality < 1:
        axis.axvline(equality, color="#777777", linewidth=0.7, zorder=1)


def _title(quality: float) -> str:
    return f"object, q = {quality:g}" if quality else "background, q = 0"


def _with_legend(figure: Figure, axis: Axes) -> Figure:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, handlelength=3.6)
    return figure
