"""Verdicts on the claims of the papers, and effects of the observations, from the evaluations that exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from workbench.evaluation.effects import (
    Effect,
    effect_of_rows,
    effect_over_trainings,
    effect_over_worlds,
    p_above,
    p_below,
)
from workbench.evaluation.hypotheses import ALPHA, Hypothesis, Verdict, Word, verdicts
from workbench.report.measured import Seed, provenance_by_seed, resamples_by_seed, results_folder, values_by_seed
from workbench.settings.catalog import Row, load_table
from workbench.settings.claims import Claim, Comparison, Observation, Stated, families, read_claims, read_observations
from workbench.settings.config import PipelineConfig
from workbench.settings.files import catalogue
from workbench.settings.registration import Study

UNTESTED: tuple[Word, ...] = ("one seed", "not testable here", "not run")
"""Verdicts on claims that were not tested."""
Effects = tuple[Effect, ...]
"""Effect of each pair of a comparison, in points; empty if a row was not run."""
Read = Callable[[Row, str], Mapping[Seed, Any]]
"""Function that returns the measurement of each training of a row: a `Bootstrap` of AP, the value of other metrics, or
`PROVENANCE`."""
PROVENANCE = "provenance"
"""Name in the place of a metric, for the provenance of an evaluation."""


@dataclass(frozen=True)
class Judgement:
    """Claim with its verdict.

    Attributes:
        claim: the claim.
        verdict: verdict, with the effect in points.
        word: verdict in words. It differs from the word of ``verdict`` for a placebo.
    """

    claim: Stated[Claim]
    verdict: Verdict
    word: str

    @property
    def seeds(self) -> int:
        """Number of trainings per row, or of worlds; 0 if a row was not run."""
        return self.verdict.effect.seeds if self.verdict.effect else 0


@dataclass(frozen=True)
class Observed:
    """Observation with its effect in points; None if a row was not run."""

    observation: Stated[Observation]
    effect: Effect | None

    @property
    def seeds(self) -> int:
        """Number of trainings per row, or of worlds; 0 if a row was not run."""
        return self.effect.seeds if self.effect else 0


class Measurements:
    """Measured differences of rows at a scale; see `measured_on_disk`."""

    def __init__(self, settings: PipelineConfig, read: Read) -> None:
        self.settings = settings
        self._read = read
        self._tables: dict[str, dict[str, Row]] = {}
        self._values: dict[tuple[str, str], Mapping[Seed, Any]] = {}

    def row(self, id_: str) -> Row:
        """Row of any table, resolved at the scale."""
        table = catalogue().rows[id_]
        if table not in self._tables:
            settings = self.settings
            rows = load_table(table, settings.scale, settings.data_root, settings.rehearsal, settings.init)[1]
            self._tables[table] = {row.id: row for row in rows}
        return self._tables[table][id_]

    def seeds(self, id_: str, metric: str) -> set[Seed]:
        """Seeds whose trainings have a measurement of a metric in a row."""
        return set(self._measured(self.row(id_), metric))

    def provenance(self, id_: str) -> Mapping[Seed, dict[str, Any]]:
        """Provenance of the metrics of each training of a row."""
        return self._measured(self.row(id_), PROVENANCE)

    def effects(self, comparison: Comparison) -> Effects:
        """Effect of each pair of a comparison in points; empty if a row was not run."""
        effects = [self._effect(self.row(a), self.row(b), comparison.metric) for a, b in comparison.pairs]
        return () if any(math.isnan(effect.estimate) for effect in effects) else tuple(effects)

    def _effect(self, row: Row, other: Row, metric: str) -> Effect:
        a, b = self._measured(row, metric), self._measured(other, metric)
        data, same = row.experiment.data, row.run == other.run and a.keys() == b.keys()
        if metric == "AP":
            effect = effect_of_rows([*a.values()], [*b.values()], data.per_seed, same)
        elif data.per_seed:
            effect = _effect_in_worlds(_by_world(a, data.world_of), _by_world(b, data.world_of), same)
        else:
            effect = effect_over_trainings([*a.values()], [*b.values()], same)
        return effect.scaled(100)

    def _measured(self, row: Row, metric: str) -> Mapping[Seed, Any]:
        key = row.id, metric
        if key not in self._values:
            self._values[key] = self._read(row, metric)
        return self._values[key]


def measured_on_disk(settings: PipelineConfig, results: Path) -> Measurements:
    """Measured differences of rows, read from the evaluations on disk."""
    folder = results_folder(settings, results)

    def read(row: Row, metric: str) -> Mapping[Seed, Any]:
        if metric == "AP":
            return resamples_by_seed(folder, row, settings)
        if metric == PROVENANCE:
            return provenance_by_seed(folder, row, settings)
        return values_by_seed(folder, row, settings, metric)

    return Measurements(settings, read)


def judge_tables(
    tables: Sequence[str], measured: Measurements, study: Study | None = None
) -> tuple[list[Judgement], list[Observed]]:
    """Judge the claims of some tables by the evaluations at a scale, and compute the effects of their observations.

    Args:
        study: registered study whose claims are judged in the place of the claims of its tables in ``claims.yaml``.
    """
    claims = [claim for claim in read_claims() if claim.table in tables]
    if study:
        claims = study.claims_of(tables) + [claim for claim in claims if claim.table not in study.tables]
        claims.sort(key=lambda claim: claim.content.is_control)
    judgements = []
    for family in families(claims):
        effects = {claim.name: measured.effects(claim.content) for claim in family}
        judgements += judge_family(family, effects, measured.settings.scale)
    observed = []
    for observation in read_observations():
        if observation.table in tables:
            effect = measured.effects(observation.content)
            observed.append(Observed(observation, effect[0] if effect else None))
    return judgements, observed


def judge_family(
    family: Sequence[Stated[Claim]], effects: Mapping[str, Effects], scale: str, size: int | None = None
) -> list[Judgement]:
    """Judge claims whose p-values are adjusted together.

    Args:
        family: claims of one family. A placebo among them is judged alone, since a correction would let it pass.
        effects: name of a claim → its effects in points.
        scale: name of the scale, where some claims are not testable.
        size: number of claims that were registered for the family; default: the number of claims.
    """
    tested = [claim for claim in family if claim.content.kind != "placebo"]
    judged = verdicts([_hypothesis(claim, effects[claim.name], scale) for claim in tested], size)
    judgements = {
        claim.name: Judgement(claim, verdict, verdict.word) for claim, verdict in zip(tested, judged, strict=True)
    }
    for claim in family:
        if claim.content.kind == "placebo":
            judgements[claim.name] = _judge_placebo(claim, effects[claim.name])
    return [judgements[claim.name] for claim in family]


def _hypothesis(claim: Stated[Claim], effects: Effects, scale: str) -> Hypothesis:
    content = claim.content
    limit = content.margin if content.bound is None else content.bound
    return Hypothesis(content.kind, effects, limit or 0.0, claim.published, scale not in content.testable)


def _judge_placebo(claim: Stated[Claim], effects: Effects) -> Judgement:
    """Judge whether rows that differ by chance alone differ significantly, with a two-sided test at 5 %."""
    if not effects:
        return Judgement(claim, Verdict("not run"), "not run")
    effect = effects[0]
    if effect.design == "one seed":
        return Judgement(claim, Verdict("one seed", effect), "one seed")
    p = min(1.0, 2 * min(p_above(effect, 0.0), p_below(effect, 0.0)))
    return Judgement(claim, Verdict("inconclusive", effect, p=p), "significant" if p <= ALPHA else "not significant")


def _effect_in_worlds(a: Mapping[int, list[float]], b: Mapping[int, list[float]], same: bool) -> Effect:
    """Difference of a metric within the worlds of both rows; a single world is a set of fixed test images."""
    common = [world for world in a if world in b]
    if len(common) == 1:
        one, other = a[common[0]], b[common[0]]
        return effect_over_trainings(one, other, same and len(one) == len(other))
    return effect_over_worlds([fmean(a[world]) - fmean(b[world]) for world in common])


def _by_world(values: Mapping[Seed, float], world_of: Callable[[Seed], int]) -> dict[int, list[float]]:
    """Values of a metric of the trainings of each world."""
    worlds: dict[int, list[float]] = {}
    for seed, value in values.items():
        worlds.setdefault(world_of(seed), []).append(value)
    return worlds
