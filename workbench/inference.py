"""A trained run over images: detections in COCO's results format, and runs loaded from their folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from workbench.data import loader
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection, read_coco
from workbench.detectors import Detector, Predictions, build_detector
from workbench.errors import WorkbenchError, one_line
from workbench.experiment import Experiment, ImageSize, Variant, seed_folder
from workbench.files import read_json
from workbench.oracle import put_truth
from workbench.postprocess import postprocess
from workbench.progress import Reporter
from workbench.yamlfile import validated


@dataclass(frozen=True)
class TrainedRun:
    """A detector with the weights of a run, on the CPU and in evaluation mode."""

    detector: Detector
    experiment: Experiment
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    training: dict
    """What ``train.json`` says of how it was trained."""


def read_experiment(folder: Path) -> Experiment:
    """The experiment of a run's folder."""
    path = folder / "experiment.json"
    return validated(Experiment, read_json(path, "the run's settings"), str(path))


def load_run(folder: Path | str, seed: int | Literal["released"] = 0) -> TrainedRun:
    """The run in ``results/<scale>/runs/<run>``, as trained with ``seed``, or with the published weights.

    Raises:
        WorkbenchError: not a run's folder, not trained yet, or weights of another architecture.
    """
    folder = Path(folder)
    experiment = read_experiment(folder)
    weights = folder / seed_folder(seed) / "model.safetensors"
    published = seed == "released"
    if not weights.is_file():
        fault = f"this run has not been trained with seed {seed}"
        if published:
            fault = "import published weights first (workbench import-checkpoint)"
        raise WorkbenchError(f"{weights}: no such file; {fault}")
    again = "import them again" if published else "train again"
    facts = read_json(weights.with_name("train.json"), "facts of the training")
    detector = build_detector(experiment)
    try:
        detector.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        fault = f"not the weights of this run ({one_line(error)})"
        raise WorkbenchError(f"{weights}: {fault}; delete it and {again}") from None
    try:
        classes = tuple(facts["category_ids"]), tuple(facts["class_names"])
    except (KeyError, TypeError):
        path = weights.with_name("train.json")
        raise WorkbenchError(
            f"{path}: it does not say category_ids and class_names; delete it and {weights.name} and {again}"
        ) from None
    return TrainedRun(detector.eval(), experiment, *classes, facts)


def load_run_for(
    folder: Path, seed: int | Literal["released"], data_root: Path, split: str, limit: int | None = None
) -> tuple[TrainedRun, CocoDetection]:
    """A trained run and a split of a data set to evaluate it on; ``limit`` keeps only so many images.

    Raises:
        WorkbenchError: not trained yet, a data set that cannot be read, or one of other categories.
    """
    data = read_coco(data_root, split, training=False, limit=limit)
    trained = load_run(folder, seed)
    if trained.category_ids != data.category_ids:
        raise WorkbenchError(
            f"{data_root}: its categories {data.category_ids} are not those that {folder.name} was trained on, "
            f"{trained.category_ids}"
        )
    return trained, data


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
