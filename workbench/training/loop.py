"""Training loop for one process or several, which can be resumed at any step.

A resumed training learns the same numbers as a training without a break. On a CPU the numbers agree bit for bit. On a
GPU they agree up to rounding, because some operators add their terms in a varying order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch

from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection, annotation_path
from workbench.data.loader import LostWorker, TrainingBatches
from workbench.data.splits import read_splits
from workbench.detectors import Detector
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set
from workbench.runs.folders import Training
from workbench.settings.experiment import Experiment
from workbench.settings.variant import published_variant
from workbench.support.errors import WorkbenchError
from workbench.support.progress import Reporter
from workbench.training.agreement import any_process, host_group
from workbench.training.checkpoints import begin_averaging, finish, resume, save_checkpoint
from workbench.training.finished import is_finished
from workbench.training.identity import identity
from workbench.training.interrupts import Interrupted, StopRequests, keep_dead_workers_quiet
from workbench.training.processes import is_first_process, lost_processes, open_fabric, start_processes, training_lock
from workbench.training.start import announce, canvases_of_rank, start_state
from workbench.training.state import Machine, TrainingState, plan_steps
from workbench.training.step import RecentLosses, autocast, take_step

CHECKPOINT_SECONDS = 600
"""Longest time between two checkpoints. A checkpoint is also written at the end of each epoch."""
LOG_ROWS = 1000
"""Largest number of rows in the log, apart from validations."""


def train(
    detector: Detector,
    experiment: Experiment,
    training: Training,
    data_root: Path,
    machine: Machine = Machine(),
    pretrained: Mapping[str, str] | None = None,
) -> None:
    """Train a detector in place and write its weights, its loss curves and the facts about the training.

    A training with a checkpoint is resumed; a finished one is left as it is. The machine does not change what is
    learnt: with any number of devices, a step has the same canvases and the same loss.

    Args:
        detector: any detector; training uses only its ``canvas_loss``, its ``detect`` and the methods of ``nn.Module``.
        experiment: settings of the training, the images and the validation.
        training: folder of the training. Its seed decides the order and the augmentation of the images, and the random
            numbers that the detector draws in its loss.
        pretrained: name and SHA-256 of the file with which backbone or detector starts; None for random weights.

    Raises:
        WorkbenchError: bad data, a checkpoint or results of another training, a loss that is not finite, or the same
            training in progress in another process.
        Interrupted: a signal was received; a checkpoint was written.
    """
    is_first = is_first_process()
    say = Reporter(training.title, 0, quiet=not is_first).say
    with training_lock(training, say), lost_processes():
        plan = plan_steps(experiment.training, machine)
        try:
            own = identity(experiment, int(training.seed), data_root, pretrained)
        except WorkbenchError:
            read_splits(data_root, experiment.data.classes, say)  # reports all faults of the data
            raise
        if is_first and is_finished(detector, training, own, say):
            return
        fabric = open_fabric(plan.ranks, say)
        start_processes(fabric)
        data, validation = read_splits(data_root, experiment.data.classes, say)
        canvases = canvases_of_rank(data, experiment, plan, int(training.seed), fabric.global_rank, machine.workers)
        state = start_state(fabric, detector, experiment, training, own, plan, data, canvases.canvases_per_epoch)
        reporter = Reporter(training.title, state.total_steps, quiet=not fabric.is_global_zero)
        announce(reporter, state, data, validation, machine.devices)
        resume(state, reporter)
        with StopRequests(reporter.say) as requests, reporter:
            try:
                _loop(state, canvases, _validator(state, validation, machine.workers), reporter, requests)
            except LostWorker:
                # A scheduler sends its signal to the workers, too, which end before the step does.
                if requests.signal is None or not state.training.last_checkpoint.is_file():
                    raise
                raise _interrupted(requests.own_reason(), state) from None
        finish(state)
        any_process(False)  # until the first process has written the results


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
    recent = RecentLosses(state.fabric.device)
    if state.validation_due and (ap := _validate(state, validate, reporter)) is not None:
        reporter.say(f"step {state.step}: val AP {100 * ap:.1f}")
    while state.step < state.total_steps:
        if state.step == state.epoch_steps:
            begin_averaging(state, reporter)
        stage = state.stage
        epoch, done = divmod(state.step, state.steps_per_epoch)
        stream = batches.epoch(epoch, skip=done * state.plan.canvases)
        keep_dead_workers_quiet()
        state.detector.train()
        has_positives = done > 0  # unknown for the steps before a resume
        for _ in range(min(state.steps_per_epoch - done, state.total_steps - state.step)):
            start = time.monotonic()
            canvases = _next_canvases(state, stream, recent)
            terms, rate = take_step(state, canvases)
            recent.add(state.step, terms, canvases, time.monotonic() - start)
            state.step += 1

            ends_epoch = state.step % state.steps_per_epoch == 0
            is_last = state.step == state.total_steps  # of a rehearsal, within an epoch
            is_late = time.monotonic() - last_save > CHECKPOINT_SECONDS
            # All processes must agree, because they wait for each other at a checkpoint.
            saves = any_process(ends_epoch or is_last or is_late or requests.own_reason() is not None)
            logs = state.step % log_every == 0 or is_last
            if not (saves or logs or len(recent) == recent.most):
                continue
            values, images_per_second = _read_losses(state, recent)
            has_positives |= any(value for terms in values for name, value in terms.items() if name != "cls")
            if ends_epoch:
                _end_epoch(state, epoch, stage, validate, batches)
                _report_positives(epoch, has_positives or list(values[-1]) == ["cls"], reporter)
            if logs or state.validation_due:
                state.log.add(state.step, epoch, rate, values[-1], images_per_second, stage)
            if saves:
                save_checkpoint(state)
                last_save = time.monotonic()
                if stop := requests.reason():
                    raise _interrupted(stop, state)
            ap = _validate(state, validate, reporter) if state.validation_due else None
            reporter.step(state.step, epoch + 1, epochs, sum(values[-1].values()), images_per_second, ap)


def _read_losses(state: TrainingState, recent: RecentLosses) -> tuple[list[dict[str, float]], float]:
    """Losses of the steps since the last reading, and images per second of all devices together."""
    images, seconds, start = len(recent) * state.experiment.training.batch, recent.seconds, time.monotonic()
    values = recent.read()
    seconds += time.monotonic() - start
    state.seconds += seconds
    return values, images / seconds


def _interrupted(reason: str, state: TrainingState) -> Interrupted:
    return Interrupted(f"stopped {reason} at step {state.step}; run the same command again to resume")


def _next_canvases(state: TrainingState, stream: Iterator[Batch], recent: RecentLosses) -> list[Batch]:
    """Canvases of the next step. If any process cannot read its images, a checkpoint precedes the error."""
    canvases, problem = [], None
    try:
        canvases = list(islice(stream, state.plan.canvases))
    except WorkbenchError as error:
        problem = error
    if any_process(problem is not None):
        if len(recent):
            _read_losses(state, recent)  # no checkpoint of a step whose loss is not known
        if state.step:
            save_checkpoint(state)
        raise problem or Interrupted.by_another(state.step)
    return canvases


def _end_epoch(
    state: TrainingState, epoch: int, stage: str | None, validate: Callable | None, batches: TrainingBatches
) -> None:
    """Add the weights to the average after a cycle, and note whether a validation is due."""
    if stage == "swa":
        state.average.add(state.detector)
    if stage == "swa" and state.step == state.total_steps:
        _measure_statistics(state, batches, epoch + 1)
    # Weight averaging starts from the best epoch, so each epoch needs a validation.
    every = 1 if state.cycles else state.experiment.training.validate_every
    if validate is not None and every is not None:
        state.validation_due = (epoch + 1) % every == 0 or state.step == state.total_steps


def _measure_statistics(state: TrainingState, batches: TrainingBatches, epoch: int) -> None:
    """Measure the statistics of BatchNorm for the average of all cycles, on the canvases of one more epoch."""

    def on_device() -> Iterator[Batch]:
        canvases = batches.epoch(epoch)
        keep_dead_workers_quiet()
        yield from (canvas.to(state.fabric.device) for canvas in canvases)

    torch.manual_seed(int(state.training.seed))  # a detector may draw samples in its loss
    with autocast(state):
        state.average.measure_statistics(state.detector, on_device())


def _report_positives(epoch: int, has_positives: bool, reporter: Reporter) -> None:
    """Report an epoch in which every term of the loss but the classification's was zero in every process."""
    if not any_process(has_positives):
        reporter.say(
            f"epoch {epoch + 1}: no location was positive, so only background was learnt; check the boxes of the "
            "training images, and image.long and image.short"
        )


def _validate(state: TrainingState, validate: Callable[[], float | None], reporter: Reporter) -> float | None:
    """Validate the weights of the last step, whose checkpoint exists, and replace this checkpoint.

    After the last cycle of weight averaging, the average is validated, since the training ends with these weights.

    Returns:
        AP as a fraction; None if the validation images have no objects.
    """
    ends_averaging = state.average.count and state.step == state.total_steps
    with state.average.lent_to(state.detector) if ends_averaging else nullcontext():
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
        if ranks == 1:
            return evaluate_detections(annotations, part)["AP"]
        parts = [None] * ranks if rank == 0 else None
        torch.distributed.gather_object(part, parts, group=host_group())
        metrics = [evaluate_detections(annotations, [entry for part in parts for entry in part]) if parts else None]
        torch.distributed.broadcast_object_list(metrics, group=host_group())
        return metrics[0]["AP"]

    return validate
