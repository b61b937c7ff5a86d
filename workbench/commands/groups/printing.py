"""Output of a command that goes on after a mistake."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from workbench.support.errors import WorkbenchError


def print_outcomes(outcomes: Iterable[str | WorkbenchError]) -> None:
    """Print texts on standard output and errors on standard error; exit with 1 if there was an error."""
    failed = False
    for outcome in outcomes:
        if isinstance(outcome, WorkbenchError):
            failed = True
            sys.stdout.flush()  # keeps the order where both are one file
            print(f"workbench: {outcome}", file=sys.stderr)
        else:
            print(outcome)
    if failed:
        sys.exit(1)
