"""What a training holds, how it is spread over devices, and how it is kept on disk: checkpoints and final files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import save_file

from workbench.detectors import Detector
from workbench.errors import WorkbenchError, one_line
from workbench.experiment import Experiment
from workbench.files import write_json_atomically
from workbench.progress import Reporter
from workbench.provenance import provenance
from workbench.trainlog import TrainLog


@dataclass(frozen=True)
class Plan:
    """How the steps of an experiment are spread over devices and micro-batches."""

    ranks: int
    micro_batch: int
    accumulate: int
    learning_rate: float

    @property
    def batch(self) -> int:
        """Images a step, over all ranks."""
        return self.ranks * self.micro_batch * self.accumulate

    def __str__(self) -> str:
        return f"{self.micro_batch} x {self.ranks} x {self.accumulate}"


def plan_steps(experiment: Experiment, ranks: int, micro_batch: int | None) -> Plan:
    """Micro-batch × ranks × accumulation as near to the experiment's batch as they get, the learning rate scaled."""
    training = experiment.training
    micro = min(micro_batch or training.batch, max(1, training.batch // ranks))
    accumulate = max(1, round(training.batch / (ranks * micro)))
    batch = ranks * micro * accumulate
    return Plan(ranks, micro, accumulate, training.learning_rate * batch / training.reference_batch)


@dataclass
class Run:
    """What a training holds while it goes: all of it stands in a checkpoint."""

    fabric: Fabric
    experiment: Experiment
    folder: Path
    detector: Detector
    optimiser: torch.optim.Optimizer
    log: TrainLog
    steps_per_epoch: int
    step: int = 0
    seconds: float = 0.0

    @property
    def total_steps(self) -> int:
        steps = self.experiment.training.epochs * self.steps_per_epoch
        return min(steps, self.experiment.training.limit_steps or steps)


def save_checkpoint(run: Run) -> None:
    """Replace the last checkpoint and the log beside it; only the first of several ranks writes."""
    if not run.fabric.is_global_zero:
        return
    run.log.flush()
    path = run.folder / "checkpoints" / "last.pt"
    temporary = path.with_suffix(".partial")
    state = {
        "model": run.detector.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "step": run.step,
        "seconds": run.seconds,
    }
    try:
        with temporary.open("wb") as file:  # given a path, torch would not tell that the disk is full
            torch.save(state, file)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise WorkbenchError(f"{path}: the checkpoint cannot be written ({one_line(error)}); free some space") from None


def resume(run: Run, reporter: Reporter) -> None:
    """Go on from the last checkpoint, if there is one.

    Raises:
        WorkbenchError: it is broken or of another experiment.
    """
    path = run.folder / "checkpoints" / "last.pt"
    if not path.is_file():
        run.log.start()
        return
    try:
        state = torch.load(path, map_location=run.fabric.device, weights_only=True)
        run.detector.load_state_dict(state["model"])
        run.optimiser.load_state_dict(state["optimiser"])
        _lay_out_like_parameters(run.optimiser)
        run.step, run.seconds = state["step"], state["seconds"]
    except Exception as error:
        raise WorkbenchError(
            f"{path}: no checkpoint of this run ({one_line(error)}); delete it to start anew"
        ) from None
    run.log.start(keep_to=run.step)
    reporter.resume(run.step)
    reporter.say(f"resumed from the checkpoint at step {run.step}")


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
