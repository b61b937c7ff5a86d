"""What a training holds, how it is spread over devices, and how it is kept on disk: checkpoints and final files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import write_json_atomically
from workbench.support.progress import Reporter
from workbench.support.provenance import provenance
from workbench.training.averaging import WeightAverage
from workbench.training.state import Plan, Run


def save_checkpoint(run: Run) -> None:
    """Replace the last checkpoint and the log beside it; only the first of several ranks writes.

    The last checkpoint is the best one, too, where no validation was better.
    """
    if not run.fabric.is_global_zero:
        return
    run.log.flush()
    path = _checkpoint(run, "last")
    temporary = path.with_suffix(".partial")
    state = {
        "model": run.detector.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "step": run.step,
        "seconds": run.seconds,
        "best_ap": run.best_ap,
        "best_step": run.best_step,
        "average": run.average.state(),
    }
    try:
        with temporary.open("wb") as file:  # given a path, torch would not tell that the disk is full
            torch.save(state, file)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise WorkbenchError(f"{path}: the checkpoint cannot be written ({one_line(error)}); free some space") from None
    _keep_if_best(run)


def _checkpoint(run: Run, name: str) -> Path:
    return run.folder / "checkpoints" / f"{name}.pt"


def _keep_if_best(run: Run) -> None:
    """Copy the last checkpoint to the best one, if it is that; the last is written first, so that a kill in between
    leaves it to the resumption to do this again."""
    if run.best_step != run.step:
        return
    path = _checkpoint(run, "best")
    temporary = path.with_suffix(".partial")
    try:
        shutil.copyfile(_checkpoint(run, "last"), temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WorkbenchError(f"{path}: the checkpoint cannot be written ({error.strerror}); free some space") from None


def resume(run: Run, reporter: Reporter) -> None:
    """Go on from the last checkpoint, if there is one.

    Raises:
        WorkbenchError: it is broken or of another experiment.
    """
    path = _checkpoint(run, "last")
    if not path.is_file():
        run.log.start()
        return
    try:
        state = torch.load(path, map_location=run.fabric.device, weights_only=True)
        run.detector.load_state_dict(state["model"])
        run.optimiser.load_state_dict(state["optimiser"])
        _lay_out_like_parameters(run.optimiser)
        run.step, run.seconds = state["step"], state["seconds"]
        run.best_ap, run.best_step = state["best_ap"], state["best_step"]
        run.average = WeightAverage(**state["average"])
    except Exception as error:
        raise WorkbenchError(
            f"{path}: no checkpoint of this run ({one_line(error)}); delete it to start anew"
        ) from None
    run.log.start(keep_to=run.step)
    reporter.resume(run.step)
    if run.fabric.is_global_zero:
        _keep_if_best(run)
    where = f", after {run.average.count} of {run.cycles} cycles of weight averaging" if run.stage == "swa" else ""
    reporter.say(f"resumed from the checkpoint at step {run.step}{where}")


def begin_averaging(run: Run, reporter: Reporter) -> None:
    """From the epochs to the cycles of weight averaging: the best weights, and an optimiser that remembers nothing.

    Without a validation the best weights are the last ones.

    Raises:
        WorkbenchError: the best checkpoint is missing or broken.
    """
    run.fabric.barrier()  # the first rank has written it
    if run.best_step is not None:
        path = _checkpoint(run, "best")
        try:
            run.detector.load_state_dict(torch.load(path, map_location=run.fabric.device, weights_only=True)["model"])
        except Exception as error:
            raise WorkbenchError(
                f"{path}: not the best checkpoint of this run ({one_line(error)}); delete {path.parent} to start anew"
            ) from None
    run.optimiser.state.clear()
    found = "the last weights" if run.best_ap is None else f"step {run.best_step} (val AP {100 * run.best_ap:.1f})"
    reporter.say(f"weight averaging: {run.cycles} cycles of an epoch from {found}")


def _lay_out_like_parameters(optimiser: torch.optim.Optimizer) -> None:
    """Give what the optimiser keeps of each parameter the parameter's strides.

    Weights lie in another order on a GPU than on a CPU, and a fused optimiser goes through memory as it lies: with a
    checkpoint that was written on the other device it would take the moments of one weight for those of another.
    """
    for parameter, kept in optimiser.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)


def write_results(run: Run, plan: Plan, seed: int, category_ids: tuple[int, ...], class_names: tuple[str, ...]) -> None:
    """Final files, each moved into place whole; the weights last, since with them the run counts as done."""
    run.log.flush()
    facts = {
        "seed": seed,
        "steps": run.step,
        "seconds": round(run.seconds, 1),
        "micro_batch x ranks x accumulation": str(plan),
        "learning_rate": plan.learning_rate,
        **_averaging_facts(run),
        "category_ids": list(category_ids),
        "class_names": list(class_names),
        **provenance(),
    }
    write_json_atomically(run.folder / "train.json", facts)
    run.log.publish(run.folder / "train.csv")
    path = run.folder / "model.safetensors"
    temporary = path.with_suffix(".partial")
    weights = {name: value.contiguous() for name, value in run.detector.state_dict().items()}
    try:
        save_file(weights, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # the latter tells of a full disk, too
        temporary.unlink(missing_ok=True)
        raise WorkbenchError(f"{path}: the weights cannot be written ({one_line(error)}); free some space") from None


def _averaging_facts(run: Run) -> dict:
    if not run.average.count:
        return {}
    start = run.best_step or run.epoch_steps
    facts = {"first_step": run.epoch_steps + 1, "from_weights_of_step": start, "averaged": run.average.count}
    return {"swa": facts}
