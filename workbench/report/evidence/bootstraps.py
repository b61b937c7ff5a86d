"""AP on resampled images of the listed evaluations on fixed test images, ``results/reference/bootstraps``.

The files are copies of ``bootstrap.json``. Drawn worlds need none: differences within worlds contain the noise of the
images.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from workbench.evaluation.intervals import Bootstrap, bootstrap_of
from workbench.report.evidence.lines import Line, evidence_file
from workbench.report.measured import ROUNDING
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_bytes, read_object, write_bytes_atomically

LOST = "restore the file from git"


def bootstrap_file(results: Path, line: Line) -> Path:
    """Path of the copy for a line; the name covers its run, its variant, its images and its code."""
    digest = hashlib.sha256(" ".join([line.run, line.evaluation, line.code]).encode()).hexdigest()
    folder = evidence_file(results).parent / "bootstraps" / line.scale
    return folder / f"{line.row}-{line.seed}-{digest[:8]}.json"


def keep_bootstrap(results: Path, line: Line, source: Path, listed: bool) -> None:
    """Copy ``bootstrap.json`` of an evaluation unless the copy exists.

    Args:
        listed: whether the line is in the list. A copy of a line that is not listed may be left by a killed process.

    Raises:
        WorkbenchError: the line is listed, and its copy has other numbers.
    """
    file, content = bootstrap_file(results, line), read_bytes(source, "resamples")
    if not file.is_file() or not listed:
        write_bytes_atomically(file, content)
    elif file.read_bytes() != content:
        raise WorkbenchError(
            f"{file}: other numbers than {source}, although run and code are the same; delete the folder of the "
            "training, or remove the file and its line of the list"
        )


def read_bootstrap(results: Path, line: Line) -> Bootstrap:
    """AP of a line and its resamples; without resamples if the seed has a world of its own.

    Raises:
        WorkbenchError: the file is missing, belongs to another line, or has another AP.
    """
    ap = math.nan if line.metrics["AP"] is None else line.metrics["AP"]
    if line.world is not None:
        return Bootstrap(ap, np.empty(0), 0, f"world {line.world}")
    file = bootstrap_file(results, line)
    if not file.is_file():
        raise WorkbenchError(f"{file}: missing, but {line.title} is listed; {LOST}, or run workbench evidence add")
    facts = read_object(file, "resamples", ("of",))
    if facts["of"] != {"run": line.run, "seed": line.seed, "evaluation": line.evaluation}:
        raise WorkbenchError(f"{file}: not the resamples of {line.title}, {line.run}; {LOST}")
    bootstrap = bootstrap_of(facts, file)
    if not (abs(bootstrap.ap - ap) < ROUNDING or (math.isnan(bootstrap.ap) and math.isnan(ap))):
        raise WorkbenchError(f"{file}: AP {bootstrap.ap}, but {line.title} is listed with {ap}; {LOST}")
    return bootstrap
