"""Claims and observations: comparisons of rows in ``claims.yaml`` and ``observations.yaml`` of the papers.

A claim is a statement of a paper; it is judged. An observation is any other comparison of published rows; its effect is
shown without a verdict. Both files group their entries by table. A claim belongs to the table that it is stated of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, model_validator

from workbench.settings.base import Settings
from workbench.settings.files import Catalogue, catalogue
from workbench.settings.specs import RowSpec
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place, choose, validated

Kind = Literal["better", "best of", "equivalent", "at most", "placebo"]
ClaimedMetric = Literal["AP", "AP50", "AP75", "AP80", "AP90", "Spearman"]
RANK_CORRELATION: ClaimedMetric = "Spearman"
"""Metric that comes from the ranking of boxes, not from their evaluation."""
RANKING: tuple[ClaimedMetric, ...] = ("AP80", "AP90", RANK_CORRELATION)
"""Metrics that measure how well scores rank boxes. Claims on them are a family of their own within a table."""
Rows = str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class Comparison(Settings):
    """Comparison of rows by a metric.

    ``row`` and ``than`` are a row each, or several: one row with several others, or as many rows as others, which are
    compared one by one.
    """

    row: Rows
    than: Rows
    metric: ClaimedMetric = "AP"
    """Metric in points, ×100. ``Spearman`` is the rank correlation of score and IoU over foreground locations."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Compared rows: each pair is a row and the row that it is compared with."""
        rows, others = _listed(self.row), _listed(self.than)
        return list(zip(rows if len(rows) > 1 else rows * len(others), others, strict=True))

    @model_validator(mode="after")
    def _equal_numbers(self) -> Comparison:
        rows, others = len(_listed(self.row)), len(_listed(self.than))
        if rows not in (1, others):
            raise ValueError(f"{rows} rows than {others} rows: name one row, or as many rows as others")
        if any(row == other for row, other in self.pairs):
            raise ValueError("a row is compared with itself: name another row in than")
        return self


class Claim(Comparison):
    """Statement about the differences of a metric: row minus other row, in each of the pairs.

    - ``better``: each difference is above 0. ``best of``: the same, of one row and all its rivals.
    - ``equivalent``: each difference is between ``-margin`` and ``margin``.
    - ``at most``: the difference is below ``bound``.
    - ``placebo``: a control, whose rows differ by chance alone, so that the difference must not be significant.
    """

    statement: str = Field(min_length=1)
    source: str | None = Field(None, min_length=1)
    """Section of the paper; None for a control, which no paper states."""
    kind: Kind
    margin: float | None = Field(None, gt=0, le=100)
    """Points of the metric, for ``equivalent``."""
    bound: float | None = Field(None, gt=0, le=100)
    """Points of the metric, for ``at most``."""
    testable: dict[str, str] = {}
    """Name of a scale where the treatment cannot act → reason. There, the claim is not judged."""

    @model_validator(mode="after")
    def _limits(self) -> Claim:
        for limit, kind in (("margin", "equivalent"), ("bound", "at most")):
            value = getattr(self, limit)
            if (value is not None) != (self.kind == kind):
                raise ValueError(f"{limit}: {'missing; add it' if value is None else f'only for {kind}; remove it'}")
        if self.kind == "best of" and (not isinstance(self.row, str) or len(self.pairs) < 2):
            raise ValueError("best of: name one row, and two or more rows in than")
        if self.kind in ("at most", "placebo") and len(self.pairs) > 1:
            raise ValueError(f"{self.kind}: name one row, and one row in than")
        return self

    @property
    def is_control(self) -> bool:
        """Whether the claim is a control of the workbench."""
        return self.source is None

    @property
    def ranks(self) -> bool:
        """Whether the claim is about the ranking of boxes."""
        return self.metric in RANKING


class Observation(Comparison):
    """Comparison of published rows that is not a statement of the paper."""

    comparison: str = Field(min_length=1)
    """Noun phrase that describes the difference of the rows."""


Entry = TypeVar("Entry", bound=Comparison)


@dataclass(frozen=True)
class Stated(Generic[Entry]):
    """Claim or observation with its name, its table, and the published effect of each pair in points.

    ``published`` is empty if a row has no published value of the metric.
    """

    name: str
    table: str
    content: Entry
    published: tuple[float, ...]


