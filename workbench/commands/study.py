"""What can be asked of any trained run: what each oracle would gain it, and how well its score ranks its boxes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from workbench.data.coco import annotation_path
from workbench.detectors.oracle import foreground_iou
from workbench.evaluation.coco_metrics import metrics_of, run_evaluation
from workbench.evaluation.inference import detections_of_image, predicted_images
from workbench.evaluation.intervals import bootstrap
from workbench.evaluation.resampling import matches_of
from workbench.report.tables.table import TableRow, table_markdown, write_table
from workbench.runs.folders import seed_folder
from workbench.runs.load import load_run_for
from workbench.settings.experiment import Experiment
from workbench.settings.variant import Oracle, Variant, published_variant
from workbench.support.files import write_text_atomically
from workbench.support.progress import Reporter

SPLIT = "val2017"
ORACLES = (
    None,
    Oracle(centerness="truth"),
    Oracle(centerness="iou"),
    Oracle(boxes=True),
    Oracle(score="one"),
    Oracle(score="iou"),
)
"""In the order of Table 1's columns."""
POINTS = 10_000
"""Foreground cells that are kept of a run, evenly spaced over the images."""


def oracle_variants(experiment: Experiment) -> list[Variant]:
    """Evaluations with every oracle that applies, with and without centerness in the score: Table 1's ten columns.

    Where a detector has no centerness they are four: as it is, true boxes, class score 1, class score IoU.
    """
    plain = published_variant(experiment).model_dump()
    return [
        Variant(**plain | {"centerness": centerness, "oracle": oracle})
        for oracle in ORACLES
        for centerness in ((False, True) if experiment.detector.centerness else (True,))
        if not (oracle and oracle.centerness) or (centerness and experiment.detector.centerness)
    ]


def study_oracles(run: Path, data_root: Path, seed: int | str, workers: int = 0) -> str:
    """COCO's metrics of a trained run with each oracle → ``oracles.csv`` and ``.md`` in the seed's folder.

    Each image is predicted once for all of them. An oracle is compared with the same run without it.

    Returns:
        The table in Markdown.
    """
    trained, data = load_run_for(run, seed, data_root, SPLIT)
    variants = oracle_variants(trained.experiment)
    found: list[list[dict]] = [[] for _ in variants]
    with Reporter(f"{run.name} {seed_folder(seed)}", len(data.images)) as reporter:
        images = predicted_images(trained.detector, data, variants[0].image, _device(), workers, reporter)
        for batch, predictions in images:
            for results, variant in zip(found, variants, strict=True):
                results += detections_of_image(trained.detector, data, batch, predictions, variant)
    annotations = annotation_path(data_root, SPLIT)
    facts = {"provenance": {"seed": seed, "code_digest": trained.training["code_digest"]}}
    rows = []
    for variant, results in zip(variants, found, strict=True):
        evaluation = run_evaluation(annotations, results)
        row = TableRow(
            row=_name(variant),
            labels=_labels(variant, trained.experiment.detector.centerness),
            published={},
            run=run.name,
            measured=(metrics_of(evaluation) | facts,),
            bootstraps=(bootstrap(matches_of(evaluation)),),
            compared_with=_name(variant.model_copy(update={"oracle": None})) if variant.oracle else "",
        )
        rows.append(row)
    title = f"Oracles: ground truth at the foreground cells of {run.name}, {seed_folder(seed)}"
    folder = run / seed_folder(seed)
    write_table(title, rows, folder / "oracles.csv", folder / "oracles.md")
    return table_markdown(title, rows)


def _name(variant: Variant) -> str:
    name = variant.oracle.title if variant.oracle else "plain"
    return name if variant.centerness else f"{name}_without_centerness"


def _labels(variant: Variant, centerness: bool) -> dict[str, bool]:
    """Check marks under the names of Table 1's columns, those of centerness only where there is one."""
    oracle = variant.oracle or Oracle()
    marks = {"w/ctr": variant.centerness}
    marks |= {"gt_ctr": oracle.centerness == "truth", "gt_ctr_iou": oracle.centerness == "iou"}
    others = {"gt_bbox": oracle.boxes, "gt_cls": oracle.score == "one", "gt_cls_iou": oracle.score == "iou"}
    return marks | others if centerness else others


def study_ranking(
    run: Path, data_root: Path, seed: int | str, workers: int = 0, limit_images: int | None = None
) -> pd.DataFrame:
    """Score and box quality of a trained run's foreground cells → ``ranking.csv`` in the seed's folder, and drawn.

    The score is that of the object's class as NMS sees it, times centerness where the detector has that; the quality is
    the IoU of the predicted box, not clipped to the image, with the object.

    Returns:
        Columns ``iou`` and ``score``, at most 10,000 cells.
    """
    from workbench.report.figures.ranking import draw_rankings

    trained, data = load_run_for(run, seed, data_root, SPLIT, limit_images)
    ious, scores = [], []
    with Reporter(f"{run.name} {seed_folder(seed)}", len(data.images)) as reporter:
        images = predicted_images(trained.detector, data, trained.experiment.image, _device(), workers, reporter)
        for batch, predictions in images:
            assignment = trained.detector.assign(predictions, batch)
            image, location = assignment.places
            classes, quality = predictions.scores()
            score = classes[image, location, assignment.gather(batch.labels)]
            if quality is not None:
                score = score * quality[image, location]
            ious.append(foreground_iou(predictions, assignment, batch).cpu())
            scores.append(score.cpu())
    cells = pd.DataFrame({"iou": torch.cat(ious).numpy(), "score": torch.cat(scores).numpy()}).round(6)
    kept = torch.linspace(0, max(0, len(cells) - 1), min(len(cells), POINTS), dtype=torch.float64).long()
    cells = cells.iloc[kept.numpy()]
    base = run / seed_folder(seed) / "ranking"
    write_text_atomically(base.with_suffix(".csv"), cells.to_csv(index=False))
    title = f"Score against IoU, {seed_folder(seed)}"
    draw_rankings({run.name: [cells]}, base.with_suffix(".png"), base.with_suffix(".pdf"), title)
    return cells


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
