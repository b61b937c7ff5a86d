"""Commands ``workbench bench …``: benchmarks on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.commands.options import DATA_ROOT, RESULTS, SCALE, Call, Table, with_options

app = typer.Typer(no_args_is_help=True, help="Benchmarks on this machine.")


@app.command()
def deform(repeats: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 5) -> None:
    """Time the back ends of deformable convolution, forward and backward."""
    from workbench.commands.bench.deform import bench_deform
    from workbench.support.devices import prepare_threads

    prepare_threads()
    print(bench_deform(repeats))


@app.command()
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


@app.command()
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


@app.command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def loading(
    call: Call,
    images: Annotated[int, typer.Option(min=1, help="Number of training images.")] = 64,
) -> None:
    """Time a process that loads training images, stage by stage: decode, resize, flip, pad, hand over, normalise."""
    from workbench.commands.bench.loading import bench_loading

    settings = call.settings
    print(bench_loading(settings.scale, settings.data_root, call.results, images))
