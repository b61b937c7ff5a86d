"""Detections of a detector on the images of a data set, in COCO's results format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from workbench.data import loader
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection
from workbench.detectors import DenseDetector, Detector, Predictions
from workbench.detectors.oracle import put_truth
from workbench.detectors.postprocess import postprocess, to_original_pixels
from workbench.detectors.predictions import Detections
from workbench.settings.data import ImageSize
from workbench.settings.variant import Variant
from workbench.support.errors import WorkbenchError
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
    """Detect the objects in all images of a data set, one image at a time.

    Args:
        detector: any detector; a variant with an oracle needs a dense one.
        data: images; of several ranks each one takes every ``ranks``-th image.
        variant: test size, oracle and post-processing.

    Returns:
        ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`` in pixels of the original images, image by image.

    Raises:
        WorkbenchError: the variant has an oracle and the detector is not dense, or the detector predicts NaN.
    """
    part = replace(data, images=data.images[rank::ranks])
    results: list[dict] = []
    if isinstance(detector, DenseDetector):
        for batch, predictions in predicted_images(detector, part, variant.image, device, workers, reporter):
            results += detections_of_image(detector, data, batch, predictions, variant)
        return results
    if variant.oracle is not None:
        raise WorkbenchError(
            f"oracle: {type(detector).__name__} is not a dense detector; choose a variant without an oracle"
        )
    for batch in _images(detector, part, variant.image, device, workers, reporter):
        with enough_values(batch):
            detections = detector.detect(batch.images, batch.sizes, variant)
        _refuse_nan(batch, *(values for one in detections for values in (one.boxes, one.scores)))
        results += _results(data, batch, detections)
    return results


def predicted_images(
    detector: DenseDetector,
    data: CocoDetection,
    size: ImageSize,
    device: torch.device | str,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> Iterator[tuple[Batch, Predictions]]:
    """Iterate over the images of a data set in file order: a batch of one image, and a dense detector's predictions.

    Raises:
        WorkbenchError: the detector predicts NaN, which post-processing would drop silently.
    """
    for batch in _images(detector, data, size, device, workers, reporter):
        with enough_values(batch):
            predictions = detector.infer(batch.images)
        _refuse_nan(batch, predictions.logits, predictions.boxes, predictions.quality)
        yield batch, predictions


@contextmanager
def enough_values(batch: Batch) -> Iterator[None]:
    """Report in one line that a normalisation layer gets one value per channel, or per group of channels."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        count, _, height, width = batch.images.shape
        raise WorkbenchError(
            f"{', '.join(batch.file_names)}: {count} image of {height}x{width} pixels gives a normalisation layer one "
            "value per channel; enlarge image.short or training.canvas, or choose backbone.norm: frozen, or "
            "fewer norm_groups"
        ) from None


def _refuse_nan(batch: Batch, *predicted: Tensor | None) -> None:
    if torch.stack([values.isnan().any() for values in predicted if values is not None]).any():
        raise WorkbenchError(
            f"{', '.join(batch.file_names)}: the detector predicts NaN for this image, so its training has diverged; "
            "lower training.learning_rate and train again"
        )


def detections_of_image(
    detector: DenseDetector, data: CocoDetection, batch: Batch, predictions: Predictions, variant: Variant
) -> list[dict]:
    """Detections from a dense detector's predictions for a batch of one image, in the format of ``detect_data_set``."""
    if variant.oracle is not None:
        predictions = put_truth(predictions, detector.assign(predictions, batch), batch, variant.oracle)
    return _results(data, batch, postprocess(predictions, batch.sizes, variant))


def _images(
    detector: Detector,
    data: CocoDetection,
    size: ImageSize,
    device: torch.device | str,
    workers: int,
    reporter: Reporter | None,
) -> Iterator[Batch]:
    """Batches of one image in file order; the detector and the batches are moved to the device."""
    detector.to(device)
    batches = loader.evaluation_batches(data, size=(size.long, size.short), workers=workers)
    for number, batch in enumerate(batches, 1):
        yield batch.to(device)
        if reporter:
            reporter.advance(number, "images")


def _results(data: CocoDetection, batch: Batch, detections: list[Detections]) -> list[dict]:
    """Detections of a batch in COCO's results format; boxes rounded to 3 decimals, scores to 6."""
    results = []
    for image_id, one in zip(batch.image_ids, to_original_pixels(detections, batch), strict=True):
        boxes = one.boxes.clone()
        boxes[:, 2:] -= boxes[:, :2]
        results += [
            {"image_id": image_id, "category_id": data.category_ids[label], "bbox": box, "score": score}
            for box, score, label in zip(
                boxes.double().round(decimals=3).tolist(),
                one.scores.double().round(decimals=6).tolist(),
                one.labels.tolist(),
                strict=True,
            )
        ]
    return results
