"""List of the registered trainings, extended by the evaluations that exist: ``workbench evidence add``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workbench.report.evidence.bootstraps import keep_bootstrap
from workbench.report.evidence.collect import Found, finished_evaluations
from workbench.report.evidence.lines import Key, Line, evidence_file, read_lines, registered_keys, write_lines
from workbench.settings.config import PipelineConfig
from workbench.settings.registration import Planned, Study
from workbench.support.errors import WorkbenchError
from workbench.support.locks import locked


def add_evidence(study: Study | Planned, settings: PipelineConfig, results: Path, file: Path | None = None) -> str:
    """List each finished evaluation of a study that is not listed yet, and keep its resamples on fixed test images.

    A line without a rank correlation gets one as soon as its training is ranked. A second call changes nothing. The
    list is written at once, after the resamples. A kill therefore leaves the old list or the new one.

    Args:
        file: the list. Default: the list of the registered trainings.

    Returns:
        Sentence about the added lines.

    Raises:
        WorkbenchError: an evaluation is listed with other numbers, or see ``finished_evaluations``.
    """
    file = file or evidence_file(results)
    found = list(finished_evaluations(study, settings, results))
    with locked(results / "evidence.lock"):
        before = read_lines(file)
        lines = dict(before)
        for one in found:
            listed = lines.get(one.line.key)
            if listed is not None:
                _refuse_others(listed, one, lines, file)
            if one.bootstrap is not None:
                keep_bootstrap(results, one.line, one.bootstrap, listed is not None)
            if listed is None:
                lines[one.line.key] = one.line
            elif listed.spearman is None and one.line.spearman is not None:
                lines[one.line.key] = replace(listed, spearman=one.line.spearman)
        if lines != before:
            write_lines(file, lines.values())
    return _summary(study, settings.scale, before, lines, file)


def _refuse_others(listed: Line, found: Found, lines: dict[Key, Line], file: Path) -> None:
    """Raise if a line has other numbers than the evaluation on disk of the same row, seed, run and code."""
    old, new = _numbers(listed), _numbers(found.line)
    for name, value in new.items():
        if value != old[name] and not (name == "Spearman" and None in (value, old[name])):
            number = list(lines).index(listed.key) + 2
            raise WorkbenchError(
                f"{file}, line {number}: {listed.title} has {name} {old[name]}, but {found.metrics.parent} has "
                f"{value}, with the same run and code; delete {found.metrics.parents[1]}, or remove the line"
            )


def _numbers(line: Line) -> dict[str, object]:
    return {"evaluation": line.evaluation, **line.metrics, "Spearman": line.spearman}


def _summary(study: Study | Planned, scale: str, before: dict[Key, Line], after: dict[Key, Line], file: Path) -> str:
    added, ranked = len(after) - len(before), sum(after[key] != line for key, line in before.items())
    registered = registered_keys(study, scale)
    listed, planned = len(registered.keys() & after.keys()), len(registered)
    progress = f"{listed} of {planned} {study.status} lines of scale {scale}"
    return f"{file}: {added} lines added, {ranked} completed; {progress}"
