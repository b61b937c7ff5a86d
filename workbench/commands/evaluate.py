"""Metrics of a training's detections: ``workbench evaluate``."""

from __future__ import annotations

from pathlib import Path

from workbench.data.annotations import read_annotations
from workbench.data.coco import annotation_path
from workbench.evaluation.coco_metrics import metrics_of, read_detections, run_evaluation
from workbench.evaluation.intervals import bootstrap, write_bootstrap
from workbench.evaluation.resampling import matches_of
from workbench.runs.folders import Evaluation
from workbench.settings.digest import VAL, SplitDigest, file_digest
from workbench.settings.variant import Variant
from workbench.support.code_digest import DETECTION, EVALUATION, code_digest
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically
from workbench.support.provenance import EVALUATOR_PACKAGES, versions


def write_metrics(
    evaluation: Evaluation, variant: Variant, split: SplitDigest, data_root: Path, name: str = VAL
) -> dict:
    """Write COCO's metrics of a training's detections with provenance, and the AP on resampled images.

    Args:
        evaluation: folder of the detections and of the metrics.
        split: digest of the split.
        name: name of the split, ``val2017`` or ``test2017``.

    Returns:
        The metrics.

    Raises:
        WorkbenchError: a file of the folder is missing, or belongs to another evaluation.
    """
    detection = _detection_facts(evaluation, split)
    annotations = annotation_path(data_root, name)
    ids = None
    if variant.limit_images is not None:
        ids = read_annotations(annotations).image_ids[: variant.limit_images].tolist()
    evaluated = run_evaluation(annotations, read_detections(evaluation.detections), ids)
    metrics = metrics_of(evaluated)
    belongs = {"of": evaluation.identity(), "split": split.facts()}
    facts = evaluation.training.read_facts("code_digest")
    code = code_digest(evaluation.training.run.read_experiment(), EVALUATION)
    metrics["provenance"] = {
        "seed": evaluation.training.stated_seed,
        "code_digest": facts["code_digest"],
        "training": facts,
        "detection": detection,
        "evaluation": {"code_digest": code, "evaluator": "workbench", "versions": versions(EVALUATOR_PACKAGES)},
    }
    write_bootstrap(evaluation.bootstrap, bootstrap(matches_of(evaluated), split.short), belongs)
    write_json_atomically(evaluation.metrics, belongs | metrics)
    return metrics


def _detection_facts(evaluation: Evaluation, split: SplitDigest) -> dict:
    """Facts about the detections; raise unless they belong to this evaluation, split and code."""
    file = evaluation.detection_facts
    if not file.is_file() or not evaluation.detections.is_file():
        raise WorkbenchError(
            f"{evaluation.folder}: no detections with this variant, on these images and annotations; run workbench "
            "detect with the same options first"
        )
    facts = evaluation.read(file, "facts of the detection")
    code = code_digest(evaluation.training.run.read_experiment(), DETECTION)
    again = f"delete {evaluation.folder}, and detect again (workbench detect, or the same target)"
    if facts.get("split") != split.facts():
        raise WorkbenchError(f"{file}: the objects were detected on other images or annotations; {again}")
    if facts.get("detections_digest") != file_digest(evaluation.detections):
        raise WorkbenchError(f"{evaluation.detections}: not the detections that {file.name} describes; {again}")
    if facts.get("code_digest") != code:
        raise WorkbenchError(
            f"{file}: other code detected the objects ({facts.get('code_digest')}, now {code}); {again}"
        )
    return facts
