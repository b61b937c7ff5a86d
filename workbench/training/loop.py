"""Training: one loop for one process or several, resumable at any step, the same numbers after a kill and a resume.

To the bit on a CPU; on a GPU some operators add in the order in which their threads come, and round accordingly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment

from workbench.data.augmentation import Augmentation
from workbench.data.batch import Batch
from workbench.data.coco import CocoDetection, annotation_path, read_coco
from workbench.data.loader import training_batches
from workbench.detectors import build_detector
from workbench.evaluation.coco_metrics import evaluate_detections
from workbench.evaluation.inference import detect_data_set
from workbench.settings.experiment import Experiment
from workbench.settings.variant import published_variant
from workbench.support.errors import WorkbenchError
from workbench.support.progress import Reporter
from workbench.training.checkpoints import begin_averaging, resume, save_checkpoint, write_results
from workbench.training.interrupts import StopRequests
from workbench.training.log import TrainLog
from workbench.training.schedule import make_optimiser, rate_factor
from workbench.training.state import Plan, Run, plan_steps


class Interrupted(WorkbenchError):
    """Training was asked to stop, and left a checkpoint."""


def train(
    experiment: Experiment,
    folder: Path,
    data_root: Path,
    seed: int,
    *,
    pretrained: Path | None = None,
    devices: int = 1,
    micro_batch: int | None = None,
    workers: int = 0,
    checkpoint_minutes: float = 10.0,
    validate: bool = True,
    title: str = "",
) -> None:
    """Train an experiment and write ``model.safetensors``, ``train.csv`` and ``train.json`` into ``folder``.

    A checkpoint in ``folder/checkpoints`` is resumed. On one device ``micro_batch`` images are computed at a time and
    gradients accumulated to the experiment's batch; the losses' normalisers are then each micro-batch's own, an
    approximation, which is said in the log and in ``train.json``.

    Raises:
        WorkbenchError: bad data, a foreign checkpoint, losses that are not finite.
        Interrupted: SIGTERM or SIGINT came; a checkpoint was written.
    """
    fabric = _fabric(devices)
    fabric.launch()
    data = read_coco(data_root, "train2017", training=True)
    if len(data.class_names) != experiment.data.classes:
        raise WorkbenchError(
            f"{data_root}: {len(data.class_names)} categories, the scale says data.classes: {experiment.data.classes}; "
            "name another data set or correct the scale"
        )
    settings = experiment.training
    plan = plan_steps(experiment, fabric.world_size, micro_batch)
    batches = training_batches(
        data,
        size=(experiment.image.long, experiment.image.short),
        batch=plan.micro_batch,
        seed=seed,
        augmentation=Augmentation(settings.flip, settings.crop, settings.image_range, settings.cutout),
        workers=workers,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    run, module = _start(
        fabric, experiment, folder, seed, plan, pretrained, -(-batches.batches_per_epoch // plan.accumulate)
    )
    reporter = Reporter(title, run.total_steps, quiet=not fabric.is_global_zero)
    _announce(reporter, run, plan, data.skipped, pretrained)
    resume(run, reporter)
    with StopRequests() as requests, reporter:
        check = _validator(run, data, workers) if validate and not settings.limit_steps else None
        _loop(run, module, batches, plan, reporter, check, checkpoint_minutes * 60, requests)
    if run.average.count:
        run.average.give_to(run.detector)
    if fabric.is_global_zero:
        write_results(run, plan, seed, data.category_ids, data.class_names)
    fabric.barrier()


def _fabric(devices: int) -> Fabric:
    """Processes on GPUs where there are any, else on the CPU; other accelerators lack operators, double precision too.

    The environment is named since Fabric would take a Slurm job's one task for the only process and start no others.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < devices:
        raise WorkbenchError(f"{devices} GPUs are asked for, {gpus} can be used here: ask for fewer (gpus=, --devices)")
    return Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        plugins=LightningEnvironment(),
    )


def _start(
    fabric: Fabric,
    experiment: Experiment,
    folder: Path,
    seed: int,
    plan: Plan,
    pretrained: Path | None,
    steps_per_epoch: int,
) -> tuple[Run, torch.nn.Module]:
    torch.manual_seed(seed)
    detector = build_detector(experiment)
    if pretrained is not None:
        detector.backbone.load_pretrained(pretrained)
    optimiser = make_optimiser(experiment.training, detector, plan.learning_rate)
    if fabric.device.type == "cpu":
        detector = detector.to(memory_format=torch.channels_last)
    module, optimiser = fabric.setup(detector, optimiser)
    log = TrainLog(folder / "checkpoints" / "train.csv")
    return Run(fabric, experiment, folder, detector, optimiser, log, steps_per_epoch), module


