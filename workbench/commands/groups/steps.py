"""Steps of the pipeline, from weights to metrics. The Snakefile calls these commands."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from workbench.commands.options import RUN, SPLIT, WORLD, RunCall, VariantFile, Workers, with_options
from workbench.support.errors import WorkbenchError

app = typer.Typer()
command = partial(app.command, rich_help_panel="Steps of the pipeline")


@command()
def weights(
    name: Annotated[str, typer.Argument(help="Backbone such as resnet50, or name of weights in a released.yaml.")],
    file: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Download ImageNet weights of a backbone, or published weights of a detector, and check their digest."""
    from workbench.weights.download import fetch_weights

    fetch_weights(name, file)


@command()
@with_options(RUN, WORLD)
def pretrain(
    call: RunCall,
    file: Annotated[Path, typer.Argument(help="File to write, FILE.safetensors; FILE.json gets the facts.")],
) -> None:
    """Pretrain the backbone of a run on drawn objects, for scales whose backbones start from such weights."""
    from workbench.commands.pretrain import write_backbone
    from workbench.support.devices import prepare_threads

    prepare_threads()
    write_backbone(call.experiment, file)


@command()
@with_options(RUN, WORLD)
def import_checkpoint(
    call: RunCall, file: Annotated[Path, typer.Argument(help="Checkpoint of MMDetection 2 or 3, also as .safetensors.")]
) -> None:
    """Import published weights as the training ``released`` of a run. Nothing in the file is executed."""
    from workbench.weights.mmdet_import import import_checkpoint as run_import

    run = call.training.run
    run.write_experiment(call.experiment)
    run_import(
        file,
        run.training("released"),
        call.settings.data_root,
        lambda line: print(f"{run.name}: {line}", file=sys.stderr),
    )


@command()
@with_options(RUN, WORLD)
def train(
    call: RunCall,
    pretrained: Annotated[Path | None, typer.Option(help="File with ImageNet weights of the backbone.")] = None,
    devices: Annotated[int, typer.Option(min=1, help="Largest number of GPUs, or of processes on a CPU.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Fail if no GPU is available.")] = False,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Canvases that a device computes at a time. Default: its share of a step.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Train a run, or resume its training."""
    from workbench.commands.start import start_detector
    from workbench.runs.folders import RELEASED
    from workbench.support.devices import available, decoding_processes, prepare_threads, refuse_cpu, reserved_gpus
    from workbench.training.loop import train as run_training
    from workbench.training.processes import refuse_second_training
    from workbench.training.state import Machine

    refuse_second_training(call.training)
    used = call.experiment.training.devices(available(devices))
    with reserved_gpus(used):
        if gpu:
            refuse_cpu()
        prepare_threads()
        if call.training.seed == RELEASED:
            raise WorkbenchError("--seed released: published weights are not trained; give a number")
        call.refuse_missing_world()
        detector, weights = start_detector(call, pretrained)
        call.training.run.write_experiment(call.experiment)
        machine = Machine(devices, micro_batch, decoding_processes(workers, used))
        run_training(detector, call.experiment, call.training, call.data_root, machine, weights)


@command()
@with_options(RUN, SPLIT, WORLD)
def detect(call: RunCall, variant: VariantFile = None, workers: Workers = None) -> None:
    """Detect objects in the val or the test split with a trained run and write detections.json."""
    from workbench.commands.detect import write_detections
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        settings = call.variant(variant)
        evaluation, processes = call.evaluation(settings), decoding_processes(workers)
        write_detections(evaluation, settings, call.split, call.data_root, processes, call.split_name)


@command()
@with_options(RUN, SPLIT, WORLD)
def evaluate(call: RunCall, variant: VariantFile = None) -> None:
    """Compute COCO's metrics of detections.json and write metrics.json."""
    from workbench.commands.evaluate import write_metrics

    settings = call.variant(variant)
    metrics = write_metrics(call.evaluation(settings), settings, call.split, call.data_root, call.split_name)
    values = (
        f"{name} {'n/a' if metrics[name] is None else f'{100 * metrics[name]:.1f}'}" for name in ("AP", "AP50", "AP75")
    )
    print(f"{call.training.title}: {'  '.join(values)}")
