"""Training loop for one process or several, which can be resumed at any step.

A resumed training learns the same numbers as a training without a break. On a CPU the numbers agree bit for bit. On a
GPU they agree up to rounding, because some operators add their terms in a varying order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection, annotation_path
from workbench.data.loader import LostWorker, TrainingBatches
from workbench.data.splits import read_splits
from workbench.detectors import Detector
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set, enough_values
from workbench.runs.folders import Training
from workbench.settings.experiment import Experiment
from workbench.settings.variant import published_variant
from workbench.support.errors import WorkbenchError
from workbench.support.progress import Reporter
from workbench.training.checkpoints import begin_averaging, finish, resume, save_checkpoint
from workbench.training.finished import is_finished
from workbench.training.identity import identity
from workbench.training.interrupts import StopRequests, any_process, keep_dead_workers_quiet
from workbench.training.processes import is_first_process, lost_processes, open_fabric, start_processes, training_lock
from workbench.training.schedule import rate_factor
from workbench.training.start import announce, micro_batches_of_rank, start_state
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
    pretrained: Mapping[str, str] | None = None,
) -> None:
    """Train a detector in place and write its weights, its loss curves and the facts about the training.

    A training with a checkpoint is resumed; a finished one is left as it is. If ``machine.micro_batch`` is smaller than
    a device's share of the batch, the gradients of several micro-batches are accumulated. Each micro-batch then has its
    own normalisers of the loss. This is an approximation, which a line of progress and ``train.json`` report.

    Args:
        detector: any detector; training uses only its ``loss``, its ``detect`` and the methods of ``nn.Module``.
        experiment: settings of the training, the images and the validation.
        training: folder of the training. Its seed decides the order and the augmentation of the images, and the random
            numbers that the detector draws in its loss.
        pretrained: name and SHA-256 of the file with which the backbone starts; None for random weights.

    Raises:
        WorkbenchError: bad data, a checkpoint or results of another training, a loss that is not finite, or the same
            training in progress in another process.
        Interrupted: a signal was received; a checkpoint was written.
    """
    is_first = is_first_process()
    say = Reporter(training.title, 0, quiet=not is_first).say
    with training_lock(training, say), lost_processes():
        plan = plan_steps(experiment, machine.devices, machine.micro_batch)
        try:
            own = identity(experiment, int(training.seed), data_root, plan, pretrained)
        except WorkbenchError:
            read_splits(data_root, experiment.data.classes, say)  # reports all faults of the data
            raise
        if is_first and is_finished(detector, training, own, say):
            return
        fabric = open_fabric(machine.devices, say)
        start_processes(fabric)
        data, validation = read_splits(data_root, experiment.data.classes, say)
        batches = micro_batches_of_rank(data, experiment, plan, int(training.seed), fabric.global_rank, machine.workers)
        state = start_state(fabric, detector, experiment, training, own, plan, data, batches.batches_per_epoch)
        reporter = Reporter(training.title, state.total_steps, quiet=not fabric.is_global_zero)
        announce(reporter, state, data, validation)
        resume(state, reporter)
        with StopRequests(reporter.say) as requests, reporter:
            try:
                _loop(state, batches, _validator(state, validation, machine.workers), reporter, requests)
            except LostWorker:
                # A scheduler sends its signal to the workers, too, which end before the step does.
                if requests.signal is None or not state.training.last_checkpoint.is_file():
                    raise
                raise _interrupted(requests.own_reason(), state) from None
        finish(state)
        fabric.barrier()


def _loop(
    state: TrainingState,
    batches: TrainingBatches,
    validate: Callable[[], float | None] | None,
    reporter: Reporter,
    requests: StopRequests,
) -> None:
    """Run the remaining steps, with their log rows, validations and checkpoints."""
    last_save = time.monotonic()
    epochs = state.experiment.training.epochs + state.cycles
    log_every = max(1, state.total_steps // LOG_ROWS)
    if state.validation_due and (ap := _validate(state, validate, reporter)) is not None:
        reporter.say(f"step {state.step}: val AP {100 * ap:.1f}")
    while state.step < state.total_steps:
        if state.step == state.epoch_steps:
            begin_averaging(state, reporter)
        stage = state.stage
        epoch, done = divmod(state.step, state.steps_per_epoch)
        stream = batches.epoch(epoch, skip=done * state.plan.accumulate)
        keep_dead_workers_quiet()
        state.detector.train()
        has_positives = done > 0  # unknown for the steps before a resume
        for _ in range(min(state.steps_per_epoch - done, state.total_steps - state.step)):
            start = time.monotonic()
            micro_batches = _next_batches(state, stream)
            terms, rate = _step(state, micro_batches)
            elapsed = time.monotonic() - start
            state.step += 1
            state.seconds += elapsed
            images_per_second = len(micro_batches) * state.plan.micro_batch * state.plan.ranks / elapsed
            has_positives |= any(value for name, value in terms.items() if name != "cls")

            ends_epoch = state.step % state.steps_per_epoch == 0
            if ends_epoch:
                _end_epoch(state, epoch, stage, validate)
                _report_positives(epoch, has_positives or list(terms) == ["cls"], reporter)
            if state.step % log_every == 0 or state.step == state.total_steps or state.validation_due:
                state.log.add(state.step, epoch, rate, terms, images_per_second, stage)

            stop = requests.reason()
            is_last = state.step == state.total_steps  # of a rehearsal, within an epoch
            if ends_epoch or is_last or stop or time.monotonic() - last_save > CHECKPOINT_SECONDS:
                save_checkpoint(state)
                last_save = time.monotonic()
            if stop:
                raise _interrupted(stop, state)
            ap = _validate(state, validate, reporter) if state.validation_due else None
            reporter.step(state.step, epoch + 1, epochs, sum(terms.values()), images_per_second, ap)


def _interrupted(reason: str, state: TrainingState) -> Interrupted:
    return Interrupted(f"stopped {reason} at step {state.step}; run the same command again to resume")


def _next_batches(state: TrainingState, stream: Iterator[Batch]) -> list[Batch]:
    """Micro-batches of the next step. If any process cannot read its images, a checkpoint precedes the error."""
    micro_batches, problem = [], None
    try:
        micro_batches = list(islice(stream, state.plan.accumulate))
    except WorkbenchError as error:
        problem = error
    if any_process(problem is not None):
        if state.step:
            save_checkpoint(state)
        raise problem or Interrupted(f"stopped by another of its processes at step {state.step}; see its message")
    return micro_batches


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
            terms = _terms(state, batch)
            total = sum(terms.values()) / len(micro_batches)
            values = _finite_values(terms, batch, state.step)
            state.fabric.backward(total)
        for name, value in values.items():
            means[name] = means.get(name, 0.0) + value / len(micro_batches)
    if settings.clip_gradient is not None:
        state.fabric.clip_gradients(state.module, state.optimiser, max_norm=settings.clip_gradient)
    state.optimiser.step()
    return means, state.optimiser.param_groups[0]["lr"]


def _terms(state: TrainingState, batch: Batch) -> dict[str, Tensor]:
    """Terms of the loss of a micro-batch."""
    mixed = state.experiment.training.precision == "bf16"
    with enough_values(batch), torch.autocast(state.fabric.device.type, torch.bfloat16, enabled=mixed):
        return state.module(batch)


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


def _end_epoch(state: TrainingState, epoch: int, stage: str | None, validate: Callable | None) -> None:
    """Add the weights to the average after a cycle, and note whether a validation is due."""
    if stage == "swa":
        state.average.add(state.detector)
    # Weight averaging starts from the best epoch, so each epoch needs a validation.
    every = 1 if state.cycles else state.experiment.training.validate_every
    state.validation_due = validate is not None and ((epoch + 1) % every == 0 or state.step == state.total_steps)


def _report_positives(epoch: int, has_positives: bool, reporter: Reporter) -> None:
    """Report an epoch in which every term of the loss but the classification's was zero in every process."""
    if not any_process(has_positives):
        reporter.say(
            f"epoch {epoch + 1}: no location was positive, so only background was learnt; check the boxes of the "
            "training images, and image.long and image.short"
        )


