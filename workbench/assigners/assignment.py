"""Interface of the assigners: for each location of each image the object to predict, or the reason why there is none.

An assigner is a function ``(predictions, batch) → Assignment`` without parameters to learn; the protocols below list
all that assigners read. Each module has the rule as a plain function and a small frozen class that fits the interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

BACKGROUND = -1
"""The location is a negative."""
PADDING = -2
"""The location is in the image's padding: each classification loss states whether it counts padding."""
IGNORE = -3
"""The location takes no part in any loss."""


class Locations(Protocol):
    """Part of ``workbench.detectors.Predictions`` that assigners read, with the meaning and the shapes stated there."""

    points: Sequence[Tensor]
    shapes: Sequence[tuple[int, int]]
    strides: Sequence[int]
    boxes: Tensor
    initial_boxes: Tensor | None
    anchors: Tensor | None

    def inside(self, sizes: Tensor) -> Tensor: ...


class Objects(Protocol):
    """Part of ``workbench.data.batch.Batch`` that assigners read, with the meaning and the shapes stated there."""

    boxes: Tensor
    valid: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Assignment:
    """Targets of a batch of B images with P locations.

    Attributes:
        index: ``[B, P]`` int64, the index of the location's object, or BACKGROUND, PADDING, IGNORE.
    """

    index: Tensor

    @property
    def positive(self) -> Tensor:
        """Mask ``[B, P]`` of the locations with an object."""
        return self.index >= 0

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Image and location of the N positives, each ``[N]``, in this order. Computed once: a GPU must synchronise."""
        return self.positive.nonzero(as_tuple=True)

    def gather(self, values: Tensor) -> Tensor:
        """Values ``[N, ...]`` of the positives' objects, in (image, location) order, from values ``[B, G, ...]``."""
        image, location = self.places
        return values[image, self.index[image, location]]
