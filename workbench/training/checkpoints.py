"""Checkpoints and final files of a training: written atomically, and read when a training is resumed."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save

from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import write_atomically, write_bytes_atomically, write_json_atomically
from workbench.support.progress import Reporter
from workbench.support.provenance import provenance
from workbench.training.averaging import WeightAverage
from workbench.training.state import TrainingState


def save_checkpoint(state: TrainingState) -> None:
    """Replace the last checkpoint and the log next to the checkpoint. Only the first rank writes.

    After the best validation so far, the last checkpoint also becomes the best checkpoint.
    """
    if not state.fabric.is_global_zero:
        return
    state.log.flush()
    content = {
        "model": state.detector.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "best_ap": state.best_ap,
        "best_step": state.best_step,
        "average": state.average.state(),
    }
    write_atomically(_checkpoint(state, "last"), lambda file: torch.save(content, file))
    _keep_if_best(state)


def _checkpoint(state: TrainingState, name: str) -> Path:
    return state.training.checkpoints / f"{name}.pt"


def _keep_if_best(state: TrainingState) -> None:
    """Copy the last checkpoint to the best one if its step is the best step.

    The last checkpoint is written first. After a kill between both writes, the resumed training makes the copy.
    """
    if state.best_step != state.step:
        return
    with _checkpoint(state, "last").open("rb") as last:
        write_atomically(_checkpoint(state, "best"), lambda file: shutil.copyfileobj(last, file))


def resume(state: TrainingState, reporter: Reporter) -> None:
    """Continue from the last checkpoint if there is one; otherwise start the log.

    Raises:
        WorkbenchError: the checkpoint is broken or belongs to another run.
    """
    path = _checkpoint(state, "last")
    if not path.is_file():
        state.log.start()
        return
    try:
        content = torch.load(path, map_location=state.fabric.device, weights_only=True)
        state.detector.load_state_dict(content["model"])
        state.optimiser.load_state_dict(content["optimiser"])
        _copy_strides_of_parameters(state.optimiser)
        state.step, state.seconds = content["step"], content["seconds"]
        state.best_ap, state.best_step = content["best_ap"], content["best_step"]
        state.average = WeightAverage(**content["average"])
    except Exception as error:
        raise WorkbenchError(
            f"{path}: not a checkpoint of this run ({one_line(error)}); delete it to start from the beginning"
        ) from None
    state.log.start(keep_to=state.step)
    reporter.resume(state.step)
    if state.fabric.is_global_zero:
        _keep_if_best(state)
    averaged = f", after {state.average.count} of {state.cycles} cycles of weight averaging"
    reporter.say(f"resumed from the checkpoint at step {state.step}{averaged if state.stage == 'swa' else ''}")


def begin_averaging(state: TrainingState, reporter: Reporter) -> None:
    """Load the best weights of the epochs and clear the optimiser's state, before the cycles of weight averaging.

    Raises:
        WorkbenchError: the best checkpoint is missing or broken.
    """
    state.fabric.barrier()  # until the first rank has written the checkpoint
    path = _checkpoint(state, "best")
    try:
        content = torch.load(path, map_location=state.fabric.device, weights_only=True)
        state.detector.load_state_dict(content["model"])
    except Exception as error:
        raise WorkbenchError(
            f"{path}: not the best checkpoint of this run ({one_line(error)}); "
            f"delete {path.parent} to start from the beginning"
        ) from None
    state.optimiser.state.clear()
    reporter.say(
        f"weight averaging: {state.cycles} cycles of one epoch each, from the weights of step {state.best_step} "
        f"(val AP {100 * state.best_ap:.1f})"
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


def write_results(state: TrainingState, category_ids: tuple[int, ...], class_names: tuple[str, ...]) -> None:
    """Write the final files atomically. The weights are last, because a training with weights counts as finished."""
    state.log.flush()
    facts = {
        "seed": state.training.stated_seed,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "micro_batch x ranks x accumulation": str(state.plan),
        "learning_rate": state.plan.learning_rate,
        **_averaging_facts(state),
        "category_ids": list(category_ids),
        "class_names": list(class_names),
        **provenance(state.experiment),
    }
    write_json_atomically(state.training.facts, facts)
    state.log.publish(state.training.curves)
    weights = {name: value.contiguous() for name, value in state.detector.state_dict().items()}
    write_bytes_atomically(state.training.weights, save(weights))


def _averaging_facts(state: TrainingState) -> dict:
    if not state.average.count:
        return {}
    first = state.epoch_steps + 1
    facts = {"first_step": first, "from_weights_of_step": state.best_step, "averaged": state.average.count}
    return {"swa": facts}
