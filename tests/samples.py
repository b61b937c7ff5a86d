"""Samples that many tests share: batches of drawn objects, random pyramids, and small detectors of every family."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from workbench.data.batch import Batch
from workbench.detectors import FAMILIES, DenseDetector
from workbench.detectors.predictions import Pyramid
from workbench.layers.backbones import ResidualBackbone
from workbench.losses.classification import ClassificationLoss
from workbench.settings.base import Settings
from workbench.settings.data import CocoData, ImageSize
from workbench.settings.experiment import Backbone, Experiment, Head, Training

STRIDES = (8, 16, 32, 64, 128)
CLASSES = 3
CANVAS = (96, 128)
SIZES = (CANVAS, (60, 50))
BACKBONE = Backbone(name="resnet50", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of the levels of a canvas."""
    return [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]


def pyramid(height: int = CANVAS[0], width: int = CANVAS[1], images: int = 2, channels: int = 8) -> Pyramid:
    """Random maps of five levels."""
    generator = torch.Generator().manual_seed(height)
    maps = [torch.randn(images, channels, *shape, generator=generator) for shape in level_shapes(height, width)]
    return Pyramid(maps, STRIDES)


def silent(sample: Pyramid) -> Pyramid:
    """Pyramid of zeros of the same shapes."""
    return Pyramid([torch.zeros_like(x) for x in sample.maps], sample.strides)


def make_batch(
    counts: Sequence[int],
    sizes: Sequence[tuple[int, int]] = SIZES,
    canvas: tuple[int, int] = CANVAS,
    smallest: float = 16,
    spread: float = 60,
) -> Batch:
    """Batch of black images with random objects.

    Args:
        counts: number of objects of each image.
        sizes: height and width of each image; taken in turns if there are more images than sizes.
        canvas: height and width of the padded images.
        smallest, spread: objects have sides of ``smallest`` to ``smallest + spread`` pixels, cut at the image's sides.
    """
    generator = torch.Generator().manual_seed(sum(counts))
    sizes = [sizes[b % len(sizes)] for b in range(len(counts))]
    boxes, valid = torch.zeros(len(counts), max(counts), 4), torch.zeros(len(counts), max(counts), dtype=torch.bool)
    labels = torch.zeros(valid.shape, dtype=torch.int64)
    for b, (count, (height, width)) in enumerate(zip(counts, sizes, strict=True)):
        low = torch.rand(count, 2, generator=generator) * torch.tensor([width - 20, height - 20])
        side = smallest + torch.rand(count, 2, generator=generator) * spread
        boxes[b, :count] = torch.cat([low, torch.minimum(low + side, torch.tensor([width, height]))], dim=1)
        labels[b, :count] = torch.randint(CLASSES, (count,), generator=generator)
        valid[b, :count] = True
    sizes, ids = torch.tensor(sizes), tuple(range(len(counts)))
    return Batch(torch.zeros(len(counts), 3, *canvas), boxes, labels, valid, sizes, sizes, ids, tuple(map(str, ids)))


class NoBackbone(nn.Identity):
    """Backbone without parameters, for tests that call a detector's head with a pyramid of their own."""

    channels = (8, 8, 8)
    strides = STRIDES[:3]


def make_experiment(
    detector: Settings, loss: ClassificationLoss, head: Head, backbone: Backbone = BACKBONE
) -> Experiment:
    """Experiment of a small detector on images of 128×96 pixels."""
    return Experiment(
        data=CocoData(classes=CLASSES),
        image=ImageSize(long=CANVAS[1], short=CANVAS[0]),
        backbone=backbone,
        head=head,
        detector=detector,
        loss=loss,
        training=Training(epochs=1),
    )


def make_detector(
    detector: Settings, loss: ClassificationLoss, head: Head, backbone: Backbone = BACKBONE, *, whole: bool = False
) -> DenseDetector:
    """Detector from its family's builder, repeatable; only with ``whole`` it has a backbone."""
    torch.manual_seed(0)
    network = ResidualBackbone(backbone) if whole else NoBackbone()
    return FAMILIES[detector.family].build(make_experiment(detector, loss, head, backbone), network)
