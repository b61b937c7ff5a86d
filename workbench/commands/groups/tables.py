"""Commands for tables and claims: plan the trainings, show the results, register a study."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from workbench.commands.options import DATA_ROOT, RESULTS, SCALE, SEEDS, SPLIT, WORLD, Call, Table, with_options
from workbench.support.errors import WorkbenchError

PANEL = "Tables and claims"
app = typer.Typer()
command = partial(app.command, rich_help_panel=PANEL)
Figure = Literal["loss", "ap", "ranking"]


@command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def plan(
    call: Call,
    table: Annotated[str, typer.Argument(help="Name of a table, for example table3; or 'claims'.")],
    images_per_second: Annotated[
        float | None,
        typer.Option(help="Training speed of one GPU (for claims: on COCO). Default: measured in earlier trainings."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, max=10_000, help="For claims: number of seeds that are planned. Default: 10.")
    ] = None,
) -> None:
    """List the trainings that a table needs, or the seeds that the claims need, with time, memory and disk space."""
    from workbench.commands.plan import describe
    from workbench.commands.plan_claims import PLANNED_SEEDS, describe_claims

    if table == "claims":
        print(describe_claims(call.settings, call.results, seeds or PLANNED_SEEDS, images_per_second))
        return
    if seeds is not None:
        raise WorkbenchError("--seeds: a table is planned for one seed; leave it out, or plan claims")
    print(describe(table, call.settings.scale, call.results, call.settings.data_root, images_per_second))


@command()
@with_options(SPLIT, WORLD, SEEDS)
def table(call: Call, name: Table) -> None:
    """Write a table of measured and published results as CSV, Markdown and HTML; with --split test, of both splits."""
    from workbench.report.outcomes import make_table

    print(make_table(name, call.settings, call.results))


@command()
@with_options(WORLD, SEEDS)
def figure(
    call: Call,
    name: Table,
    kind: Annotated[Figure, typer.Option(help="Kind: loss curves, AP as dots, or scores against IoU.")] = "loss",
) -> None:
    """Draw a figure of a table: loss curves, AP as dots, or scores against the IoU of the boxes."""
    from workbench.report.outcomes import draw_figure

    draw_figure(name, kind, call.settings, call.results)


@command()
@with_options(WORLD, SEEDS)
def claims(
    call: Call, table: Annotated[str | None, typer.Argument(help="Table whose claims are judged. Default: all.")] = None
) -> None:
    """Judge the papers' claims by the existing evaluations, and write CSV, Markdown, HTML and a forest plot."""
    from workbench.report.claims.write import write_claims, write_verdicts

    if table is None:
        print(write_claims(call.settings, call.results))
    else:
        print(write_verdicts(table, call.settings, call.results))


@command()
@with_options(WORLD)
def notebook(
    call: Call, names: Annotated[list[str], typer.Argument(help="Notebooks such as star_points, or 'all'.")]
) -> None:
    """Execute notebooks and write them with their outputs to results/<scale>/notebooks."""
    from workbench.report.notebooks import execute_notebook, notebook_names

    for name in notebook_names() if names == ["all"] else names:
        print(execute_notebook(name, call.folder.path, call.settings.scale, call.settings.data_root))


@command()
@with_options(SCALE, DATA_ROOT, RESULTS)
def registration(
    call: Call,
    tables: Annotated[list[str], typer.Argument(help="Tables of the study, for example table1 table3 controls.")],
    first_seed: Annotated[int, typer.Option(min=0, max=999_999_000, help="First seed; the others follow it.")],
    seeds: Annotated[int, typer.Option(min=2, max=1000, help="Number of seeds (trainings) per run.")],
) -> None:
    """Print a study for preregistration.yaml: its rows, runs, claims, and digests of code and settings."""
    from workbench.commands.registration import present_study, study_text, with_pilot
    from workbench.runs.find import data_folder

    scale, data_root = call.settings.scale, call.settings.data_root
    data_folder(scale, call.results, data_root)  # without data, the names of runs would lack their digest
    study = present_study(list(dict.fromkeys(tables)), scale, range(first_seed, first_seed + seeds), data_root)
    print(study_text(scale, with_pilot(study, scale, call.results)), end="")
