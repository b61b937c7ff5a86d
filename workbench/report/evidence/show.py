"""Claims, tables and orders of a registered study, computed from the list of its trainings alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.evaluation.intervals import Bootstrap
from workbench.evaluation.rank_correlation import rank_correlations
from workbench.report.claims.judge import PROVENANCE, Measurements, judge_tables
from workbench.report.claims.state import registered_state
from workbench.report.claims.write import Page, write_page
from workbench.report.evidence.bootstraps import read_bootstrap
from workbench.report.evidence.lines import SPEARMAN, Key, Line, registered_keys
from workbench.report.outcomes import table_rows
from workbench.report.tables.cells import TableRow
from workbench.report.tables.render import write_table
from workbench.settings.catalog import Row, load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.data import is_coco
from workbench.settings.registration import Registration, Study
from workbench.support.files import write_text_atomically

ORDER_COLUMNS = ("table", "seed", "rows", "kendall")
FEWEST_ROWS = 3
"""Smallest number of rows whose order is compared with the published order."""


@dataclass(frozen=True)
class Evidence:
    """Listed trainings of a registered study.

    Attributes:
        scale: name of the scale.
        registration: the registration, with a study of the scale.
        results: folder ``results`` with the list.
        lines: row → seed → line, of the registered runs and code alone.
    """

    scale: str
    registration: Registration
    results: Path
    lines: Mapping[str, Mapping[int, Line]]

    @property
    def study(self) -> Study:
        """The registered study."""
        return self.registration.studies[self.scale]

    def read(self, row: Row, metric: str) -> dict[int, Any]:
        """Measurement of each training of a row: AP with its resamples, the value of another metric, or provenance."""
        lines = self.lines.get(row.id, {}).items()
        if metric == "AP":
            return {seed: read_bootstrap(self.results, line) for seed, line in lines}
        if metric == PROVENANCE:
            return {seed: {"seed": seed, "code_digest": self.study.rows[row.id].code.training} for seed, _ in lines}
        values = {seed: line.spearman if metric == SPEARMAN else line.metrics[metric] for seed, line in lines}
        return {seed: value for seed, value in values.items() if value is not None}


def evidence_of(scale: str, registration: Registration, lines: Mapping[Key, Line], results: Path) -> Evidence:
    """Evidence of a registered study; other lines of the list are left out."""
    rows: dict[str, dict[int, Line]] = {}
    for key in registered_keys(registration.studies[scale], scale):
        if line := lines.get(key):
            rows.setdefault(line.row, {})[line.seed] = line
    return Evidence(scale, registration, results, rows)


def write_evidence(evidence: Evidence, folder: Path) -> str:
    """Write the claims, the tables and the orders of a study.

    The files are ``<scale>_claims.csv``, ``.md``, ``.html``, ``.png`` and ``.pdf``, ``<scale>_<table>.csv`` and ``.md``
    for each table, and ``<scale>_orders.csv``.

    Returns:
        Markdown of the claims.
    """
    scale, study, measured = (
        evidence.scale,
        evidence.study,
        Measurements(PipelineConfig(scale=evidence.scale), evidence.read),
    )
    state = registered_state(study.tables, evidence.registration, measured)
    orders: list[Sequence[object]] = []
    for table in study.tables:
        spec, resolved = load_table(table, scale)
        rows = table_rows(spec, resolved, lambda row: _columns(evidence, row))
        rows = [replace(row, run=study.runs.get(row.row, row.run)) for row in rows]
        file = folder / f"{scale}_{table}.csv"
        on_coco = bool(resolved) and is_coco(resolved[0].experiment.data)
        write_table(f"{spec.title}, scale {scale}: {state.heading}", rows, file, file.with_suffix(".md"), on_coco)
        orders += ((table, *order) for order in _orders(rows, study.seeds))
    write_text_atomically(folder / f"{scale}_orders.csv", _csv([ORDER_COLUMNS, *orders]))
    page = Page(state, *judge_tables(study.tables, measured, study))
    return write_page(f"Registered claims, scale {scale}", page, folder / f"{scale}_claims.csv")


def _columns(evidence: Evidence, row: Row) -> tuple[Sequence[dict[str, Any]], Sequence[Bootstrap]]:
    """Metrics of each training of a row, in the form of ``metrics.json``, and their resamples."""
    provenance, lines = evidence.read(row, PROVENANCE), evidence.lines.get(row.id, {})
    metrics = [{**line.metrics, "provenance": provenance[seed]} for seed, line in lines.items()]
    return metrics, tuple(evidence.read(row, "AP").values())


def _orders(rows: Sequence[TableRow], seeds: Iterable[int]) -> Iterator[tuple[int, int, str]]:
    """Seed, number of rows, and Kendall's tau-b between their measured and published AP."""
    for seed in seeds:
        pairs = [
            (metrics["AP"], row.published["AP"])
            for row in rows
            for metrics in row.measured
            if metrics["provenance"]["seed"] == seed and metrics["AP"] is not None and "AP" in row.published
        ]
        if len(pairs) >= FEWEST_ROWS:
            tau = rank_correlations(*zip(*pairs, strict=True))[1]
            yield seed, len(pairs), "-" if math.isnan(tau) else f"{tau:.2f}"


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
