"""Claims and tables of all registered studies: ``workbench evidence show``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from workbench.report.evidence.lines import evidence_file, read_lines
from workbench.report.evidence.show import evidence_of, write_evidence
from workbench.settings.registration import FILE, read_registration
from workbench.support.errors import WorkbenchError


def show_evidence(results: Path) -> Iterator[str]:
    """Write claims, tables and orders of each registered study with a listed training, beside the list.

    Yields:
        Markdown of the claims of a study.

    Raises:
        WorkbenchError: nothing is registered, or no registered training is listed.
    """
    file, registration = evidence_file(results), read_registration()
    if registration is None:
        raise WorkbenchError(f"{FILE}: not found in the folder of the paper; register a study first")
    lines, shown = read_lines(file), False
    for scale in registration.studies:
        evidence = evidence_of(scale, registration, lines, results)
        if evidence.lines:
            shown = True
            yield write_evidence(evidence, file.parent)
    if not shown:
        raise WorkbenchError(f"{file}: no registered training is listed; run workbench evidence add")
