"""What every head does with its assignment: the classification target, and the division of sums by counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.assigners.assignment import IGNORE, PADDING, Assignment
from workbench.losses.classification import ClassificationLoss

LEAST_QUALITY = 1e-6
"""Where a detector says so: a positive whose box misses its object altogether stays a positive."""
IMAGES_OF_A_DEVICE = 4
"""RetinaNet, FoveaBox and RepPoints were trained on devices with 4 images and normalisers of their own."""


def classification_losses(
    loss: ClassificationLoss, logits: Tensor, assignment: Assignment, labels: Tensor, quality: Tensor
) -> Tensor:
    """Loss ``[B, P, C]`` of every entry, not normalised; 0 for cells that are left out.

    Args:
        logits: ``[B, P, C]``.
        assignment: of B images with N positives.
        labels: ``[N]``, class indices of the positives' objects.
        quality: ``[N]`` in [0, 1], what the target is for a loss that wants a quality; 1 for others.
    """
    image, cell = assignment.where
    target = torch.zeros_like(logits, dtype=torch.float32)
    target[image, cell, labels] = quality if loss.wants_quality else torch.ones_like(quality)
    losses = loss(logits.float(), target)
    left_out = assignment.index == IGNORE
    if not loss.counts_padding:
        left_out |= assignment.index == PADDING
    return losses * ~left_out.unsqueeze(-1)


def image_weights(counts: Tensor) -> Tensor:
    """What each image's sum of losses is multiplied by, ``[B]``, where normalisers are a device's own.

    A device's images, four at a time, are divided by the sum of their counts (at least 1); the groups are averaged, as
    gradients are over devices.

    Args:
        counts: ``[B]``, what each image adds to its device's normaliser.
    """
    groups = F.pad(counts.float(), (0, -len(counts) % IMAGES_OF_A_DEVICE)).view(-1, IMAGES_OF_A_DEVICE).sum(1)
    weights = 1 / (groups.clamp(min=1) * len(groups))
    return weights.repeat_interleave(IMAGES_OF_A_DEVICE)[: len(counts)]


def mean_over_ranks(*values: Tensor) -> list[Tensor]:
    """Each scalar averaged over all processes, detached; what it was in a single process.

    Every rank must call it at the same point, with positives or without, or the others wait for ever.
    """
    stacked = torch.stack([value.detach().float() for value in values])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked /= torch.distributed.get_world_size()
    return list(stacked.unbind())
