"""Groups of commands: ``workbench bench …`` and ``workbench evidence …``.

As in ``workbench.cli``, each command imports its modules only when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.commands.options import DATA_ROOT, RESULTS, SCALE, Call, Table, with_options
from workbench.support.errors import WorkbenchError

bench = typer.Typer(no_args_is_help=True, help="Benchmarks on this machine.")
evidence = typer.Typer(no_args_is_help=True, help="Measurements of the registered trainings.")


@evidence.command("add")
@with_options(SCALE, DATA_ROOT, RESULTS)
def evidence_add(call: Call) -> None:
    """List the finished evaluations of the registered study of a scale in results/reference/trainings.csv."""
    from workbench.report.evidence.add import add_evidence
    from workbench.report.evidence.lines import study_of

    print(add_evidence(study_of(call.settings.scale), call.settings, call.results))


@evidence.command("show")
@with_options(RESULTS)
def evidence_show(call: Call) -> None:
    """Write the claims and tables of the registered studies, computed from the list alone, to results/reference."""
    from workbench.commands.evidence import show_evidence

    for page in show_evidence(call.results):
        print(page)


@evidence.command("pilot")
@with_options(SCALE, RESULTS)
def evidence_pilot(
    call: Call,
    rows: Annotated[list[str] | None, typer.Argument(help="Two rows to list. Default: list nothing.")] = None,
    first_seed: Annotated[int | None, typer.Option(min=0, max=999_999_000, help="First seed of the rows.")] = None,
    seeds: Annotated[int | None, typer.Option(min=2, max=1000, help="Number of seeds of each row.")] = None,
) -> None:
    """List the evaluations of two rows in results/reference/pilot.csv, and print the spread of their difference."""
    from workbench.commands.pilot import list_pilot, show_pilot

    if bool(rows) != (first_seed is not None) or bool(rows) != (seeds is not None):
        raise WorkbenchError("evidence pilot: rows or seeds are missing; give two rows, --first-seed and --seeds")
    if rows:
        print(list_pilot(rows, call.settings, range(first_seed, first_seed + seeds), call.results))
    print(show_pilot(call.settings.scale, call.results))


@bench.command()
def deform(repeats: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 5) -> None:
    """Time the back ends of deformable convolution, forward and backward."""
    from workbench.commands.bench.deform import bench_deform
    from workbench.support.devices import prepare_threads

    prepare_threads()
    print(bench_deform(repeats))


@bench.command()
@with_options(SCALE, RESULTS)
def steps(
    call: Call,
    table: Table,
    row: Annotated[list[str] | None, typer.Option(help="Row to time (repeatable). Default: each network once.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, tf32 or bf16 (repeatable). Default: fp32.")] = None,
    count: Annotated[int, typer.Option("--steps", min=1, help="Number of timed steps.")] = 10,
    images: Annotated[int, typer.Option(min=0, help="Images per step; 0: the row's batch.")] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="Fail if no GPU is available.")] = False,
) -> None:
    """Time the training steps of a table's detectors on synthetic images, and measure a GPU's memory."""
    from workbench.commands.bench.steps import bench_steps
    from workbench.support.devices import prepare_threads, refuse_cpu, reserved_gpus

    with reserved_gpus(1):
        if gpu:
            refuse_cpu()
        prepare_threads()
        print(bench_steps(table, row or [], call.settings.scale, precision or ["fp32"], count, images, call.results))


@bench.command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def speed(
    call: Call,
    table: Table,
    row: Annotated[list[str] | None, typer.Option(help="Row to time (repeatable). Default: all rows.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Number of timed images.")] = 20,
) -> None:
    """Time the detectors of a table, one image at a time: loading, forward pass and post-processing separately."""
    from workbench.commands.bench.speed import bench_speed
    from workbench.support.devices import prepare_threads, reserved_gpus

    settings = call.settings
    with reserved_gpus(1):
        prepare_threads()
        print(bench_speed(table, row or [], settings.scale, settings.data_root, images, call.results))


@bench.command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def loading(
    call: Call,
    images: Annotated[int, typer.Option(min=1, help="Number of training images.")] = 64,
) -> None:
    """Time a process that loads training images, stage by stage: decode, resize, flip, pad, hand over, normalise."""
    from workbench.commands.bench.loading import bench_loading

    settings = call.settings
    print(bench_loading(settings.scale, settings.data_root, call.results, images))
