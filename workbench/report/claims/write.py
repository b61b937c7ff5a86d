"""Files of the claims at a scale: CSV, Markdown, HTML and forest plot, for each table and for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.report.claims.judge import Judgement, Observed, judge_tables
from workbench.report.claims.page import claims_csv, claims_html, claims_markdown
from workbench.report.measured import refuse_fewer
from workbench.runs.folders import scale_folder
from workbench.settings.claims import claimed_tables
from workbench.settings.config import PipelineConfig
from workbench.support.files import write_text_atomically

Judged = tuple[list[Judgement], list[Observed]]


def write_verdicts(table: str, settings: PipelineConfig, results: Path) -> str:
    """Write ``claims/<table>.csv``, ``.md``, ``.html``, ``.png`` and ``.pdf`` of a scale.

    Returns:
        Markdown of the claims.

    Raises:
        WorkbenchError: a result does not belong, or the existing file shows more trainings.
    """
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    judged = judge_tables([table], settings, results)
    _refuse_fewer(judged, folder.verdicts(table))
    return write_judged(f"Claims of {table}, scale {folder.name}", judged, folder.verdicts(table))


def write_claims(settings: PipelineConfig, results: Path) -> str:
    """Write the claims of each table with evaluations, and all claims together as ``claims.csv``, ``.md`` and so on.

    Returns:
        Markdown of all claims.

    Raises:
        WorkbenchError: a result does not belong, or an existing file shows more trainings.
    """
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    judgements, observed = judge_tables(claimed_tables(), settings, results)
    of_tables = {
        table: (
            [j for j in judgements if j.claim.table == table],
            [o for o in observed if o.observation.table == table],
        )
        for table in claimed_tables()
    }
    _refuse_fewer((judgements, observed), folder.claims)
    for table, judged in of_tables.items():
        _refuse_fewer(judged, folder.verdicts(table))
    for table, judged in of_tables.items():
        if _seeds(judged):
            write_judged(f"Claims of {table}, scale {folder.name}", judged, folder.verdicts(table))
    return write_judged(f"Claims, scale {folder.name}", (judgements, observed), folder.claims)


def _seeds(judged: Judged) -> dict[str, int]:
    """Name of each claim or observation that was run → number of its seeds."""
    judgements, observed = judged
    seeds = {j.claim.name: j.seeds for j in judgements} | {o.observation.name: o.seeds for o in observed}
    return {name: number for name, number in seeds.items() if number}


def _refuse_fewer(judged: Judged, file: Path) -> None:
    """Raise a WorkbenchError if the existing file is about more trainings."""
    judgements, observed = judged
    names: Sequence[str] = [*(j.claim.name for j in judgements), *(o.observation.name for o in observed)]
    seeds = _seeds(judged)
    refuse_fewer(
        file,
        "claim",
        {name: seeds.get(name, 0) for name in names},
        lambda cell: int(cell) if cell.isdecimal() else 0,
    )


def write_judged(title: str, judged: Judged, file: Path) -> str:
    """Write judged claims as CSV, and with the same name as Markdown, HTML and forest plot; return the Markdown."""
    from workbench.report.figures.forest import draw_forest

    judgements, observed = judged
    text = claims_markdown(title, judgements, observed)
    write_text_atomically(file, claims_csv(judgements, observed))
    write_text_atomically(file.with_suffix(".md"), text)
    write_text_atomically(file.with_suffix(".html"), claims_html(title, judgements, observed))
    draw_forest(judgements, title, file.with_suffix(".png"), file.with_suffix(".pdf"))
    return text
