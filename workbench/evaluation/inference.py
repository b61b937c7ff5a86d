"""A trained run over images: detections in COCO's results format, and runs loaded from their folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from workbench.data import loader
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection
from workbench.detectors import DenseDetector, Detections, Detector, Predictions
from workbench.detectors.oracle import put_truth
from workbench.detectors.postprocess import postprocess, to_original_pixels
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
    if variant.oracle is not None:
        for batch, predictions in predicted_images(detector, part, variant.image, device, workers, reporter):
            results += detections_of_image(detector, data, batch, predictions, variant)
        return results
    detector = detector.to(device)
    for batch in _images(part, variant.image, device, workers, reporter):
        results += _coco_results(detector.detect(batch.images, batch.sizes, variant), batch, data)
    return results


def predicted_images(
    detector: DenseDetector,
    data: CocoDetection,
    size: ImageSize,
    device: torch.device | str,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> Iterator[tuple[Batch, Predictions]]:
    """Every image of a data set in file order, as a batch of one on the device, with what is predicted for it."""
    detector = detector.to(device)
    for batch in _images(data, size, device, workers, reporter):
        yield batch, detector.infer(batch.images)


def _images(
    data: CocoDetection, size: ImageSize, device: torch.device | str, workers: int, reporter: Reporter | None
) -> Iterator[Batch]:
    """Every image of a data set in file order, as a batch of one on the device."""
    batches = loader.evaluation_batches(data, size=(size.long, size.short), workers=workers)
    for number, batch in enumerate(batches, 1):
        yield batch.to(device)
        if reporter:
            reporter.advance(number, "images")


def detections_of_image(
    detector: DenseDetector, data: CocoDetection, batch: Batch, predictions: Predictions, variant: Variant
) -> list[dict]:
    """What an evaluation makes of the predictions for a batch of one image; see ``detect_data_set``."""
    if variant.oracle is not None:
        predictions = put_truth(predictions, detector.assign(predictions, batch), batch, variant.oracle)
    return _coco_results(postprocess(predictions, batch.sizes, variant), batch, data)


def _coco_results(detections: list[Detections], batch: Batch, data: CocoDetection) -> list[dict]:
    """Detections of a batch, in pixels of its images, in COCO's results format."""
    results = []
    for image_id, one in zip(batch.image_ids, to_original_pixels(detections, batch), strict=True):
        sides = torch.cat([one.boxes[:, :2], one.boxes[:, 2:] - one.boxes[:, :2]], dim=1)
        results += [
            {"image_id": image_id, "category_id": data.category_ids[label], "bbox": box, "score": score}
            for box, score, label in zip(
                sides.double().round(decimals=3).tolist(),
                one.scores.double().round(decimals=6).tolist(),
                one.labels.tolist(),
                strict=True,
            )
        ]
    return results
