"""Messages of the pipeline about failed jobs and unknown targets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from workbench.support.strict_yaml import near_miss

CUT_SHORT = (
    "the job ended before it could say why (killed, or no memory, time or space left?); read what there is of its log"
)


def last_words(snakemake_logs: str | Iterable[str]) -> list[str]:
    """What failed jobs said last, from the log files that Snakemake's own log names as theirs.

    Snakemake prints a page of its own after a failure, which hides the one line that tells what to do.
    """
    logs = [snakemake_logs] if isinstance(snakemake_logs, str) else snakemake_logs
    text = "\n".join(Path(log).read_text(errors="replace") for log in logs)
    named = re.findall(r"^ +log: (.+?) \(check log file", text, re.MULTILINE)
    words = {}
    for job in named:
        files = [Path(file) for file in job.split(", ")]  # on a cluster its own log of the job is the second
        lines = files[0].read_text(errors="replace").splitlines() if files[0].is_file() else []
        told = lines and lines[-1].startswith("workbench: ")
        words[lines[-1] if told else f"workbench: {' and '.join(map(str, files))}: {CUT_SHORT}"] = None
    return list(words)


def unknown_targets(targets: Iterable[str], known: Iterable[str], rows: Iterable[str]) -> list[str]:
    """A line for each target that is neither a path nor the name of a rule; the rules of ``rows`` are not listed."""
    known, rows = list(known), set(rows)
    listed = [name for name in known if name not in rows]
    return [
        f"workbench: unknown target '{target}'"
        + (near_miss(target, known) or f"; known: {', '.join(listed)}, and the id of each row, e.g. {min(rows)}")
        for target in targets
        if target not in known and "/" not in target
    ]