def read_claims() -> list[Stated[Claim]]:
    """Return the claims of all papers in the order of the tables, tables with controls last.

    Raises:
        WorkbenchError: a mistake in a file, an unknown table or row, or a name that is used twice. The message names
            the place.
    """
    return [entry for entry in _entries() if isinstance(entry.content, Claim)]


def read_observations() -> list[Stated[Observation]]:
    """Return the observations of all papers, in the order of the tables; errors are those of `read_claims`."""
    return [entry for entry in _entries() if isinstance(entry.content, Observation)]


def claimed_tables() -> list[str]:
    """Return the tables with at least one claim or observation, in the order of all tables."""
    claimed = {entry.table for entry in _entries()}
    return [table for table in catalogue().tables if table in claimed]


def compared_rows(table: str, metric: ClaimedMetric | None = None) -> list[str]:
    """Return the rows that the claims and observations of a table compare, by one metric or by any."""
    entries = [entry for entry in _entries() if entry.table == table and metric in (None, entry.content.metric)]
    return list(dict.fromkeys(row for entry in entries for pair in entry.content.pairs for row in pair))


def families(claims: Sequence[Stated[Claim]]) -> list[list[Stated[Claim]]]:
    """Return the families of claims whose p-values are adjusted together.

    The claims on AP of a table are a family, and so are the claims on the ranking of its boxes.
    """
    groups: dict[tuple[str, bool], list[Stated[Claim]]] = {}
    for claim in claims:
        groups.setdefault((claim.table, claim.content.ranks), []).append(claim)
    return list(groups.values())


def claims_digest(table: str) -> str:
    """Digest of the claims and observations of a table, with their published effects."""
    content = [[e.name, e.content.model_dump(mode="json"), e.published] for e in _entries() if e.table == table]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _entries() -> list[Stated[Any]]:
    return list(_of_catalogue(catalogue()))


@cache
def _of_catalogue(catalogue: Catalogue) -> tuple[Stated[Any], ...]:
    specs = {row: catalogue.tables[table].spec.rows[row] for row, table in catalogue.rows.items()}
    entries: dict[str, Stated[Any]] = {}
    places: dict[str, Place] = {}
    for file, model in (("claims.yaml", Claim), ("observations.yaml", Observation)):
        for table, name, spec, place in _specs(catalogue, file):
            if name in entries:
                other = places[name].file
                raise WorkbenchError(f"{place}: duplicate name of a comparison, also in {other}; rename one")
            content = validated(model, spec, place)
            _check_names(content, specs, catalogue.scale_names, place)
            entries[name], places[name] = Stated(name, table, content, _published(content, specs)), place
    order = list(catalogue.tables)
    return tuple(sorted(entries.values(), key=lambda entry: (_is_control(entry.content), order.index(entry.table))))


def _check_names(content: Comparison, specs: dict[str, RowSpec], scales: Sequence[str], place: Place) -> None:
    """Raise unless all rows of a comparison are run, and all its scales exist."""
    runnable = [row for row, spec in specs.items() if spec.base]
    for key in ("row", "than"):
        for row in _listed(getattr(content, key)):
            choose(row, runnable, "row", place.at(key))
    for scale in content.testable if isinstance(content, Claim) else ():
        choose(scale, scales, "scale", place.at("testable"))


def _is_control(content: Comparison) -> bool:
    return isinstance(content, Claim) and content.is_control


def _specs(catalogue: Catalogue, file: str) -> Iterator[tuple[str, str, Any, Place]]:
    """Yield table, name, content and place of each entry of the files of one name."""
    tables = {table.place.file: name for name, table in catalogue.tables.items()}
    for content, root in catalogue.files(file):
        folder = root.file.removesuffix(file)
        own = {path[len(folder) : -len(".yaml")]: name for path, name in tables.items() if path.startswith(folder)}
        for table, entries in content.items():
            choose(table, own, "table", root)
            if not isinstance(entries, dict):
                raise WorkbenchError(f"{root.at(table)}: not a group of comparisons; write their names below the table")
            for name, spec in entries.items():
                yield own[table], name, spec, root.at(table, name)


def _published(content: Comparison, specs: dict[str, RowSpec]) -> tuple[float, ...]:
    effects = []
    for pair in content.pairs:
        row, other = (specs[id_].published.get(content.metric) for id_ in pair)
        if row is None or other is None:
            return ()
        effects.append(round(row - other, 2) + 0.0)  # never -0.0
    return tuple(effects)


def _listed(rows: Rows) -> list[str]:
    return [rows] if isinstance(rows, str) else list(rows)
