"""Choice among the published weights of a run: the authors' file where it is in place, else MMDetection's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.runs.folders import Training
from workbench.runs.results import pretrained_weights
from workbench.settings.released import read_released
from workbench.support.errors import WorkbenchError


def taken(names: Sequence[str], training: Training, results: Path) -> str:
    """Name of the published weights that a run's import takes.

    The first weights are taken whose file is in place or whose import is finished; else the first with an address.

    Args:
        names: weights of the run, the authors' first.
        training: folder of the import.
        results: folder with ``weights/``.
    """
    if len(names) == 1:
        return names[0]
    imported, released = imported_weights(training), read_released()
    at_hand = (name for name in names if name == imported or pretrained_weights(results, name).is_file())
    with_address = (name for name in names if released[name].url)
    return next(at_hand, None) or next(with_address, names[0])


def imported_weights(training: Training) -> str | None:
    """Name of the weights of a finished import; None if there is no import, or if the file's name was not listed."""
    if not all(map(Path.is_file, training.results)):
        return None
    try:
        name = training.read_facts().get("weights")
    except WorkbenchError:  # reported when the weights are loaded
        return None
    return name if isinstance(name, str) else None
