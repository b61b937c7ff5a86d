"""Functions that the objectives share: losses of the classification, and factors of images with own normalisers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.assigners.assignment import IGNORE, PADDING, Assignment
from workbench.detectors.parts import full_precision
from workbench.losses.classification import ClassificationLoss

LEAST_QUALITY = 1e-6
"""Floor of the quality, where an objective uses it: a positive whose box misses its object stays a positive."""


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
    logits = full_precision(logits)
    target = torch.zeros_like(logits)
    quality = quality.to(target.dtype)
    target[image, location, labels] = quality if loss.wants_quality else torch.ones_like(quality)
    losses = loss(logits, target)
    left_out = assignment.index == IGNORE
    if not loss.counts_padding:
        left_out |= assignment.index == PADDING
    return losses * ~left_out.unsqueeze(-1)


def image_weights(counts: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    """Factors ``[B]`` of the images' sums of losses, where each group of images has a normaliser of its own.

    The losses of a group are divided by the sum of its counts (at least 1). The groups are averaged, as gradients are
    over devices: in the published trainings each device had a normaliser of its own.

    Args:
        counts: ``[B]``, contribution of each image to the normaliser of its group.
        group: number of images of a group; the last group may have fewer.
        dtype: of the losses, so that the product has their precision.
    """
    groups = F.pad(counts.double(), (0, -len(counts) % group)).view(-1, group).sum(1)
    weights = 1 / (groups.clamp(min=1) * len(groups))
    return weights.repeat_interleave(group)[: len(counts)].to(dtype)
