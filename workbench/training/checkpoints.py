"""Checkpoints and final files of a training: written atomically, and read when a training is resumed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from workbench.detectors import Detector
from workbench.layers.deform import back_end_of
from workbench.runs.folders import Training
from workbench.support.arithmetic import arithmetic
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import write_atomically, write_bytes_atomically, write_json_atomically
from workbench.support.progress import Reporter
from workbench.support.provenance import provenance
from workbench.training.agreement import any_process
from workbench.training.averaging import WeightAverage
from workbench.training.identity import refuse_others
from workbench.training.interrupts import Interrupted
from workbench.training.log import TrainLog
from workbench.training.state import TrainingState
from workbench.training.versions import UNKNOWN, code_facts

FROM_THE_BEGINNING = "to start from the beginning"


def save_checkpoint(state: TrainingState) -> None:
    """Replace the last checkpoint and the log next to the checkpoint. Only the first rank writes, the others wait.

    After the best validation so far, the last checkpoint also becomes the best checkpoint.

    Raises:
        WorkbenchError, OSError: the checkpoint cannot be written.
        Interrupted: another process could not write it.
    """
    problem = None
    if state.fabric.is_global_zero:
        try:
            _write(state)
        except (WorkbenchError, OSError) as error:
            problem = error
    # Fabric kills the first process soon after another one has ended. No process must end while the first one writes.
    if any_process(problem is not None):
        raise problem or Interrupted.by_another(state.step)


def _write(state: TrainingState) -> None:
    if not torch.isfinite(torch.nn.utils.get_total_norm([p.detach() for p in state.detector.parameters()])):
        raise WorkbenchError(
            f"step {state.step}: the weights are not finite, and the last checkpoint is kept; lower "
            "training.learning_rate"
        )
    if state.finished and state.final_facts is None:
        state.final_facts = _facts(state)
    state.log.flush()
    content = {
        "identity": state.identity,
        "model": state.detector.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "best_ap": state.best_ap,
        "best_step": state.best_step,
        "average": state.average.state(),
        "validation_due": state.validation_due,
        "log": state.log.rows,
        "versions": state.versions,
        "final_facts": state.final_facts,
    }
    write_atomically(state.training.last_checkpoint, lambda file: torch.save(content, file))
    _keep_if_best(state)


def _keep_if_best(state: TrainingState) -> None:
    """Copy the last checkpoint to the best one if its step is the best step.

    The last checkpoint is written first. After a kill between both writes, the resumed training makes the copy.
    """
    if state.best_step != state.step:
        return
    with state.training.last_checkpoint.open("rb") as last:
        write_atomically(state.training.best_checkpoint, lambda file: shutil.copyfileobj(last, file))


def read_last_checkpoint(
    training: Training, identity: Mapping[str, Any], device: torch.device | str = "cpu"
) -> dict[str, Any] | None:
    """Content of the last checkpoint, with its tensors on a device; None if there is no checkpoint.

    Raises:
        WorkbenchError: the checkpoint is broken, or it belongs to another training.
    """
    path = training.last_checkpoint
    return _read(path, identity, device, f"delete it {FROM_THE_BEGINNING}") if path.is_file() else None


def _read(path: Path, identity: Mapping[str, Any], device: torch.device | str, way_out: str) -> dict[str, Any]:
    """Content of a checkpoint; a WorkbenchError if the file is broken or belongs to another training."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        stated = content.get("identity") if isinstance(content, dict) else None
    except Exception as error:
        raise _broken(path, error, way_out) from None
    if not isinstance(stated, dict):
        raise WorkbenchError(
            f"{path}: not a checkpoint of this run (it states no run, seed and data, so another program or an older "
            f"version wrote it); {way_out}"
        )
    refuse_others(path, stated, identity, way_out)
    return content


def _broken(path: Path, error: Exception, way_out: str) -> WorkbenchError:
    return WorkbenchError(f"{path}: not a checkpoint of this run ({one_line(error)}); {way_out}")