def _validate(state: TrainingState, validate: Callable[[], float | None], reporter: Reporter) -> float | None:
    """Validate the weights of the last step, whose checkpoint exists, and replace this checkpoint.

    Returns:
        AP as a fraction; None if the validation images have no objects.
    """
    ap = validate()
    state.detector.train()
    if state.step <= state.epoch_steps:
        state.note_validation(ap)
    state.validation_due = False
    state.log.add_validation(ap)
    save_checkpoint(state)
    if ap is None:
        reporter.say(f"step {state.step}: val AP n/a, because the validation images have no objects")
    return ap


def _validator(state: TrainingState, data: CocoDetection, workers: int) -> Callable[[], float | None] | None:
    """Return a function that measures the validation AP of the detector; None in a rehearsal, without validation."""
    if state.experiment.training.limit_steps:
        return None
    annotations = annotation_path(data.root, data.split)
    variant = published_variant(state.experiment)
    rank, ranks = state.fabric.global_rank, state.fabric.world_size

    def validate() -> float | None:
        part = detect_data_set(state.detector, data, variant, state.fabric.device, workers, rank=rank, ranks=ranks)
        parts = [part]
        if ranks > 1:
            parts = [None] * ranks
            torch.distributed.all_gather_object(parts, part)
        return evaluate_detections(annotations, [entry for part in parts for entry in part])["AP"]

    return validate
