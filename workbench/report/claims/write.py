"""Files of the claims at a scale: CSV, Markdown, HTML and forest plot, for each table and for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.report.claims.judge import Judgement, Measurements, Observed, judge_tables, measured_on_disk
from workbench.report.claims.page import claims_csv, claims_html, claims_markdown
from workbench.report.claims.state import State, page_state
from workbench.report.measured import refuse_fewer
from workbench.runs.results import scale_folder
from workbench.settings.claims import claimed_tables
from workbench.settings.config import PipelineConfig
from workbench.support.files import write_text_atomically


@dataclass(frozen=True)
class Page:
    """Content of a page: the state of its trainings, the verdicts, and the effects of the observations."""

    state: State
    judgements: list[Judgement]
    observed: list[Observed]

    @property
    def seeds(self) -> dict[str, int]:
        """Name of each claim and observation → number of its seeds."""
        seeds = {j.claim.name: j.seeds for j in self.judgements}
        return seeds | {o.observation.name: o.seeds for o in self.observed}


def write_verdicts(table: str, settings: PipelineConfig, results: Path) -> str:
    """Write ``claims/<table>.csv``, ``.md``, ``.html``, ``.png`` and ``.pdf`` of a scale.

    Returns:
        Markdown of the claims.

    Raises:
        WorkbenchError: a result does not belong, or the existing file shows more trainings.
    """
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    page = make_page([table], measured_on_disk(settings, results))
    _refuse_fewer(page, folder.verdicts(table))
    return write_page(f"Claims of {table}, scale {folder.name}", page, folder.verdicts(table))


def write_claims(settings: PipelineConfig, results: Path) -> str:
    """Write the claims of each table with evaluations, and all claims together as ``claims.csv``, ``.md`` and so on.

    Returns:
        Markdown of all claims.

    Raises:
        WorkbenchError: a result does not belong, or an existing file shows more trainings.
    """
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    measured = measured_on_disk(settings, results)
    page = make_page(claimed_tables(), measured)
    of_tables = {table: make_page([table], measured) for table in claimed_tables()}
    _refuse_fewer(page, folder.claims)
    for table, own in of_tables.items():
        _refuse_fewer(own, folder.verdicts(table))
    for table, own in of_tables.items():
        if any(own.seeds.values()):
            write_page(f"Claims of {table}, scale {folder.name}", own, folder.verdicts(table))
    return write_page(f"Claims, scale {folder.name}", page, folder.claims)


def make_page(tables: Sequence[str], measured: Measurements) -> Page:
    """Judge the claims of some tables; the state of the page decides whether registered claims are judged."""
    state = page_state(tables, measured)
    return Page(state, *judge_tables(tables, measured, state.study))


def _refuse_fewer(page: Page, file: Path) -> None:
    """Raise a WorkbenchError if the existing file is about more trainings."""
    refuse_fewer(file, "claim", page.seeds, lambda cell: int(cell) if cell.isdecimal() else 0)


def write_page(title: str, page: Page, file: Path) -> str:
    """Write a page as CSV, and with the same name as Markdown, HTML and forest plot; return the Markdown."""
    from workbench.report.figures.forest import draw_forest

    title = f"{title}: {page.state.heading}"
    content = page.judgements, page.observed, page.state
    text = claims_markdown(title, *content)
    write_text_atomically(file, claims_csv(*content))
    write_text_atomically(file.with_suffix(".md"), text)
    write_text_atomically(file.with_suffix(".html"), claims_html(title, *content))
    draw_forest(page.judgements, title, file.with_suffix(".png"), file.with_suffix(".pdf"))
    return text
