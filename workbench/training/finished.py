"""Check for a finished training, which is not trained again. Lost results are restored from the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.detectors import Detector
from workbench.runs.folders import Training
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import read_json
from workbench.training.averaging import WeightAverage
from workbench.training.checkpoints import read_last_checkpoint, write_results
from workbench.training.identity import refuse_others
from workbench.training.log import TrainLog


def is_finished(
    detector: Detector, training: Training, identity: Mapping[str, Any], say: Callable[[str], None]
) -> bool:
    """Return whether a training is finished. Missing results are first written again from its last checkpoint.

    Args:
        detector: gets the trained weights if results are written again.
        identity: see ``workbench.training.identity``.
        say: function that receives a line for the user.

    Raises:
        WorkbenchError: the folder has results or a checkpoint of another training, or weights without their facts.
    """
    facts = _read_facts(training)
    lost = [path for path in training.results if not path.is_file() or (path == training.facts and facts is None)]
    missing = [path.name for path in lost]
    if facts is not None:
        refuse_others(training.facts, facts, identity, f"delete {training.folder} to train again")
    if not missing:
        say(f"this training is finished; delete {training.folder} to train again")
        return True
    checkpoint = read_last_checkpoint(training, identity)
    if checkpoint is not None and checkpoint.get("final_facts") is not None:
        _write_again(detector, training, checkpoint)
        step = checkpoint["step"]
        say(f"resumed from the checkpoint at step {step}, the last step: wrote {', '.join(missing)} again")
        return True
    if training.weights.is_file():
        raise WorkbenchError(
            f"{training.weights}: these weights are finished, but {', '.join(missing)} is missing, and no checkpoint "
            "can restore it; copy the file back, or delete the weights to train again"
        )
    return False


def _read_facts(training: Training) -> dict[str, Any] | None:
    """Content of ``train.json``; None if it is missing or unreadable."""
    try:
        facts = read_json(training.facts, "facts of the training")
    except WorkbenchError:
        return None
    return facts if isinstance(facts, dict) else None


def _write_again(detector: Detector, training: Training, checkpoint: Mapping[str, Any]) -> None:
    """Write the results of a training from its final checkpoint."""
    try:
        detector.load_state_dict(checkpoint["model"])
        average = WeightAverage(**checkpoint["average"])
        if average.count:
            average.give_to(detector)
        log = TrainLog(training.growing_curves)
        log.rows = checkpoint["log"]
    except Exception as error:
        path = training.last_checkpoint
        raise WorkbenchError(
            f"{path}: not a checkpoint of this run ({one_line(error)}); delete it to start from the beginning"
        ) from None
    write_results(training, detector, log, checkpoint["final_facts"])
