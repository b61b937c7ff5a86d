"""Functions that the objectives share: the loss of each entry, and the factors of images with normalisers per device."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from workbench.assigners.assignment import BACKGROUND, IGNORE, PADDING, Assignment
from workbench.detectors.targets import classification_losses, image_weights
from workbench.losses.classification import CLASSIFICATION_LOSSES, ClassificationLoss

CLASSES = 80


class Recorder(ClassificationLoss):
    """Loss of target + 1 for every entry, so that the loss shows the target."""

    wants_quality: ClassVar[bool] = True
    counts_padding: ClassVar[bool] = False

    def __call__(self, logits, target):
        assert logits.dtype == target.dtype == torch.float32
        return target + 1 + 0 * logits


class PlainRecorder(Recorder):
    wants_quality: ClassVar[bool] = False
    counts_padding: ClassVar[bool] = True


INDEX = torch.tensor([[BACKGROUND, 1, PADDING, IGNORE], [0, BACKGROUND, 2, PADDING]])
LABELS, QUALITY = torch.tensor([3, 0, 79]), torch.tensor([0.5, 0.25, 1e-6])
POSITIVES = [
    ((0, 1, 3), 0.5),
    ((1, 0, 0), 0.25),
    ((1, 2, 79), 1e-6),
]  # (image, location, class) and quality of each positive


def of(loss, logits=None):
    logits = torch.zeros(2, 4, CLASSES) if logits is None else logits
    return classification_losses(loss, logits, Assignment(INDEX), LABELS, QUALITY)


def test_the_quality_is_the_target_of_the_objects_class_only():
    expected = torch.ones(2, 4, CLASSES)
    for place, quality in POSITIVES:
        expected[place] += quality
    expected[0, 2:] = expected[1, 3] = 0
    assert torch.equal(of(Recorder()), expected)


def test_a_loss_without_quality_gets_a_target_of_one_and_may_count_padding():
    expected = torch.ones(2, 4, CLASSES)
    for place, _ in POSITIVES:
        expected[place] = 2
    expected[0, 3] = 0  # ignored for every loss
    assert torch.equal(of(PlainRecorder()), expected)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_every_loss_agrees_entry_by_entry(name):
    """Each entry is the loss of its own logit and target; the other classes of a positive are ordinary negatives."""
    loss = CLASSIFICATION_LOSSES[name]()
    logits = torch.randn(2, 4, CLASSES, generator=torch.Generator().manual_seed(0))
    actual = of(loss, logits)
    targets = {place: quality if loss.wants_quality else 1.0 for place, quality in POSITIVES}
    for b, index in enumerate(INDEX.tolist()):
        for location, owner in enumerate(index):
            left_out = owner == IGNORE or (owner == PADDING and not loss.counts_padding)
            for c in (0, 3, 40, 79):
                alone = loss(logits[b, location, c : c + 1], torch.tensor([targets.get((b, location, c), 0.0)]))
                assert actual[b, location, c].item() == pytest.approx(0 if left_out else alone.item(), rel=1e-6)
    assert (actual[0, 3] == 0).all()
    assert (actual[0, 2] > 0).all() == loss.counts_padding
    assert (actual[0, 1] > 0).all()


def test_losses_of_half_precision_logits_are_in_single_precision():
    logits = torch.full((2, 4, CLASSES), 2.0, dtype=torch.bfloat16, requires_grad=True)
    of(Recorder(), logits)  # checks the types of its arguments
    actual = of(CLASSIFICATION_LOSSES["varifocal"](), logits)
    assert actual.dtype == torch.float32
    actual.sum().backward()
    assert logits.grad.isfinite().all()


def test_all_is_background_without_objects():
    logits = torch.zeros(2, 4, CLASSES, requires_grad=True)
    index = torch.full((2, 4), BACKGROUND)
    none = torch.zeros(0)
    actual = classification_losses(Recorder(), logits, Assignment(index), none.long(), none)
    assert (actual == 1).all()
    actual.sum().backward()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5], [1 / 5]),
        ([5, 3], [1 / 8] * 2),
        ([5, 3, 0, 2], [1 / 10] * 4),
        ([5, 3, 0, 2, 4], [1 / 20] * 4 + [1 / 8]),  # two groups of equal weight
        ([0, 0, 0, 0, 4], [1 / 2] * 4 + [1 / 8]),  # a group without positives counts 1
        ([1, 1, 1, 1, 2, 0, 0, 2], [1 / 8] * 8),
        ([0.25, 0.5], [1, 1]),  # at least 1
        ([0], [1]),
    ],
    ids=str,
)
def test_factors_of_images_are_of_groups_of_four(counts, expected):
    assert image_weights(torch.tensor(counts), 4, torch.float32).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("images", [1, 2, 4, 5, 8, 10])
def test_weighted_sums_are_the_mean_over_groups(images):
    rng = torch.Generator().manual_seed(images)
    sums = torch.rand(images, generator=rng, dtype=torch.float64)
    counts = torch.randint(0, 4, (images,), generator=rng)
    groups = [range(start, min(start + 4, images)) for start in range(0, images, 4)]
    expected = 0.0
    for group in groups:
        count = max(sum(counts[i].item() for i in group), 1)
        expected += sum(sums[i].item() for i in group) / count / len(groups)
    assert (sums * image_weights(counts, 4, torch.float64)).sum().item() == pytest.approx(expected)
