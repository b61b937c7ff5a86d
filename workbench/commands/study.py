"""Studies of a trained run: the gain from each oracle, the ranking of boxes by their scores, and dead units."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from workbench.data.coco import annotation_path
from workbench.evaluation.coco_metrics import metrics_of, run_evaluation
from workbench.evaluation.dead_units import dead_units, watched_relus
from workbench.evaluation.inference import detections_of_image, predicted_images
from workbench.evaluation.intervals import bootstrap
from workbench.evaluation.ranking import foreground_locations, spearman
from workbench.evaluation.resampling import matches_of
from workbench.report.measured import SPEARMAN, ranking_text
from workbench.report.tables.render import TableRow, table_markdown, write_table
from workbench.runs.folders import Evaluation, Training
from workbench.runs.load import load_training_for
from workbench.settings.digest import VAL
from workbench.settings.experiment import Experiment
from workbench.settings.variant import Oracle, Variant, published_variant
from workbench.support.arithmetic import set_precision
from workbench.support.code_digest import EVALUATION, code_digest
from workbench.support.files import write_json_atomically, write_text_atomically
from workbench.support.progress import Reporter

ORACLES = (
    None,
    Oracle(centerness="truth"),
    Oracle(centerness="iou"),
    Oracle(boxes=True),
    Oracle(score="one"),
    Oracle(score="iou"),
)
"""Oracles in the order of Table 1's columns; None is the detector as it is."""
POINTS = 10_000
"""Most foreground locations that are kept of a run, evenly spaced over the images."""


def oracle_variants(experiment: Experiment) -> list[Variant]:
    """Return the variants with every oracle that applies: the ten columns of Table 1, with and without centerness.

    A detector without centerness has four variants: as it is, true boxes, class score 1, class score IoU.
    """
    plain = published_variant(experiment).model_dump()
    return [
        Variant(**plain | {"centerness": centerness, "oracle": oracle})
        for oracle in ORACLES
        for centerness in ((False, True) if experiment.detector.centerness else (True,))
        if not (oracle and oracle.centerness) or (centerness and experiment.detector.centerness)
    ]


def study_oracles(evaluation: Evaluation, data_root: Path, workers: int = 0, limit_images: int | None = None) -> str:
    """COCO's metrics of a trained run with each oracle → ``oracles.csv`` and ``.md`` in the folder of an evaluation.

    Each image is predicted once for all oracles. A row with an oracle is compared with the row without it.

    Returns:
        Table in Markdown.
    """
    training = evaluation.training
    trained, data = load_training_for(training, data_root, VAL, limit_images)
    set_precision(trained.experiment.training.detection_precision)
    variants = oracle_variants(trained.experiment)
    detections: list[list[dict]] = [[] for _ in variants]
    with Reporter(training.title, len(data.images)) as reporter:
        images = predicted_images(trained.detector, data, variants[0].image, _device(), workers, reporter)
        for batch, predictions in images:
            for results, variant in zip(detections, variants, strict=True):
                results += detections_of_image(trained.detector, data, batch, predictions, variant)
    annotations, ids = annotation_path(data_root, VAL), [image.id for image in data.images]
    facts = {"provenance": {"seed": training.stated_seed, "code_digest": trained.training["code_digest"]}}
    rows = []
    for variant, results in zip(variants, detections, strict=True):
        evaluated = run_evaluation(annotations, results, ids)
        row = TableRow(
            row=_name(variant),
            labels=_labels(variant, trained.experiment.detector.centerness),
            published={},
            run=training.run.name,
            measured=(metrics_of(evaluated) | facts,),
            bootstraps=(bootstrap(matches_of(evaluated)),),
            compared_with=_name(variant.model_copy(update={"oracle": None})) if variant.oracle else "",
        )
        rows.append(row)
    title = f"Oracles: ground truth at the foreground locations of {training.run.name}, {training.name}"
    write_table(title, rows, evaluation.oracles, evaluation.oracles.with_suffix(".md"))
    return table_markdown(title, rows)


def _name(variant: Variant) -> str:
    name = variant.oracle.title if variant.oracle else "plain"
    return name if variant.centerness else f"{name}_without_centerness"


def _labels(variant: Variant, centerness: bool) -> dict[str, bool]:
    """Return check marks named like Table 1's columns; only a detector with centerness has columns of centerness."""
    oracle = variant.oracle or Oracle()
    marks = {"w/ctr": variant.centerness}
    marks |= {"gt_ctr": oracle.centerness == "truth", "gt_ctr_iou": oracle.centerness == "iou"}
    others = {"gt_bbox": oracle.boxes, "gt_cls": oracle.score == "one", "gt_cls_iou": oracle.score == "iou"}
    return marks | others if centerness else others


def study_ranking(
    evaluation: Evaluation, data_root: Path, workers: int = 0, limit_images: int | None = None
) -> pd.DataFrame:
    """Compute score and IoU of a training's foreground locations; write ``ranking.csv`` and ``.json``, draw a figure.

    See ``workbench.evaluation.ranking``. ``ranking.json`` has Spearman's correlation over all locations, before values
    are rounded and locations are left out, and the digest of the code.

    Args:
        evaluation: folder of the files.

    Returns:
        Columns ``iou`` and ``score``, with at most 10,000 locations.
    """
    from workbench.report.figures.ranking import draw_rankings

    training = evaluation.training
    trained, data = load_training_for(training, data_root, VAL, limit_images)
    set_precision(trained.experiment.training.detection_precision)
    code = code_digest(trained.experiment, EVALUATION)
    with Reporter(training.title, len(data.images)) as reporter:
        size = trained.experiment.image
        ious, scores = foreground_locations(trained.detector, data, size, _device(), workers, reporter)
    facts = {SPEARMAN: spearman(ious, scores), "locations": len(ious), "code_digest": code}
    locations = pd.DataFrame({"iou": ious, "score": scores}).round(6)
    kept = torch.linspace(0, max(0, len(locations) - 1), min(len(locations), POINTS), dtype=torch.float64).long()
    locations = locations.iloc[kept.numpy()]
    file = evaluation.ranking
    write_text_atomically(file, ranking_text(evaluation, locations))
    write_json_atomically(evaluation.ranking_facts, {"of": evaluation.identity()} | facts)
    title = f"Score against IoU, {training.name}"
    draw_rankings({training.run.name: [locations]}, file.with_suffix(".png"), file.with_suffix(".pdf"), title)
    return locations


def study_dead_units(training: Training, data_root: Path, workers: int = 0, limit_images: int | None = None) -> str:
    """Return a table in Markdown of the dead units of each part of a trained detector on val2017."""
    trained, data = load_training_for(training, data_root, VAL, limit_images)
    set_precision(trained.experiment.training.detection_precision)
    with watched_relus(trained.detector) as watch, Reporter(training.title, len(data.images)) as reporter:
        size = trained.experiment.image
        for _ in predicted_images(trained.detector, data, size, _device(), workers, reporter):
            pass
    lines = ["| part | dead | units |", "|---|--:|--:|"]
    lines += [f"| {part} | {dead} | {units} |" for part, (dead, units) in dead_units(watch.largest).items()]
    return "\n".join(lines)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
