"""Measurements of an evaluation, read from its folder. Files of other evaluations and impossible values are refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runs.find import data_folder
from workbench.runs.folders import RELEASED, Evaluation, Training
from workbench.runs.results import ScaleFolder, scale_folder
from workbench.settings.catalog import Row
from workbench.settings.config import PipelineConfig
from workbench.settings.digest import SplitDigest
from workbench.settings.released import trainings_of
from workbench.support.errors import WorkbenchError

if TYPE_CHECKING:
    import pandas

    from workbench.evaluation.intervals import Bootstrap

ROUNDING = 1e-9
"""Largest difference of the AP in ``metrics.json`` and in ``bootstrap.json``, which are computed in two ways."""
Seed = int | str
"""Number of a seed, or ``released``."""
SPEARMAN = "Spearman"
"""Name of the rank correlation of score and IoU where a metric is named."""
AGAIN = "delete this file, then evaluate again (snakemake with the same target)"
RANK_AGAIN = "delete this file, then make it again with workbench ranking"


def results_folder(settings: PipelineConfig, results: Path) -> ScaleFolder:
    """Folder of a scale whose results are summarised.

    Raises:
        WorkbenchError: the folder ``results`` is missing, or the scale needs a data set and none is named. A summary
            without measurements would replace an earlier one with measurements.
    """
    if not results.is_dir():
        raise WorkbenchError(f"{results}: no such folder; go to the workbench's folder, or add --results FOLDER")
    data_folder(settings.scale, results, settings.data_root)
    return scale_folder(results, settings.scale, settings.rehearsal)


def shown_trainings(
    folder: ScaleFolder, row: Row, settings: PipelineConfig, seeds: Container[int] | None = None
) -> list[Training]:
    """Trainings of a row that a summary shows: every seed that has a folder, or the published weights.

    Seeds beyond the requested number are shown, too, so that a summary never replaces one with more seeds.

    Args:
        seeds: the only seeds that are shown; None for all.
    """
    run = folder.run(row.run)
    if trainings_of([row], settings)[row.run] == [RELEASED]:
        return [run.training(RELEASED)]
    return [training for training in run.trainings() if seeds is None or training.stated_seed in seeds]


def evaluations_on_disk(
    folder: ScaleFolder, row: Row, settings: PipelineConfig, seeds: Container[int] | None = None
) -> dict[Seed, Evaluation]:
    """Evaluations of a row that have a folder, by seed; see ``shown_trainings``.

    Raises:
        WorkbenchError: the folder of the row's run contains the experiment of another run.
    """
    trainings = shown_trainings(folder, row, settings, seeds)
    evaluations = {t.stated_seed: t.evaluation(row.evaluation_folder(t.seed)) for t in trainings}
    evaluations = {seed: evaluation for seed, evaluation in evaluations.items() if evaluation.folder.is_dir()}
    if evaluations and (run := folder.run(row.run)).settings.is_file():
        run.read_experiment()
    return evaluations


def metrics_by_seed(
    folder: ScaleFolder, row: Row, settings: PipelineConfig, seeds: Container[int] | None = None
) -> dict[Seed, dict[str, Any]]:
    """Content of ``metrics.json`` of each finished evaluation of a row, by seed; see ``read_metrics``.

    Rows are compared on the seeds that they have in common, since a seed's world is the same in all rows.
    """
    evaluations = evaluations_on_disk(folder, row, settings, seeds)
    return {seed: read_metrics(evaluation) for seed, evaluation in evaluations.items() if evaluation.metrics.is_file()}


def values_by_seed(
    folder: ScaleFolder, row: Row, settings: PipelineConfig, metric: str, seeds: Container[int] | None = None
) -> dict[Seed, float]:
    """One metric of each finished evaluation of a row, by seed. Seeds where the metric is not defined are left out.

    Args:
        metric: key of ``METRICS`` or ``STRICT_METRICS``, in fractions; or ``SPEARMAN``.

    Raises:
        WorkbenchError: an earlier version wrote a file without this metric, or see ``read_metrics``, ``read_spearman``.
    """
    if metric == SPEARMAN:
        trainings = shown_trainings(folder, row, settings, seeds)
        rankings = {training.stated_seed: folder.ranking(row, training.seed) for training in trainings}
        values = {seed: read_spearman(e) for seed, e in rankings.items() if e.ranking_facts.is_file()}
    else:
        values = {}
        for seed, metrics in metrics_by_seed(folder, row, settings, seeds).items():
            if metric not in metrics:
                file = folder.evaluation(row, seed).metrics
                raise WorkbenchError(f"{file}: no {metric}, because an earlier version wrote it; {AGAIN}")
            values[seed] = metrics[metric]
    return {seed: value for seed, value in values.items() if value is not None}


def resamples_by_seed(
    folder: ScaleFolder, row: Row, settings: PipelineConfig, seeds: Container[int] | None = None
) -> dict[Seed, Bootstrap]:
    """AP on resampled images of each finished evaluation of a row, by seed; see ``read_resamples``."""
    evaluations = evaluations_on_disk(folder, row, settings, seeds)
    return {seed: read_resamples(e) for seed, e in evaluations.items() if e.bootstrap.is_file()}


def provenance_by_seed(folder: ScaleFolder, row: Row, settings: PipelineConfig) -> dict[Seed, dict[str, Any]]:
    """Provenance of the metrics of each finished evaluation of a row, by seed.

    ``ranking`` in it has the digest of the code of ``ranking.json`` if this file exists.
    """
    provenance = {}
    for seed, metrics in metrics_by_seed(folder, row, settings).items():
        ranking = folder.ranking(row, seed)
        stated = {"ranking": {"code_digest": ranking_code(ranking)}} if ranking.ranking_facts.is_file() else {}
        provenance[seed] = metrics["provenance"] | stated
    return provenance


def read_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Content of ``metrics.json``. A file of an earlier version lacks the ``STRICT_METRICS``.

    Raises:
        WorkbenchError: the file is missing, belongs to another evaluation, or has a metric that is not a fraction.
    """
    from workbench.evaluation.coco_metrics import METRICS, STRICT_METRICS
    from workbench.evaluation.intervals import is_fraction

    path = evaluation.metrics
    metrics = _read(evaluation, path, "metrics")
    per_class = metrics["per_class"] if isinstance(metrics.get("per_class"), dict) else {}
    values = {name: metrics.get(name, "missing") for name in METRICS} | per_class
    values |= {name: metrics[name] for name in STRICT_METRICS if name in metrics}
    for name, value in values.items():
        if value is not None and not is_fraction(value):
            raise WorkbenchError(f"{path}: {name} is {value!r:.40}, not a fraction; {AGAIN}")
    provenance = metrics.get("provenance")
    if not isinstance(provenance, dict) or not isinstance(provenance.get("code_digest"), str):
        raise WorkbenchError(f"{path}: no provenance with seed and code_digest; {AGAIN}")
    if (seed := provenance.get("seed")) != evaluation.training.stated_seed:
        raise WorkbenchError(f"{path}: provenance of seed {seed!r:.40}, not {evaluation.training.stated_seed}; {AGAIN}")
    return metrics


