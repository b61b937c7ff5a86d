"""Terms of the loss, kept apart until the canvases of a step are known.

A step has several canvases, spread over the processes of a training. A term of one canvas is a value and the normaliser
that its sum was divided by. So the loss of a step does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.detectors.parts import full_precision


class Term(NamedTuple):
    """Term of the loss of one canvas.

    Attributes:
        value: scalar, weighted, divided by the canvas's own normaliser. It is the loss of a step with this one canvas.
        normaliser: scalar without a gradient, at least 0. The normalisers of a step's canvases are averaged before the
            division. None: each canvas keeps its own normaliser, as each GPU did in the published training.
        least: floor of the averaged normaliser.
    """

    value: Tensor
    normaliser: Tensor | None = None
    least: float = 1.0

    def value_in_step(self, mean: Tensor) -> Tensor:
        """The sum of this canvas, divided by the step's mean normaliser instead of the canvas's own."""
        return self.value * (self.normaliser.clamp(min=self.least) / mean.clamp(min=self.least))


def normalised(total: Tensor, normaliser: Tensor, least: float = 1.0) -> Term:
    """Term with the sum ``total`` and its normaliser, both scalars; only the sum has a gradient."""
    normaliser = full_precision(normaliser.detach())
    return Term(total / normaliser.clamp(min=least), normaliser, least)


def mean_normalisers(canvases: Sequence[Mapping[str, Term]]) -> dict[str, Tensor]:
    """Mean of each normaliser over the canvases of a step, in all processes; terms without a normaliser are left out.

    Every process must call it at the same point, with equally many canvases. Otherwise the others wait forever.
    """
    names = [name for name, term in canvases[0].items() if term.normaliser is not None]
    if not names:
        return {}
    means = torch.stack([torch.stack([canvas[name].normaliser for name in names]) for canvas in canvases]).mean(0)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(means)
        means /= torch.distributed.get_world_size()
    return dict(zip(names, means.unbind(), strict=True))


def step_terms(canvases: Sequence[Mapping[str, Term]], means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Terms of a step, each a scalar: the mean over some of its canvases.

    Args:
        canvases: canvases of one process, or a part of them.
        means: normalisers of the whole step, from ``mean_normalisers``.
    """
    return {
        name: sum(c[name].value_in_step(means[name]) if name in means else c[name].value for c in canvases)
        / len(canvases)
        for name in canvases[0]
    }
