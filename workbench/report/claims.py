"""Claims: statements of the papers as comparisons of rows, and the verdicts of the measurements."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from workbench.report.measured import Seed, refuse_fewer, resamples_by_seed, results_folder
from workbench.report.page import TableView, markdown_table, page
from workbench.report.text import csv_text, markdown
from workbench.runs.folders import scale_folder
from workbench.settings.base import Settings
from workbench.settings.catalog import load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.files import catalogue, read_table, table_names
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_text_atomically
from workbench.support.strict_yaml import Place, choose, validated

if TYPE_CHECKING:
    from workbench.evaluation.intervals import Bootstrap

Verdict = Literal["reproduced", "contradicted", "undecided at this scale", "not run"]


class Claim(Settings):
    """Statement of a paper: one row has a higher AP than another row."""

    statement: str
    source: str
    better: str
    than: str


@dataclass(frozen=True)
class Judgement:
    """Verdict of the measurements on a claim. Effects are differences of AP in points (×100); NaN if not run."""

    name: str
    claim: Claim
    published: float
    effect: float
    low: float
    high: float
    seeds: int
    """Number of trainings per row; the smaller number if the two rows differ."""
    verdict: Verdict


def read_claims() -> dict[str, Claim]:
    """Return the claims of all papers by name.

    Raises:
        WorkbenchError: a mistake in a file, or an unknown row. The message names the place.
    """
    rows = published_ap()
    claims: dict[str, Claim] = {}
    places: dict[str, Place] = {}
    for content, file in catalogue().files("claims.yaml"):
        for name, spec in content.items():
            place = file.at(name)
            if name in claims:
                raise WorkbenchError(f"{place}: duplicate name of a claim, also in {places[name].file}; rename one")
            claims[name], places[name] = validated(Claim, spec, place), place
            for key in ("better", "than"):
                choose(getattr(claims[name], key), rows, "row", place.at(key))
    return claims


def published_ap() -> dict[str, float]:
    """Published AP in percent, on any split, of each row that is run and has a published AP."""
    specs = [read_table(table) for table in table_names()]
    rows = [(name, row) for spec in specs for name, row in spec.rows.items()]
    return {name: row.published["AP"] for name, row in rows if row.base and "AP" in row.published}


def judge(
    better: Sequence[Bootstrap], than: Sequence[Bootstrap], same_trainings: bool = False
) -> tuple[float, float, float, Verdict]:
    """Effect in points of AP, its 95 % interval, and the verdict on the claim that ``better`` beats ``than``.

    Args:
        better, than: resampled AP of each training of the two rows. Without a training of both rows, the verdict is
            "not run". With one training per row, the claim is undecided: one seed is no evidence about other seeds.
        same_trainings: see `effect_on_images`.
    """
    from workbench.evaluation.effects import effect_on_images

    if not better or not than:
        return math.nan, math.nan, math.nan, "not run"
    effect = effect_on_images(better, than, same_trainings).scaled(100)
    verdict: Verdict = "undecided at this scale"
    if effect.design != "one seed":
        if effect.low > 0:
            verdict = "reproduced"
        elif effect.high < 0:
            verdict = "contradicted"
    return effect.estimate, effect.low, effect.high, verdict


def claims_of(table: str) -> dict[str, Claim]:
    """Claims that compare rows of a table, by name."""
    rows = read_table(table).rows
    return {name: claim for name, claim in read_claims().items() if claim.better in rows}


def claimed_tables() -> list[str]:
    """Tables with at least one claim, in the order of all tables."""
    return [table for table in table_names() if claims_of(table)]


def judge_table(table: str, settings: PipelineConfig, results: Path) -> list[Judgement]:
    """Judge the claims of a table by its existing evaluations at a scale."""
    claims = claims_of(table)
    rows = {row.id: row for row in load_table(table, settings.scale, settings.data_root, settings.rehearsal)[1]}
    folder = results_folder(settings, results)
    published = published_ap()

    def resamples(row: str) -> dict[tuple[str, Seed], Bootstrap]:
        by_seed = resamples_by_seed(folder, rows[row], settings)
        return {(rows[row].run, seed): resampled for seed, resampled in by_seed.items()}

    judgements = []
    for name, claim in claims.items():
        better, than = resamples(claim.better), resamples(claim.than)
        stated = published[claim.better] - published[claim.than]
        effect, low, high, verdict = judge([*better.values()], [*than.values()], better.keys() == than.keys())
        seeds = min(len(better), len(than))
        judgements.append(Judgement(name, claim, stated, effect, low, high, seeds, verdict))
    return judgements


def claims_digest(tables: Sequence[str]) -> str:
    """Digest of the claims of some tables, and of the published AP of the compared rows."""
    published = published_ap()
    claims = {name: claim for table in tables for name, claim in claims_of(table).items()}
    content = [[n, *c.model_dump().values(), published[c.better], published[c.than]] for n, c in claims.items()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def write_verdicts(table: str, settings: PipelineConfig, results: Path) -> str:
    """Write ``claims/<table>.csv``, ``.md`` and ``.html`` of a scale.

    Returns:
        Markdown of the claims.
    """
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    title = f"Claims of {table}, scale {folder.name}"
    judgements = judge_table(table, settings, results)
    _refuse_fewer(judgements, folder.verdicts(table))
    return _write(title, judgements, folder.verdicts(table))


def write_claims(settings: PipelineConfig, results: Path) -> str:
    """Write the verdicts of each table with evaluations, and all claims together as ``claims.csv``, ``.md``, ``.html``.

    Returns:
        Markdown of all claims.
    """
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    judgements = {table: judge_table(table, settings, results) for table in claimed_tables()}
    every = [judgement for verdicts in judgements.values() for judgement in verdicts]
    _refuse_fewer(every, folder.claims)
    for table, verdicts in judgements.items():
        _refuse_fewer(verdicts, folder.verdicts(table))
    for table, verdicts in judgements.items():
        if any(judgement.verdict != "not run" for judgement in verdicts):
            _write(f"Claims of {table}, scale {folder.name}", verdicts, folder.verdicts(table))
    return _write(f"The paper's claims, scale {folder.name}", every, folder.claims)


def _refuse_fewer(judgements: Sequence[Judgement], file: Path) -> None:
    """Raise a WorkbenchError if the existing verdicts are of more trainings."""
    refuse_fewer(
        file, "claim", {j.name: j.seeds for j in judgements}, lambda cell: int(cell) if cell.isdecimal() else 0
    )


def _write(title: str, judgements: Sequence[Judgement], file: Path) -> str:
    content = shown(judgements)
    text = "\n\n".join([f"## {title}", markdown_table(content), *content.notes]) + "\n"
    write_text_atomically(file, _csv(judgements))
    write_text_atomically(file.with_suffix(".md"), text)
    write_text_atomically(file.with_suffix(".html"), page(title, content))
    return text


def shown(judgements: Sequence[Judgement]) -> TableView:
    """Table of the judgements for readers, with a note that counts the verdicts."""
    lines = []
    for j in judgements:
        interval = "–" if math.isnan(j.low) else f"[{_signed(j.low)}, {_signed(j.high)}]"
        stated = [markdown(text) for text in (j.claim.statement, j.claim.source)]
        cells = [f"`{j.name}`", *stated, _signed(j.published), _signed(j.effect), interval]
        lines.append([*cells, str(j.seeds or "–"), j.verdict])
    counts = {verdict: sum(j.verdict == verdict for j in judgements) for verdict in get_args(Verdict)}
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return TableView(
        headings=["claim", "statement", "source", "published", "measured", "95 % interval", "seeds", "verdict"],
        lines=lines,
        alignment=["left", "left", "left", "right", "right", "centre", "right", "left"],
        notes=[
            f"{len(judgements)} claims: {counted}.",
            "Effects are differences of AP, ×100. Intervals cover the choice of images and, with two or more seeds, "
            "differences between trainings. A claim is decided with two or more seeds, if its interval does not "
            "contain zero.",
        ],
    )


def _csv(judgements: Sequence[Judgement]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["claim", "statement", "source", "better", "than", "published", "effect", "low", "high", "seeds", "verdict"]
    )
    for j in judgements:
        numbers = [f"{j.published:.1f}", *("-" if math.isnan(v) else f"{v:.2f}" for v in (j.effect, j.low, j.high))]
        claim = j.claim
        stated = [csv_text(text) for text in (claim.statement, claim.source)]
        writer.writerow([j.name, *stated, claim.better, claim.than, *numbers, j.seeds, j.verdict])
    return text.getvalue()


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value + 0.0:+.1f}".replace("-", "−")