def _announce(reporter: Reporter, run: Run, plan: Plan, skipped: dict[str, int], pretrained: Path | None) -> None:
    training = run.experiment.training
    for reason, count in skipped.items():
        if count:
            reporter.say(f"data: {count} {reason}")
    if plan.batch != training.reference_batch:
        reporter.say(
            f"learning rate {plan.learning_rate:g}: scaled linearly from {training.learning_rate:g} for "
            f"{training.reference_batch} images a step to {plan.batch}"
        )
    if plan.accumulate > 1:
        reporter.say(
            f"gradients of {plan.accumulate} micro-batches of {plan.micro_batch} are accumulated: an approximation of "
            f"a batch of {plan.batch}, since each micro-batch is normalised by its own positives"
        )
    if pretrained is None and (run.experiment.backbone.pretrained or training.limit_steps):
        reporter.say("the backbone starts from random weights")


def _loop(
    run: Run,
    module: torch.nn.Module,
    batches,
    plan: Plan,
    reporter: Reporter,
    check: Callable[[], float] | None,
    checkpoint_seconds: float,
    requests: StopRequests,
) -> None:
    saved, settings = time.monotonic(), run.experiment.training
    every = 1 if run.cycles else settings.validate_every  # the best epoch is wanted
    log_every = max(1, run.total_steps // 1000)
    while run.step < run.total_steps:
        if run.cycles and run.step == run.epoch_steps:
            begin_averaging(run, reporter)
        stage = run.stage
        epoch, within = divmod(run.step, run.steps_per_epoch)
        stream = batches.epoch(epoch, skip=within * plan.accumulate)
        run.detector.train()
        for _ in range(within, min(run.steps_per_epoch, within + run.total_steps - run.step)):
            began = time.monotonic()
            micro = [b for _, b in zip(range(plan.accumulate), stream, strict=False)]
            terms, rate = _step(run, module, micro)
            run.step += 1
            elapsed = time.monotonic() - began
            run.seconds += elapsed
            images_per_second = len(micro) * plan.micro_batch * plan.ranks / elapsed
            ends_epoch = run.step % run.steps_per_epoch == 0
            if ends_epoch and stage == "swa":
                run.average.add(run.detector)
            ap = None
            if check and ends_epoch and ((epoch + 1) % every == 0 or run.step == run.total_steps):
                ap = check()
                run.detector.train()
                if stage != "swa":
                    run.note(ap)
            if run.step % log_every == 0 or run.step == run.total_steps or ap is not None:
                run.log.add(run.step, epoch, rate, terms, images_per_second, ap, stage)
            reporter.step(run.step, epoch + 1, settings.epochs + run.cycles, sum(terms.values()), images_per_second, ap)
            stop = requests.reason()
            if ends_epoch or stop or time.monotonic() - saved > checkpoint_seconds:
                save_checkpoint(run)
                saved = time.monotonic()
            if stop:
                raise Interrupted(f"stopped {stop} at step {run.step}; the same command goes on from there")


def _step(run: Run, module: torch.nn.Module, micro: list[Batch]) -> tuple[dict[str, float], float]:
    """One update; the loss terms, averaged over the micro-batches, and the learning rate."""
    training = run.experiment.training
    factor = rate_factor(training, run.step, run.steps_per_epoch)
    for group in run.optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    run.optimiser.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    for i, batch in enumerate(micro):
        batch = batch.to(run.fabric.device)
        with run.fabric.no_backward_sync(module, enabled=i + 1 < len(micro)):
            with torch.autocast(run.fabric.device.type, torch.bfloat16, enabled=training.precision == "bf16"):
                terms = module(batch)
            total = sum(terms.values()) / len(micro)
            values = torch.stack(list(terms.values())).detach().tolist()
            if not torch.isfinite(torch.tensor(values)).all():
                said = ", ".join(f"{name} {value:g}" for name, value in zip(terms, values, strict=True))
                raise WorkbenchError(
                    f"loss not finite at step {run.step} ({said}); images {', '.join(batch.file_names)}; "
                    "look at their boxes, or lower training.learning_rate"
                )
            run.fabric.backward(total)
        for name, value in zip(terms, values, strict=True):
            sums[name] = sums.get(name, 0.0) + value / len(micro)
    if training.clip_gradient is not None:
        run.fabric.clip_gradients(module, run.optimiser, max_norm=training.clip_gradient)
    run.optimiser.step()
    return sums, run.optimiser.param_groups[0]["lr"]


def _validator(run: Run, trained_on: CocoDetection, workers: int) -> Callable[[], float]:
    """A function that gives the validation AP of the detector as it is."""
    data = read_coco(trained_on.root, "val2017", training=False)
    annotations = annotation_path(trained_on.root, "val2017")
    if data.category_ids != trained_on.category_ids:
        raise WorkbenchError(
            f"{annotations}: its categories {data.category_ids} are not those that are trained on, "
            f"{trained_on.category_ids}: give both splits the same"
        )
    variant = published_variant(run.experiment)

    def check() -> float:
        found = detect_data_set(
            run.detector,
            data,
            variant,
            run.fabric.device,
            workers,
            rank=run.fabric.global_rank,
            ranks=run.fabric.world_size,
        )
        if run.fabric.world_size > 1:
            parts: list = [None] * run.fabric.world_size
            torch.distributed.all_gather_object(parts, found)
            found = [entry for part in parts for entry in part]
        return evaluate_detections(annotations, found)["AP"] or 0.0

    return check