def read_resamples(evaluation: Evaluation) -> Bootstrap:
    """AP on resampled images, from ``bootstrap.json``.

    Raises:
        WorkbenchError: the file is missing, belongs to another evaluation, has a value that is not a fraction, or has
            another AP than ``metrics.json``.
    """
    from workbench.evaluation.intervals import bootstrap_of

    path = evaluation.bootstrap
    content = _read(evaluation, path, "resamples")
    resamples = bootstrap_of(content, path)
    if evaluation.metrics.is_file():
        ap = read_metrics(evaluation)["AP"]
        agrees = math.isnan(resamples.ap) if ap is None else abs(resamples.ap - ap) < ROUNDING
        if not agrees:
            raise WorkbenchError(
                f"{path}: AP {content['AP']}, but {evaluation.metrics.name} states {ap}; delete both files, then "
                "evaluate again (snakemake with the same target)"
            )
    return resamples


def read_spearman(evaluation: Evaluation) -> float | None:
    """Spearman's correlation of score and IoU over all foreground locations; None if all scores or IoU are equal.

    Args:
        evaluation: evaluation whose scores are ranked, ``ScaleFolder.ranking``.

    Raises:
        WorkbenchError: the file is missing, belongs to another evaluation, or has a value that is not a correlation.
    """
    path = evaluation.ranking_facts
    value = evaluation.read(path, "ranking of boxes").get("Spearman", "missing")
    if value is not None and not (type(value) in (int, float) and -1 <= value <= 1):
        raise WorkbenchError(f"{path}: Spearman is {value!r:.40}, not a correlation; {RANK_AGAIN}")
    return value


def ranking_code(evaluation: Evaluation) -> Any:
    """Digest of the code that ranked the boxes of an evaluation; None if an earlier version wrote the file."""
    return evaluation.read(evaluation.ranking_facts, "ranking of boxes").get("code_digest")


def _read(evaluation: Evaluation, path: Path, content: str) -> dict[str, Any]:
    """Content of a file that states the identity of an evaluation and the digests of its split."""
    facts = evaluation.read(path, content)
    try:
        short = SplitDigest(**facts["split"]).short
    except (KeyError, TypeError):
        raise WorkbenchError(f"{path}: no digests of the evaluated split; {AGAIN}") from None
    if not evaluation.name.endswith(f"-{short}"):
        raise WorkbenchError(f"{path}: measured on a split with the digest {short}, not {evaluation.name}; {AGAIN}")
    return facts


def refuse_fewer(file: Path, name: str, trainings: Mapping[str, int], number: Callable[[str], int]) -> None:
    """Raise a WorkbenchError if a summary would replace one that shows more trainings.

    Args:
        file: CSV of the summary with a column ``seeds``; it need not exist.
        name: column with the names of the lines.
        trainings: name of a line → number of trainings that the new summary shows.
        number: function that returns the number of trainings of a cell of the column ``seeds``.
    """
    if not file.is_file():
        return
    with file.open(encoding="utf-8", errors="replace", newline="") as text:
        before = {line.get(name): number(line.get("seeds") or "") for line in csv.DictReader(text)}
    for line, count in trainings.items():
        if (shown := before.get(line, 0)) > count:
            raise WorkbenchError(
                f"{file}: shows more trainings of {line} ({shown}) than these options name ({count}); evaluate "
                "first (snakemake with the same target), name the data set, weights and limits of this file, or delete "
                "this file"
            )


def read_ranking(evaluation: Evaluation) -> pandas.DataFrame:
    """Columns ``iou`` and ``score`` of ``ranking.csv``.

    Raises:
        WorkbenchError: the file belongs to another evaluation, or has a value that is not a fraction.
    """
    from workbench.report.tables.read import read_ranking_file

    path = evaluation.ranking
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    try:
        stated = json.loads(first.removeprefix("#")) if first.startswith("#") else None
    except ValueError:
        stated = None
    evaluation.check_belongs(stated, path)
    return read_ranking_file(path)


def ranking_text(evaluation: Evaluation, locations: pandas.DataFrame) -> str:
    """Text of ``ranking.csv``: a comment with the identity of the evaluation, then the locations."""
    return f"#{json.dumps(evaluation.identity())}\n{locations.to_csv(index=False)}"
