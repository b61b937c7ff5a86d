"""Start of a training: detector, processes, data, and the state before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from workbench.data.augmentation import Augmentation
from workbench.data.coco import CocoDetection
from workbench.data.loader import TrainingBatches, training_batches
from workbench.detectors import Detector, build_detector
from workbench.runs.folders import Training
from workbench.settings.data import WORLDS
from workbench.settings.experiment import Experiment
from workbench.support.arithmetic import set_precision
from workbench.support.devices import available
from workbench.support.progress import Reporter
from workbench.training.log import TrainLog
from workbench.training.processes import is_first_process
from workbench.training.schedule import make_optimiser
from workbench.training.state import Plan, TrainingState
from workbench.training.step import CanvasLosses
from workbench.training.versions import present_version

RANDOM_BACKBONE = "the backbone starts from random weights"


def initial_detector(experiment: Experiment, seed: int, pretrained: Path | None = None, title: str = "") -> Detector:
    """Build the detector with which a training starts. Torch is seeded first, so that random weights are repeatable.

    Args:
        seed: seed of the training. Initialisation n of an experiment has the random weights of a later seed, n times
            `WORLDS` after this seed, which belongs to the same world.
        pretrained: file with ImageNet weights of the backbone; None for random weights.
        title: start of the line that reports random weights in place of pretrained weights.
    """
    torch.manual_seed(seed + WORLDS * experiment.training.initialisation)
    detector = build_detector(experiment)
    if pretrained is not None:
        detector.backbone.load_pretrained(pretrained)
    elif experiment.backbone.pretrained:
        Reporter(title, 0, quiet=not is_first_process()).say(RANDOM_BACKBONE)
    return detector


def canvases_of_rank(
    data: CocoDetection, experiment: Experiment, plan: Plan, seed: int, rank: int, workers: int
) -> TrainingBatches:
    """Canvases of training images for this rank."""
    training = experiment.training
    return training_batches(
        data,
        size=(experiment.image.long, experiment.image.short),
        canvas=training.canvas_images,
        canvases=plan.canvases,
        seed=seed,
        augmentation=Augmentation(training.flip, training.crop, training.image_range, training.cutout),
        workers=workers,
        rank=rank,
        world_size=plan.ranks,
    )


def start_state(
    fabric: Fabric,
    detector: Detector,
    experiment: Experiment,
    training: Training,
    identity: dict[str, Any],
    plan: Plan,
    data: CocoDetection,
    canvases_per_epoch: int,
) -> TrainingState:
    """Move the detector to its device, make the optimiser, and return the state before the first step."""
    optimiser = make_optimiser(experiment.training, detector, plan.learning_rate)
    module, optimiser = set_up(fabric, detector, optimiser, experiment.training.precision)
    log = TrainLog(training.growing_curves)
    steps_per_epoch = canvases_per_epoch // plan.canvases
    classes = {"category_ids": list(data.category_ids), "class_names": list(data.class_names)}
    state = TrainingState(
        fabric, experiment, training, identity, classes, plan, detector, module, optimiser, log, steps_per_epoch
    )
    state.versions.append(present_version(experiment))
    return state


def set_up(
    fabric: Fabric, detector: Detector, optimiser: torch.optim.Optimizer, precision: str
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Move a detector to the device of this process, in place; return the module of its losses, and the optimiser.

    The switches of this process for TF32 are set as ``precision`` states.
    """
    set_precision(precision)
    if fabric.device.type == "cpu" or precision != "fp32":  # tensor cores read the channels of a pixel side by side
        detector.to(memory_format=torch.channels_last)
    return fabric.setup(CanvasLosses(detector), optimiser)


def announce(
    reporter: Reporter, state: TrainingState, data: CocoDetection, validation: CocoDetection, devices: int
) -> None:
    """Report in one line each: unusual data, rates and batches, unused devices, and a rehearsal's backbone.

    Args:
        devices: number of devices that the training may use.
    """
    training, plan = state.experiment.training, state.plan
    if plan.ranks < devices:
        reporter.say(
            f"{plan.ranks} of {devices} devices: at most {available(devices)} on this machine, and each needs equally "
            f"many canvases; canvases per step: {training.canvases}, images per canvas: {training.canvas_images}"
        )
    for reason, count in data.skipped.items():
        reporter.say(f"data: {count} {reason}")
    for note in data.notes:
        reporter.say(f"data: {note}")
    for reason, count in validation.skipped.items():
        reporter.say(f"validation data: {count} {reason}")
    for note in validation.notes:
        reporter.say(f"validation data: {note}")
    if training.batch != training.reference_batch:
        reporter.say(
            f"learning rate {plan.learning_rate:g}: scaled linearly from {training.learning_rate:g} for "
            f"{training.reference_batch} images per step to {training.batch}"
        )
    steps = training.epochs * state.steps_per_epoch
    if training.warmup_steps > steps:
        reporter.say(
            f"warm-up of {training.warmup_steps} steps, but the schedule has only {steps}, so the learning rate never "
            "reaches its value; lower training.warmup_steps"
        )
    if plan.at_a_time < plan.canvases:
        reporter.say(
            f"{plan.at_a_time} of {plan.canvases} canvases in memory at a time: each image is computed twice, first "
            "for the normalisers of the step; the result is the same"
        )
    # In a rehearsal, only a trained detector replaces random weights.
    if training.limit_steps and not (state.experiment.backbone.pretrained or state.experiment.init):
        reporter.say(RANDOM_BACKBONE)
