"""Metrics of a training's detections: ``workbench evaluate``."""

from __future__ import annotations

from pathlib import Path

from workbench.data.annotations import read_annotations
from workbench.data.coco import annotation_path
from workbench.evaluation.coco_metrics import metrics_of, read_detections, run_evaluation
from workbench.evaluation.intervals import bootstrap, write_bootstrap
from workbench.evaluation.resampling import matches_of
from workbench.runs.folders import Training
from workbench.settings.variant import Variant
from workbench.support.files import read_json, write_json_atomically
from workbench.support.provenance import EVALUATION, code_digest

SPLIT = "val2017"


def write_metrics(training: Training, variant: Variant, data_root: Path) -> dict:
    """Write COCO's metrics of a training's detections with provenance, and the AP on resampled images.

    Returns:
        The metrics.
    """
    folder = training.evaluation(variant)
    annotations = annotation_path(data_root, SPLIT)
    ids = None
    if variant.limit_images is not None:
        ids = read_annotations(annotations).image_ids[: variant.limit_images].tolist()
    evaluation = run_evaluation(annotations, read_detections(folder.detections), ids)
    metrics, matches = metrics_of(evaluation), matches_of(evaluation)
    del evaluation  # frees gigabytes of memory on COCO
    resamples = bootstrap(matches)
    facts = read_json(training.facts, "facts of the training")
    metrics["provenance"] = {
        "seed": training.stated_seed,
        "code_digest": facts["code_digest"],
        "training": facts,
        "detection": read_json(folder.detection_facts, "facts of the detection"),
        "evaluation": {"code_digest": code_digest(EVALUATION)},
    }
    write_bootstrap(folder.bootstrap, resamples)
    write_json_atomically(folder.metrics, metrics)
    return metrics
