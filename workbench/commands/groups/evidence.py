"""Commands ``workbench evidence …``: measurements of the registered trainings."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.commands.options import DATA_ROOT, RESULTS, SCALE, Call, with_options
from workbench.support.errors import WorkbenchError

app = typer.Typer(no_args_is_help=True, help="Measurements of the registered trainings.")


@app.command("add")
@with_options(SCALE, DATA_ROOT, RESULTS)
def evidence_add(call: Call) -> None:
    """List the finished evaluations of the registered study of a scale in results/reference/trainings.csv."""
    from workbench.report.evidence.add import add_evidence
    from workbench.report.evidence.lines import study_of

    print(add_evidence(study_of(call.settings.scale), call.settings, call.results))


@app.command("show")
@with_options(RESULTS)
def evidence_show(call: Call) -> None:
    """Write the claims and tables of the registered studies, computed from the list alone, to results/reference."""
    from workbench.commands.evidence import show_evidence

    for page in show_evidence(call.results):
        print(page)


@app.command("pilot")
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
