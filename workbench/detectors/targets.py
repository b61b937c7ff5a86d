"""Functions that the objectives share: losses of the classification, and the division of sums by counts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.assigners.assignment import IGNORE, PADDING, Assignment
from workbench.losses.classification import ClassificationLoss

LEAST_QUALITY = 1e-6
"""Floor of the quality, where an objective uses it: a positive whose box misses its object stays a positive."""
IMAGES_OF_A_DEVICE = 4
"""Images per device in the published trainings of RetinaNet, FoveaBox and RepPoints, with normalisers per device."""


def classification_losses(
    loss: ClassificationLoss, logits: Tensor, assignment: Assignment, labels: Tensor, quality: Tensor
) -> Tensor:
    """Loss ``[B, P, C]`` of every entry, not normalised; 0 for locations that are left out.

    Args:
        loss: applied to all entries; it states whether it wants a quality and whether it counts padding.
        logits: ``[B, P, C]``.
        assignment: of B images with N positives.
        labels: ``[N]``, class indices of the positives' objects.
        quality: ``[N]`` in [0, 1], the positives' target for a loss that wants a quality; other losses get 1.
    """
    image, location = assignment.places
    target = torch.zeros_like(logits, dtype=torch.float32)
    target[image, location, labels] = quality if loss.wants_quality else torch.ones_like(quality)
    losses = loss(logits.float(), target)
    left_out = assignment.index == IGNORE
    if not loss.counts_padding:
        left_out |= assignment.index == PADDING
    return losses * ~left_out.unsqueeze(-1)


def image_weights(counts: Tensor) -> Tensor:
    """Factors ``[B]`` of the images' sums of losses, where each device has a normaliser of its own.

    The images of a device, four at a time, are divided by the sum of their counts (at least 1). The groups are
    averaged, as gradients are over devices.

    Args:
        counts: ``[B]``, contribution of each image to its device's normaliser.
    """
    groups = F.pad(counts.float(), (0, -len(counts) % IMAGES_OF_A_DEVICE)).view(-1, IMAGES_OF_A_DEVICE).sum(1)
    weights = 1 / (groups.clamp(min=1) * len(groups))
    return weights.repeat_interleave(IMAGES_OF_A_DEVICE)[: len(counts)]


def mean_over_ranks(*values: Tensor) -> list[Tensor]:
    """Mean of each scalar over all processes, detached; the value itself in a single process.

    Every rank must call it at the same point, with positives or without. Otherwise the other ranks wait forever.
    """
    stacked = torch.stack([value.detach().float() for value in values])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(stacked)
        stacked /= torch.distributed.get_world_size()
    return list(stacked.unbind())
