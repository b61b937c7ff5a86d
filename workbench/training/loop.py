"""Training loop for one process or several, which can be resumed at any step.

A resumed training learns the same numbers as a training without a break. On a CPU the numbers agree bit for bit. On a
GPU they agree up to rounding, because some operators add their terms in a varying order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection, annotation_path
from workbench.data.loader import TrainingBatches
from workbench.data.splits import read_splits
from workbench.detectors import Detector
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set
from workbench.runs.folders import Training
from workbench.settings.experiment import Experiment
from workbench.settings.variant import published_variant
from workbench.support.errors import WorkbenchError
from workbench.support.progress import Reporter
from workbench.training.checkpoints import begin_averaging, resume, save_checkpoint, write_results
from workbench.training.interrupts import StopRequests
from workbench.training.schedule import rate_factor
from workbench.training.start import announce, micro_batches_of_rank, open_fabric, start_state
from workbench.training.state import Machine, TrainingState, plan_steps

CHECKPOINT_SECONDS = 600
"""Longest time between two checkpoints. A checkpoint is also written at the end of each epoch."""
LOG_ROWS = 1000
"""Largest number of rows in the log, apart from validations."""


class Interrupted(WorkbenchError):
    """Error of a training that stopped early on request, after it wrote a checkpoint."""


def train(
    detector: Detector,
    experiment: Experiment,
    training: Training,
    data_root: Path,
    machine: Machine = Machine(),
) -> None:
    """Train a detector in place and write its weights, its loss curves and the facts about the training.

    A training with a checkpoint is resumed. If ``machine.micro_batch`` is smaller than a device's share of the
    batch, the gradients of several micro-batches are accumulated. Each micro-batch then has its own normalisers of the
    loss. This is an approximation, which a line of progress and ``train.json`` report.

    Args:
        detector: any detector; training uses only its ``loss``, its ``detect`` and the methods of ``nn.Module``.
        experiment: settings of the training, the images and the validation.
        training: folder of the training. Its seed decides the order and the augmentation of the images, and the random
            numbers that the detector draws in its loss.

    Raises:
        WorkbenchError: bad data, a checkpoint of another run, or a loss that is not finite.
        Interrupted: SIGTERM or SIGINT was received; a checkpoint was written.
    """
    fabric = open_fabric(machine.devices)
    fabric.launch()
    quiet = not fabric.is_global_zero
    data, validation = read_splits(data_root, experiment.data.classes, Reporter(training.title, 0, quiet).say)
    plan = plan_steps(experiment, fabric.world_size, machine.micro_batch)
    batches = micro_batches_of_rank(data, experiment, plan, int(training.seed), fabric.global_rank, machine.workers)
    state = start_state(fabric, detector, experiment, training, plan, batches.batches_per_epoch)
    reporter = Reporter(training.title, state.total_steps, quiet)
    announce(reporter, state, data, validation)
    resume(state, reporter)
    with StopRequests() as requests, reporter:
        _loop(state, batches, _validator(state, validation, machine.workers), reporter, requests)
    if state.average.count:
        state.average.give_to(state.detector)
    if fabric.is_global_zero:
        write_results(state, data.category_ids, data.class_names)
    fabric.barrier()


def _loop(
    state: TrainingState,
    batches: TrainingBatches,
    validate: Callable[[], float] | None,
    reporter: Reporter,
    requests: StopRequests,
) -> None:
    """Run the remaining steps, with their log rows, validations and checkpoints."""
    last_save = time.monotonic()
    epochs = state.experiment.training.epochs + state.cycles
    log_every = max(1, state.total_steps // LOG_ROWS)
    while state.step < state.total_steps:
        if state.step == state.epoch_steps:
            begin_averaging(state, reporter)
        stage = state.stage
        epoch, done = divmod(state.step, state.steps_per_epoch)
        stream = batches.epoch(epoch, skip=done * state.plan.accumulate)
        state.detector.train()
        for _ in range(min(state.steps_per_epoch - done, state.total_steps - state.step)):
            start = time.monotonic()
            micro_batches = list(islice(stream, state.plan.accumulate))
            terms, rate = _step(state, micro_batches)
            elapsed = time.monotonic() - start
            state.step += 1
            state.seconds += elapsed
            images_per_second = len(micro_batches) * state.plan.micro_batch * state.plan.ranks / elapsed

            ends_epoch = state.step % state.steps_per_epoch == 0
            ap = _end_epoch(state, epoch, stage, validate) if ends_epoch else None
            if state.step % log_every == 0 or state.step == state.total_steps or ap is not None:
                state.log.add(state.step, epoch, rate, terms, images_per_second, ap, stage)
            reporter.step(state.step, epoch + 1, epochs, sum(terms.values()), images_per_second, ap)

            stop = requests.reason()
            if ends_epoch or stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
                save_checkpoint(state)
                last_save = time.monotonic()
            if stop:
                raise Interrupted(f"stopped {stop} at step {state.step}; run the same command again to resume")


def _step(state: TrainingState, micro_batches: list[Batch]) -> tuple[dict[str, float], float]:
    """Update the weights once; return the loss terms, averaged over the micro-batches, and the learning rate."""
    settings = state.experiment.training
    # A detector may draw samples in its loss, as two-stage detectors do. With a seed per step, a resume repeats them.
    torch.manual_seed(_seed_of_step(state))
    factor = rate_factor(settings, state.step, state.steps_per_epoch)
    for group in state.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    state.optimiser.zero_grad(set_to_none=True)
    means: dict[str, float] = {}
    for number, batch in enumerate(micro_batches, 1):
        batch = batch.to(state.fabric.device)
        with state.fabric.no_backward_sync(state.module, enabled=number < len(micro_batches)):
            with torch.autocast(state.fabric.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                terms = state.module(batch)
            total = sum(terms.values()) / len(micro_batches)
            values = _finite_values(terms, batch, state.step)
            state.fabric.backward(total)
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value / len(micro_batches)
    if settings.clip_gradient is not None:
        state.fabric.clip_gradients(state.module, state.optimiser, max_norm=settings.clip_gradient)
    state.optimiser.step()
    return means, state.optimiser.param_groups[0]["lr"]


def _seed_of_step(state: TrainingState) -> int:
    sequence = np.random.SeedSequence((int(state.training.seed), state.step, state.fabric.global_rank))
    return int(sequence.generate_state(1, np.uint64)[0])


def _finite_values(terms: dict[str, Tensor], batch: Batch, step: int) -> dict[str, float]:
    """Values of the loss terms as numbers; an error that names the images if one of them is not finite."""
    values = dict(zip(terms, torch.stack(list(terms.values())).detach().tolist(), strict=True))
    if not torch.isfinite(torch.tensor(list(values.values()))).all():
        listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise WorkbenchError(
            f"step {step}: the loss is not finite ({listed}) on the images {', '.join(batch.file_names)}; "
            "check the boxes of these images, or lower training.learning_rate"
        )
    return values


def _end_epoch(
    state: TrainingState, epoch: int, stage: str | None, validate: Callable[[], float] | None
) -> float | None:
    """Add the weights to the average after a cycle; return the AP of a validation if one is due, else None."""
    if stage == "swa":
        state.average.add(state.detector)
    # Weight averaging starts from the best epoch, so each epoch needs a validation.
    every = 1 if state.cycles else state.experiment.training.validate_every
    if validate is None or ((epoch + 1) % every and state.step < state.total_steps):
        return None
    ap = validate()
    state.detector.train()
    if stage != "swa":
        state.note_validation(ap)
    return ap


def _validator(state: TrainingState, data: CocoDetection, workers: int) -> Callable[[], float] | None:
    """Return a function that measures the validation AP of the detector; None in a rehearsal, without validation."""
    if state.experiment.training.limit_steps:
        return None
    annotations = annotation_path(data.root, data.split)
    variant = published_variant(state.experiment)
    rank, ranks = state.fabric.global_rank, state.fabric.world_size

    def validate() -> float:
        part = detect_data_set(state.detector, data, variant, state.fabric.device, workers, rank=rank, ranks=ranks)
        parts = [part]
        if ranks > 1:
            parts = [None] * ranks
            torch.distributed.all_gather_object(parts, part)
        return evaluate_detections(annotations, [entry for part in parts for entry in part])["AP"] or 0.0

    return validate
