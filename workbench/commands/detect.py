"""Detections of a training: ``workbench detect`` and ``workbench submission``."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

import torch

from workbench.evaluation.inference import detect_data_set
from workbench.layers.deform import back_end_of
from workbench.runs.folders import Evaluation, Training
from workbench.runs.load import TrainedRun, load_training_for
from workbench.settings.digest import VAL, SplitDigest, file_digest
from workbench.settings.variant import Variant, check_evaluation
from workbench.support.arithmetic import arithmetic, set_precision
from workbench.support.code_digest import DETECTION, code_digest
from workbench.support.files import write_bytes_atomically, write_json_atomically
from workbench.support.progress import Reporter
from workbench.support.provenance import provenance


def write_detections(
    evaluation: Evaluation, variant: Variant, split: SplitDigest, data_root: Path, workers: int, name: str = VAL
) -> None:
    """Write the detections of a training on a split, and facts about the detections, with the digest of their code.

    Args:
        evaluation: folder of the files.
        split: digest of the split.
        name: name of the split, ``val2017`` or ``test2017``.
    """
    start, code = time.monotonic(), code_digest(evaluation.training.run.read_experiment(), DETECTION)
    trained, detections = _detect(evaluation.training, variant, data_root, name, workers)
    seconds = round(time.monotonic() - start, 2)
    write_json_atomically(evaluation.detections, detections, indent=None)
    facts = {
        "of": evaluation.identity(),
        "split": split.facts(),
        "detections_digest": file_digest(evaluation.detections),
        "detection_seconds": seconds,
        "variant": variant.model_dump(mode="json", exclude_none=True),
        **provenance(trained.experiment),
        "code_digest": code,
        "arithmetic": arithmetic(trained.experiment.training.detection_precision, back_end_of(trained.detector)),
    }
    write_json_atomically(evaluation.detection_facts, facts)


def write_submission(
    training: Training, variant: Variant, data_root: Path, split: str, folder: Path, workers: int
) -> Path:
    """Write the detections of a split as a zip file, with the format and file name of COCO's evaluation server.

    Returns:
        Path of the zip file.
    """
    _, detections = _detect(training, variant, data_root, split, workers)
    name = f"detections_{split}_{training.run.name}_results"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # The ZipInfo has no date, so that the same detections give the same bytes.
        archive.writestr(zipfile.ZipInfo(f"{name}.json"), json.dumps(detections), zipfile.ZIP_DEFLATED)
    write_bytes_atomically(folder / f"{name}.zip", content.getvalue())
    return folder / f"{name}.zip"


def _detect(
    training: Training, variant: Variant, data_root: Path, split: str, workers: int
) -> tuple[TrainedRun, list[dict]]:
    """A training, and its detections on a split, in COCO's results format."""
    trained, data = load_training_for(training, data_root, split, variant.limit_images)
    check_evaluation(trained.experiment.detector, variant, training.title)
    set_precision(trained.experiment.training.detection_precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Reporter(training.title, len(data.images)) as reporter:
        return trained, detect_data_set(trained.detector, data, variant, device, workers, reporter=reporter)