def resume(state: TrainingState, reporter: Reporter) -> None:
    """Continue from the last checkpoint if there is one.

    Raises:
        WorkbenchError: the checkpoint is broken or belongs to another training.
    """
    content = read_last_checkpoint(state.training, state.identity, state.fabric.device)
    if content is None:
        return
    try:
        state.detector.load_state_dict(content["model"])
        state.optimiser.load_state_dict(content["optimiser"])
        _copy_strides_of_parameters(state.optimiser)
        state.step, state.seconds = content["step"], content["seconds"]
        state.best_ap, state.best_step = content["best_ap"], content["best_step"]
        state.average = WeightAverage(**content["average"])
        state.validation_due, state.final_facts = content["validation_due"], content["final_facts"]
        state.log.rows = content["log"]
        [present], state.versions = state.versions, content.get("versions") or [UNKNOWN]
        last = state.versions[-1]["code_digest"]
    except Exception as error:
        raise _broken(state.training.last_checkpoint, error, f"delete it {FROM_THE_BEGINNING}") from None
    reporter.resume(state.step)
    if state.fabric.is_global_zero:
        _keep_if_best(state)
    averaged = f", after {state.average.count} of {state.cycles} cycles of weight averaging"
    reporter.say(f"resumed from the checkpoint at step {state.step}{averaged if state.stage == 'swa' else ''}")
    if state.final_facts is None and present["code_digest"] != last:
        state.versions.append(present | {"first_step": state.step + 1})
        reporter.say(
            f"the code has changed since step {state.step} ({last}, now {present['code_digest']}); train.json will "
            "state both versions"
        )


def begin_averaging(state: TrainingState, reporter: Reporter) -> None:
    """Load the best weights of the epochs and clear the optimiser's state, before the cycles of weight averaging.

    Raises:
        WorkbenchError: the best checkpoint is missing or broken.
    """
    any_process(False)  # until the first process has written the checkpoint
    path = state.training.best_checkpoint
    way_out = f"delete {path.parent} {FROM_THE_BEGINNING}"
    content = _read(path, state.identity, state.fabric.device, way_out)
    try:
        state.detector.load_state_dict(content["model"])
    except Exception as error:
        raise _broken(path, error, way_out) from None
    state.optimiser.state.clear()
    reporter.say(
        f"weight averaging: {state.cycles} cycles of one epoch each, from the weights of step {state.best_step} "
        f"(val AP {'n/a' if state.best_ap is None else f'{100 * state.best_ap:.1f}'})"
    )


def _copy_strides_of_parameters(optimiser: torch.optim.Optimizer) -> None:
    """Give each tensor in the optimiser's state of a parameter the strides of this parameter.

    The memory layout of weights differs between a GPU and a CPU, and a fused optimiser walks through memory in order.
    With a checkpoint from the other kind of device it would apply the moments of one weight to another weight.
    """
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


def _facts(state: TrainingState) -> dict[str, Any]:
    """Content of ``train.json``."""
    return {
        **state.identity,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "learning_rate": state.plan.learning_rate,
        "devices": state.plan.ranks,
        **_averaging_facts(state),
        **state.classes,
        **provenance(state.experiment),
        **code_facts(state.versions),
        "arithmetic": arithmetic(state.experiment.training.precision, back_end_of(state.detector)),
    }


def _averaging_facts(state: TrainingState) -> dict:
    if not state.average.count:
        return {}
    first = state.epoch_steps + 1
    facts = {"first_step": first, "from_weights_of_step": state.best_step, "averaged": state.average.count}
    return {"swa": facts}


def finish(state: TrainingState) -> None:
    """Write the results of a training whose steps are all done."""
    if state.average.count:
        state.average.give_to(state.detector)
    if state.fabric.is_global_zero:
        write_results(state.training, state.detector, state.log, state.final_facts or _facts(state))


def write_results(training: Training, detector: Detector, log: TrainLog, facts: Mapping[str, Any]) -> None:
    """Write the final files atomically. The weights are last, because a training with weights counts as finished."""
    write_json_atomically(training.facts, facts)
    log.publish(training.curves)
    weights = {name: value.contiguous() for name, value in detector.state_dict().items()}
    write_bytes_atomically(training.weights, save(weights))
