"""What every assigner returns: for each cell of each image the object it is to predict, or why it predicts none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

BACKGROUND = -1
"""The cell is a negative."""
PADDING = -2
"""The cell lies in the image's padding: each classification loss says whether it counts it."""
IGNORE = -3
"""The cell takes no part in any loss."""


@dataclass(frozen=True)
class Assignment:
    """Targets of a batch.

    Attributes:
        index: ``[B, P]`` int64, the index of the cell's ground-truth object, or BACKGROUND, PADDING, IGNORE.
    """

    index: Tensor

    @property
    def positive(self) -> Tensor:
        """``[B, P]`` bool, cells with an object."""
        return self.index >= 0

    @cached_property
    def where(self) -> tuple[Tensor, Tensor]:
        """Image and cell of the N positives, each ``[N]``, in this order; found once: a GPU is waited for."""
        return self.positive.nonzero(as_tuple=True)

    def gather(self, values: Tensor) -> Tensor:
        """Values ``[B, G, ...]`` of the objects taken to the positives, ``[N, ...]``, in (image, cell) order."""
        image, cell = self.where
        return values[image, self.index[image, cell]]
