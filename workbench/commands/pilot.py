"""Trainings and spread of the pilot: ``workbench evidence pilot``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from workbench.commands.registration import registered_row
from workbench.report.evidence.add import add_evidence
from workbench.report.evidence.lines import pilot_file, read_lines, registered_keys
from workbench.report.evidence.pilot import describe_pilot, pilot_lines
from workbench.settings.catalog import find_row
from workbench.settings.config import PipelineConfig
from workbench.settings.registration import Planned
from workbench.support.errors import WorkbenchError


def list_pilot(ids: Sequence[str], settings: PipelineConfig, seeds: Iterable[int], results: Path) -> str:
    """List the finished evaluations of two rows in ``pilot.csv``, as `add_evidence` lists registered ones.

    Args:
        ids: two rows whose seeds have worlds of their own.
        seeds: seeds of the trainings of both rows.

    Returns:
        Sentence about the added lines.

    Raises:
        WorkbenchError: other rows, another pilot is listed at this scale, or see `add_evidence`.
    """
    if len({*ids}) != 2 or len(ids) != 2:
        raise WorkbenchError(f"{' '.join(ids)}: not two rows; name two, for example t3_fcos_atss t3_raw_fl")
    rows = [find_row(id_, settings.scale, place="rows of the pilot") for id_ in ids]
    if not all(row.experiment.data.per_seed for row in rows):
        raise WorkbenchError(f"scale {settings.scale}: the seeds share a data set; choose a scale that draws worlds")
    pilot, file = Planned({row.id: registered_row(row) for row in rows}, tuple(seeds)), pilot_file(results)
    planned = registered_keys(pilot, settings.scale)
    for key, line in read_lines(file).items():
        if line.scale == settings.scale and key not in planned:
            raise WorkbenchError(
                f"{file}: {line.title} is of other rows, seeds, settings or code; remove the lines of this scale, or "
                "name no rows"
            )
    return add_evidence(pilot, settings, results, file)


def show_pilot(scale: str, results: Path) -> str:
    """Return means and spread of the listed pilot of a scale as text; raise a WorkbenchError if none is listed."""
    file = pilot_file(results)
    lines = pilot_lines(file, scale)
    if not lines:
        raise WorkbenchError(
            f"{file}: no training of scale {scale} is listed; evaluate two rows (snakemake), then name them"
        )
    return describe_pilot(lines)
