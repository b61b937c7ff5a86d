"""A trained run over images: detections in COCO's results format, and runs loaded from their folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from workbench.data import loader
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection
from workbench.detectors import Detector, Predictions
from workbench.detectors.oracle import put_truth
from workbench.detectors.postprocess import postprocess
from workbench.settings.data import ImageSize
from workbench.settings.variant import Variant
from workbench.support.progress import Reporter


def detect_data_set(
    detector: Detector,
    data: CocoDetection,
    variant: Variant,
    device: torch.device | str,
    workers: int = 0,
    *,
    rank: int = 0,
    ranks: int = 1,
    reporter: Reporter | None = None,
) -> list[dict]:
    """Detections of every image, one image at a time, in COCO's results format.

    Args:
        data: the images; with several ranks each takes every ``ranks``-th.
        variant: test size, oracle and post-processing.

    Returns:
        ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`` in original pixels, image by image.
    """
    part = replace(data, images=data.images[rank::ranks])
    results: list[dict] = []
    for batch, predictions in predicted_images(detector, part, variant.image, device, workers, reporter):
        results += detections_of_image(detector, data, batch, predictions, variant)
    return results


def predicted_images(
    detector: Detector,
    data: CocoDetection,
    size: ImageSize,
    device: torch.device | str,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> Iterator[tuple[Batch, Predictions]]:
    """Every image of a data set in file order, as a batch of one on the device, with what is predicted for it."""
    detector = detector.to(device)
    batches = loader.evaluation_batches(data, size=(size.long, size.short), workers=workers)
    for number, batch in enumerate(batches, 1):
        there = batch.to(device)
        yield there, detector.infer(there.images)
        if reporter:
            reporter.advance(number, "images")


def detections_of_image(
    detector: Detector, data: CocoDetection, batch: Batch, predictions: Predictions, variant: Variant
) -> list[dict]:
    """What an evaluation makes of the predictions for a batch of one image; see ``detect_data_set``."""
    if variant.oracle is not None:
        predictions = put_truth(predictions, detector.assign(predictions, batch), batch, variant.oracle)
    found = postprocess(predictions, batch.sizes, variant)[0]
    scale = (batch.original_sizes[0].cpu() / batch.sizes[0].cpu()).flip(0).repeat(2)
    boxes = found.boxes.cpu() * scale
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {"image_id": batch.image_ids[0], "category_id": data.category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(
            boxes.double().round(decimals=3).tolist(),
            found.scores.double().round(decimals=6).tolist(),
            found.labels.tolist(),
            strict=True,
        )
    ]
