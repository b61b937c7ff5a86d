"""Commands for a trained detector: your own images, the evaluation server, and what it has learnt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.commands.groups.printing import print_outcomes
from workbench.commands.options import RUN, WORLD, RunCall, VariantFile, Workers, with_options

app = typer.Typer()
command = partial(app.command, rich_help_panel="Trained detectors")


@command()
@with_options(RUN, WORLD)
def predict(
    call: RunCall,
    images: Annotated[
        list[Path], typer.Argument(readable=False, help="Images, or folders of images, with their subfolders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the drawn images and JSON files.")] = Path("predictions"),
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of the boxes that are kept.")] = 0.3,
) -> None:
    """Detect objects in your own images, and write the images with boxes and a JSON file."""
    from workbench.commands.predict import predict_images
    from workbench.support.devices import prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        print_outcomes(predict_images(images, call.training, out, min_score))


@command()
@with_options(RUN, WORLD, as_it_is=True)
def submission(
    call: RunCall,
    variant: VariantFile = None,
    split: Annotated[str, typer.Option(help="Split: test-dev2017 or val2017.")] = "test-dev2017",
    out: Annotated[Path, typer.Option(help="Folder for the zip file.")] = Path("."),
    workers: Workers = None,
) -> None:
    """Write detections of test-dev as a zip file in the format of COCO's evaluation server."""
    from workbench.commands.detect import write_submission
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        processes = decoding_processes(workers)
        print(write_submission(call.training, call.variant(variant), call.data_root, split, out, processes))


@command()
@with_options(RUN, WORLD)
def oracle(call: RunCall, workers: Workers = None) -> None:
    """Report the AP of a trained run with one output at a time replaced by ground truth (Table 1)."""
    from workbench.commands.study import study_oracles

    print(_studied(study_oracles, call.published_evaluation, call, workers))


@command()
@with_options(RUN, WORLD)
def ranking(call: RunCall, workers: Workers = None) -> None:
    """Draw the scores of a trained run against the IoU of its boxes, with rank correlations."""
    from workbench.commands.study import study_ranking
    from workbench.evaluation.rank_correlation import rank_correlations

    locations = _studied(study_ranking, call.published_evaluation, call, workers)
    rho, tau = rank_correlations(locations["iou"], locations["score"])
    print(f"{call.training.title}: {len(locations)} locations  Spearman {rho:.3f}  Kendall {tau:.3f}")


@command("dead-units")
@with_options(RUN, WORLD)
def dead_units(call: RunCall, workers: Workers = None) -> None:
    """Count the channels of a trained run that are zero behind their ReLU at every location of val2017."""
    from workbench.commands.study import study_dead_units

    print(_studied(study_dead_units, call.training, call, workers))


def _studied(study: Callable[..., Any], subject: Any, call: RunCall, workers: int | None) -> Any:
    """Result of a function of ``workbench.commands.study``, on one device."""
    from workbench.support.devices import decoding_processes, prepare_threads, reserved_gpus

    with reserved_gpus(1):
        prepare_threads()
        return study(subject, call.data_root, decoding_processes(workers), call.settings.limit_images)
