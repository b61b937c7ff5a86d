"""Messages of the pipeline: the last line of a failed job, and unknown targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from workbench.runs.results import ScaleFolder
from workbench.settings.config import PipelineConfig
from workbench.support.strict_yaml import near_miss

FAILED_JOB = re.compile(r"^ +log: (.+?) \(check log file|^Command '.*tee (\S+?)\)'", re.MULTILINE)
"""Log of a failed job, in Snakemake's own log: as the job's settings, or, if these are quiet, in its command."""
CUT_SHORT = "the job ended without a message (killed, or out of memory, time or space?); read its log"


def last_lines(snakemake_logs: str | Iterable[str]) -> list[str]:
    """Last lines of failed jobs, read from the log files that Snakemake's own log names.

    After a failure, Snakemake prints many lines. They hide the one line that states what to do.
    """
    logs = [snakemake_logs] if isinstance(snakemake_logs, str) else snakemake_logs
    text = "\n".join(Path(log).read_text(errors="replace") for log in logs)
    lines = {}
    for settings, command in FAILED_JOB.findall(text):
        # On a cluster, the second file is the scheduler's log.
        files = [Path(file) for file in (settings or command).split(", ")]
        log = files[0].read_text(errors="replace").splitlines() if files[0].is_file() else []
        complete = log and log[-1].startswith("workbench: ")
        lines[log[-1] if complete else f"workbench: {' and '.join(map(str, files))}: {CUT_SHORT}"] = None
    return list(lines)


def unknown_target(target: str, known: Iterable[str], rows: Iterable[str]) -> str:
    """Message about an unknown target, with the nearest name, or with all names except the ids of rows.

    A setting without ``--config`` is a target for Snakemake.
    """
    known, setting = list(known), target.split("=")[0]
    if "=" in target and setting in PipelineConfig.model_fields:
        return (
            f"workbench: unknown target '{target}': this is a setting; put --config between the targets and the "
            f"settings: snakemake --cores all table3 --config {shlex.quote(target)}"
        )
    if target in known:
        return f"workbench: unknown target '{target}/': no target ends with a slash; write {target}"
    rows = set(rows)
    listed = ", ".join(name for name in known if name not in rows)
    hint = near_miss(target, known) or f"; known: {listed}, and the id of each row, for example {min(rows)}"
    return f"workbench: unknown target '{target}'{hint}"


def where_results_are(folder: ScaleFolder) -> str:
    """Line with the folders of tables and figures, and the command for the report."""
    tables, figures = folder.table("").parent, folder.figure("", "").parent
    report = "for all results on one page: snakemake --report report.html"
    return f"workbench: tables are in {tables}, figures in {figures}; {report}"
