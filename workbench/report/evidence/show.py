"""Claims, tables and orders of a registered study, computed from the list of its trainings alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.evaluation.intervals import Bootstrap
from workbench.evaluation.rank_correlation import rank_correlations
from workbench.report.claims.judge import Measurements, judge_claims
from workbench.report.claims.write import write_judged
from workbench.report.evidence.bootstraps import read_bootstrap
from workbench.report.evidence.lines import METRICS, SPEARMAN, Key, Line, registered_keys
from workbench.report.outcomes import table_rows
from workbench.report.tables.cells import TableRow
from workbench.report.tables.render import write_table
from workbench.settings.catalog import Row, load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.data import is_coco
from workbench.support.files import write_text_atomically

if TYPE_CHECKING:
    from workbench.settings.registration import Study

ORDER_COLUMNS = ("table", "seed", "rows", "kendall")
FEWEST_ROWS = 3
"""Smallest number of rows whose order is compared with the published order."""


@dataclass(frozen=True)
class Evidence:
    """Listed trainings of a study.

    Attributes:
        scale: name of the scale.
        study: the registration.
        results: folder ``results`` with the list.
        lines: row → seed → line, of the registered runs and code alone.
    """

    scale: str
    study: Study
    results: Path
    lines: Mapping[str, Mapping[int, Line]]

    @property
    def planned(self) -> int:
        """Number of registered trainings. Rows of one run share them."""
        return len({*self.study.runs.values()}) * len(self.study.seeds)

    @property
    def trainings(self) -> int:
        """Number of registered trainings with a line for each of their rows."""
        missing = {
            (run, seed) for id_, run in self.study.runs.items() for seed in self.study.seeds if not self._has(id_, seed)
        }
        return self.planned - len(missing)

    def _has(self, row: str, seed: int) -> bool:
        return seed in self.lines.get(row, {})

    @property
    def title(self) -> str:
        """Scale, and whether all registered trainings are listed, for headings."""
        if self.trainings == self.planned:
            return f"scale {self.scale}, {self.planned} registered trainings"
        return f"scale {self.scale}, interim: {self.trainings} of {self.planned} registered trainings"

    def bootstraps(self, row: str) -> dict[int, Bootstrap]:
        """AP of each training of a row, with its resamples on fixed test images."""
        return {seed: read_bootstrap(self.results, line) for seed, line in self.lines.get(row, {}).items()}

    def values(self, row: str, metric: str) -> dict[int, float]:
        """A metric of each training of a row in which it is defined, as a fraction."""
        lines = self.lines.get(row, {}).items()
        values = {seed: line.spearman if metric == SPEARMAN else line.metrics[metric] for seed, line in lines}
        return {seed: value for seed, value in values.items() if value is not None}


def evidence_of(scale: str, study: Study, lines: Mapping[Key, Line], results: Path) -> Evidence:
    """Evidence of a study; other lines of the list are left out."""
    rows: dict[str, dict[int, Line]] = {}
    for key in registered_keys(study, scale):
        if line := lines.get(key):
            rows.setdefault(line.row, {})[line.seed] = line
    return Evidence(scale, study, results, rows)


def write_evidence(evidence: Evidence, folder: Path) -> str:
    """Write the claims, the tables and the orders of a study.

    The files are ``<scale>_claims.csv``, ``.md``, ``.html``, ``.png`` and ``.pdf``, ``<scale>_<table>.csv`` and ``.md``
    for each table, and ``<scale>_orders.csv``.

    Returns:
        Markdown of the claims.
    """
    scale, study, settings = evidence.scale, evidence.study, PipelineConfig(scale=evidence.scale)
    orders: list[Sequence[object]] = []
    for table in study.tables:
        spec, resolved = load_table(table, scale)
        rows = table_rows(spec, resolved, lambda row: _measured(evidence, row))
        rows = [replace(row, run=study.runs.get(row.row, row.run)) for row in rows]
        file = folder / f"{scale}_{table}.csv"
        on_coco = bool(resolved) and is_coco(resolved[0].experiment.data)
        write_table(f"{spec.title}, {evidence.title}", rows, file, file.with_suffix(".md"), on_coco)
        orders += ((table, *order) for order in _orders(evidence, rows))
    write_text_atomically(folder / f"{scale}_orders.csv", _csv([ORDER_COLUMNS, *orders]))
    measured = Measurements(settings, lambda row, metric: _by_seed(evidence, row, metric))
    judged = judge_claims(study.claims_of(study.tables), study.tables, measured, scale)
    return write_judged(f"Registered claims, {evidence.title}", judged, folder / f"{scale}_claims.csv")


def _by_seed(evidence: Evidence, row: Row, metric: str) -> Mapping[int, Any]:
    return evidence.bootstraps(row.id) if metric == "AP" else evidence.values(row.id, metric)


def _measured(evidence: Evidence, row: Row) -> tuple[Sequence[dict[str, Any]], Sequence[Bootstrap]]:
    """Metrics of each training of a row, in the form of ``metrics.json``, and their resamples."""
    metrics = []
    for line in evidence.lines.get(row.id, {}).values():
        provenance = {"seed": line.seed, "code_digest": line.code}
        metrics.append({**{name: line.metrics[name] for name in METRICS}, "provenance": provenance})
    return metrics, tuple(evidence.bootstraps(row.id).values())


def _orders(evidence: Evidence, rows: Sequence[TableRow]) -> Iterable[tuple[int, int, str]]:
    """Seed, number of rows, and Kendall's tau-b between their measured and published AP."""
    published = {row.row: row.published["AP"] for row in rows if "AP" in row.published}
    for seed in evidence.study.seeds:
        aps = {id_: evidence.values(id_, "AP") for id_ in published}
        pairs = [(values[seed], published[id_]) for id_, values in aps.items() if seed in values]
        if len(pairs) >= FEWEST_ROWS:
            tau = rank_correlations(*zip(*pairs, strict=True))[1]
            yield seed, len(pairs), "-" if math.isnan(tau) else f"{tau:.2f}"


def _csv(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
