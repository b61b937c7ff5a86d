"""Metrics of a run's detections: ``workbench evaluate``."""

from __future__ import annotations

from pathlib import Path

from workbench.commands.detect import read_variant
from workbench.runs.folders import bootstrap_file, seed_folder
from workbench.support.files import read_json, write_json_atomically
from workbench.support.provenance import EVALUATION, code_digest


def evaluate_run(run: Path, variant_file: Path, data_root: Path, seed: int | str) -> dict:
    """COCO's metrics of a run's detections → ``metrics.json`` beside them, with provenance; returned too.

    And the AP of resampled images → ``bootstrap.json``.
    """
    from workbench.evaluation.coco_metrics import metrics_of, read_detections, run_evaluation
    from workbench.evaluation.intervals import bootstrap, write_bootstrap
    from workbench.evaluation.resampling import matches_of

    variant = read_variant(variant_file)
    folder = run / seed_folder(seed) / variant_file.stem
    annotations = data_root / "annotations" / "instances_val2017.json"
    ids = None
    if variant.limit_images is not None:
        ids = [image["id"] for image in read_json(annotations, "annotations")["images"][: variant.limit_images]]
    evaluation = run_evaluation(annotations, read_detections(folder / "detections.json"), ids)
    metrics, matches = metrics_of(evaluation), matches_of(evaluation)
    del evaluation  # of COCO, gigabytes
    found = bootstrap(matches)
    training = read_json(run / seed_folder(seed) / "train.json", "facts of the training")
    detection = read_json(folder / "detection.json", "facts of the detection")
    metrics["provenance"] = {
        "seed": seed,
        "code_digest": training["code_digest"],
        "training": training,
        "detection": detection,
        "evaluation": {"code_digest": code_digest(EVALUATION)},
    }
    file = folder / "metrics.json"
    write_bootstrap(bootstrap_file(file), found)
    write_json_atomically(file, metrics)
    return metrics
