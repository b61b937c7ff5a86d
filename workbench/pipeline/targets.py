"""Checks and files that the Snakefile needs before its rules."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.support.errors import WorkbenchError


def check_space(folder: Path) -> None:
    """Raise where not even Snakemake's own notes would find room, which it would tell in tracebacks."""
    if shutil.disk_usage(folder).free < 2**16:
        raise WorkbenchError(f"{folder.resolve()}: no space left on its disk; free some")
