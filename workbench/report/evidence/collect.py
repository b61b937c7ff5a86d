"""Finished evaluations of a registered study or of a pilot, read from the folders of its trainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.report.evidence.lines import METRICS, Line, line_of
from workbench.report.measured import AGAIN, ranking_code, read_metrics, read_resamples, read_spearman, results_folder
from workbench.runs.folders import Evaluation
from workbench.runs.results import ScaleFolder
from workbench.settings.catalog import Row, load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.files import catalogue
from workbench.settings.registration import Planned, Study
from workbench.support.errors import WorkbenchError


@dataclass(frozen=True)
class Found:
    """Evaluation on disk.

    Attributes:
        line: its measurements.
        metrics: file of the metrics.
        bootstrap: file of the AP on resampled images; None if each seed has a world of its own.
    """

    line: Line
    metrics: Path
    bootstrap: Path | None


def finished_evaluations(study: Study | Planned, settings: PipelineConfig, results: Path) -> Iterator[Found]:
    """Evaluations of the rows and seeds of a study that exist in ``results``, seed after seed.

    Raises:
        WorkbenchError: the settings of a row have changed since the registration, a result does not belong, or a result
            is of other code than the registered one.
    """
    folder, rows = results_folder(settings, results), registered_rows(study, settings)
    for seed in study.seeds:
        for row in rows:
            evaluation, per_seed = folder.evaluation(row, seed), row.experiment.data.per_seed
            if evaluation.metrics.is_file() and (per_seed or evaluation.bootstrap.is_file()):
                if not per_seed:
                    read_resamples(evaluation)  # raises if the file does not belong
                line = _line(row, seed, folder, study)
                yield Found(line, evaluation.metrics, None if per_seed else evaluation.bootstrap)


def registered_rows(study: Study | Planned, settings: PipelineConfig) -> list[Row]:
    """Rows of a study, resolved at its scale.

    Raises:
        WorkbenchError: the present settings of a row are another run than the registered one.
    """
    tables = dict.fromkeys(catalogue().rows[id_] for id_ in study.rows)
    resolved = {row.id: row for table in tables for row in load_table(table, settings.scale, settings.data_root)[1]}
    rows = [resolved[id_] for id_ in study.rows]
    for row in rows:
        if row.run != (registered := study.rows[row.id].run):
            raise WorkbenchError(
                f"{row.id}: this row is the run {row.run} at scale {settings.scale}, but {registered} is registered; "
                "restore its settings (or data set), or register again"
            )
    return rows


def _line(row: Row, seed: int, folder: ScaleFolder, study: Study | Planned) -> Line:
    evaluation, ranking, data = folder.evaluation(row, seed), folder.ranking(row, seed), row.experiment.data
    metrics = read_metrics(evaluation)
    provenance = metrics["provenance"]
    code = _stated(provenance, "evaluation", "code_digest")
    stated = {"training": provenance["code_digest"], "evaluation": code}
    for step, digest in stated.items():
        if digest != (expected := getattr(study.rows[row.id].code, step)):
            stale = evaluation.training.folder if step == "training" else evaluation.folder
            raise WorkbenchError(
                f"{evaluation.metrics}: code of the {step} is {digest}, but {expected} is {study.status}; delete "
                f"{stale}, and run snakemake again, with the same target and the {study.status} code"
            )
    _refuse_other_weights(provenance, study.rows[row.id].pretrained, evaluation)
    spearman = _spearman(ranking, study.rows[row.id].code.evaluation, study.status)
    named = [folder.name, row.id, seed, data.world_of(seed) if data.per_seed else None]
    numbers = [metrics.get(name) for name in METRICS]
    numbers += [spearman, _stated(provenance, "training", "seconds")]
    numbers = [None if number is None else float(number) for number in numbers]
    ends = [code, evaluation.name.rsplit("-", 1)[1], _stated(provenance, "training", "git_commit")]
    cells = [*named, evaluation.training.run.name, evaluation.name, *numbers, *ends]
    texts = ["" if value is None else str(value) for value in cells]
    return line_of(texts, str(evaluation.metrics), AGAIN)


def _spearman(ranking: Evaluation, registered: str, status: str) -> float | None:
    """Rank correlation by the registered code; None if the boxes are not ranked yet."""
    file = ranking.ranking_facts
    if not file.is_file():
        return None
    if (code := ranking_code(ranking)) != registered:
        raise WorkbenchError(
            f"{file}: code of the evaluation is {code}, but {registered} is {status}; delete this file, and run "
            f"snakemake again, with the same target and the {status} code"
        )
    return read_spearman(ranking)


def _refuse_other_weights(provenance: dict[str, Any], expected: str | None, evaluation: Evaluation) -> None:
    """Raise if the training's backbone started from other pretrained weights than the registered ones."""
    weights = _stated(provenance, "training", "pretrained")
    digest = _stated({"weights": weights}, "weights", "sha256")
    if expected is not None and not str(digest).startswith(expected):
        raise WorkbenchError(
            f"{evaluation.metrics}: the backbone started from weights with the SHA-256 {digest}, but {expected} is "
            f"registered; delete {evaluation.training.folder}, restore the file in experiments/pretrained, and run "
            "snakemake again"
        )


def _stated(facts: dict[str, Any], group: str, key: str) -> Any:
    """Value in a group of facts; None if a result does not state it."""
    content = facts.get(group)
    return content.get(key) if isinstance(content, dict) else None
