"""Hypothesis tests of claims, corrected for their number, and the verdicts that follow.

A claim has a kind. Each kind has one null hypothesis, and one p-value against it:

- better: the effect is above zero;
- at most: the effect is below a bound;
- equivalent: the effect is within a margin around zero (two one-sided tests: Schuirmann, Journal of Pharmacokinetics
  and Biopharmaceutics 15, 1987);
- best of: the effect over each rival is above zero (the largest p-value: Berger, Technometrics 24, 1982).

The claims of one table are a family, corrected by Holm's method (Scandinavian Journal of Statistics 6, 1979). The
opposites of these claims are a second family.

All tests are one-sided at 2.5 %, because this level agrees with the 95 % intervals. The p-values here are twice the
one-sided ones and are compared with 5 %. A family of one is therefore decided exactly if the interval excludes the null
hypothesis. In each table, the chance of any false support is at most 2.5 %, and of any false opposite at most 2.5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.evaluation.effects import ONE_SIDED, Effect, p_above, p_below

ALPHA = 2 * ONE_SIDED
"""Level with which adjusted p-values are compared."""
POWER = 0.8
"""Chance of support at the smallest detectable effect."""
USUAL_SPREAD = 0.2
"""Standard deviation of single trainings on COCO in points of AP, where it was not measured."""
MOST_SEEDS = 10_000

Kind = Literal["better", "at most", "equivalent", "best of"]
Word = Literal[
    "same direction, size agrees",
    "same direction, size open",
    "same direction, larger",
    "same direction, smaller",
    "same direction",
    "equivalent",
    "below the bound",
    "opposite",
    "inconclusive",
    "one seed",
    "not testable here",
    "not run",
]


@dataclass(frozen=True)
class Hypothesis:
    """A claim and its measurements.

    Attributes:
        kind: kind of the claim.
        effects: one effect; one for each rival if the kind is "best of". Empty if a row was not run.
        bound: bound of "at most", or margin of "equivalent", in the unit of the effects.
        published: published effects, in the order of ``effects``; empty if there are none.
        testable: whether the compared settings can act on these data at all.
    """

    kind: Kind
    effects: tuple[Effect, ...] = ()
    bound: float = 0.0
    published: tuple[float, ...] = ()
    testable: bool = True


@dataclass(frozen=True)
class Verdict:
    """Verdict on a claim, with the numbers that it follows from.

    Attributes:
        word: verdict in words.
        effect: the effect; of the claim "best of", the smallest one. None if a row was not run.
        published: published effect; None if there is none.
        p: adjusted p-value of the claim; NaN if it was not tested.
        p_opposite: adjusted p-value of the opposite statement.
        detectable: smallest detectable effect, see `smallest_detectable`; NaN if it is unknown.
    """

    word: Word
    effect: Effect | None = None
    published: float | None = None
    p: float = math.nan
    p_opposite: float = math.nan
    detectable: float = math.nan


def verdicts(hypotheses: Sequence[Hypothesis], size: int | None = None) -> list[Verdict]:
    """Judge the claims of one family.

    Args:
        size: number of claims that were registered for the family; default: all ``hypotheses``. A claim that was not
            tested counts, so that a part of a table is not judged by a looser level.
    """
    size = max(size or 0, len(hypotheses))
    tested = [_reason(h) is None for h in hypotheses]
    nothing = math.nan
    supports = holm([p_value(h) if t else nothing for h, t in zip(hypotheses, tested, strict=True)], size)
    opposites = holm([p_opposite(h) if t else nothing for h, t in zip(hypotheses, tested, strict=True)], size)
    return [_verdict(*one, size) for one in zip(hypotheses, supports, opposites, strict=True)]


def p_value(hypothesis: Hypothesis) -> float:
    """Twice the one-sided p-value of a claim, before the correction for several claims."""
    effects, bound = hypothesis.effects, hypothesis.bound
    match hypothesis.kind:
        case "at most":
            p = p_below(effects[0], bound)
        case "equivalent":
            p = max(p_above(effects[0], -bound), p_below(effects[0], bound))
        case "better" | "best of":
            p = max(p_above(effect, 0.0) for effect in effects)
    return min(1.0, 2 * p)


def p_opposite(hypothesis: Hypothesis) -> float:
    """Twice the one-sided p-value of the opposite of a claim, before the correction for several claims.

    The opposites: the effect is below zero; it is above the bound; it is outside the margin; some rival is better. The
    last two of them have several ways to come true, and their smallest p-value is multiplied by the number of ways.
    """
    effects, bound = hypothesis.effects, hypothesis.bound
    match hypothesis.kind:
        case "at most":
            ways = [p_above(effects[0], bound)]
        case "equivalent":
            ways = [p_above(effects[0], bound), p_below(effects[0], -bound)]
        case "better" | "best of":
            ways = [p_below(effect, 0.0) for effect in effects]
    return min(1.0, 2 * len(ways) * min(ways))


def holm(p_values: Sequence[float], size: int | None = None) -> list[float]:
    """Adjusted p-values of a family (Holm 1979): the chance of any false rejection is at most the level.

    Args:
        p_values: p-values; NaN for a hypothesis that was not tested, which keeps its place in the family.
        size: number of hypotheses of the family; default: all.
    """
    values = np.asarray(p_values, dtype=float)
    size = max(size or 0, len(values))
    order = np.argsort(values)  # NaN is last
    steps = (size - np.arange(len(values))) * values[order]
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def smallest_detectable(effect: Effect, claims: int = 1, kind: Kind = "better") -> float:
    """Smallest distance of the true effect from the null hypothesis at which a claim is supported in 80 % of studies.

    The level is the one of Holm's first step, as if all other claims of the family had larger p-values. For
    "equivalent" it is the smallest margin for which a true effect of zero is supported. NaN if the noise of trainings
    is unknown.

    Args:
        effect: effect with the measured or expected noise; the estimate is not used.
        claims: number of claims of the family.
    """
    if effect.design == "one seed":
        return math.nan
    seeds = effect.seed_error and effect.seed_error * _noncentrality(effect.degrees, claims, kind)
    return math.hypot(seeds, effect.image_error * _noncentrality(math.inf, claims, kind))


def mde_factor(n: int, claims: int = 1, kind: Kind = "better") -> float:
    """Smallest detectable effect of n worlds, divided by the standard deviation of the differences within worlds."""
    return _noncentrality(n - 1, claims, kind) / math.sqrt(n)


def seeds_needed(effect: float, spread: float, claims: int = 1, kind: Kind = "better") -> int | None:
    """Number of worlds for which the smallest detectable effect is at most ``effect``; None if over 10,000.

    Args:
        effect: absolute difference of the true effect from the null hypothesis; for "equivalent" the margin.
        spread: standard deviation of the differences within worlds, in the same unit.
    """
    enough, few = 2, 1
    while spread * mde_factor(enough, claims, kind) > effect:
        enough, few = 2 * enough, enough
        if few >= MOST_SEEDS:
            return None
    while enough - few > 1:
        middle = (enough + few) // 2
        enough, few = (enough, middle) if spread * mde_factor(middle, claims, kind) > effect else (middle, few)
    return enough if enough <= MOST_SEEDS else None


def agrees(measured: float, trainings: int, published: float, spread: float | None = None) -> tuple[float, bool]:
    """Half-width of the 95 % interval of a measured minus a published AP, and whether it contains their difference.

    The published AP is of one training on the same test images (COCO's val2017), so the choice of images adds nothing.

    Args:
        measured: mean AP over the trainings, in points.
        trainings: number of trainings of the measured AP.
        published: published AP, in points.
        spread: standard deviation of the AP of single trainings, in points; None if it was not measured.
    """
    half_width = 1.96 * (USUAL_SPREAD if spread is None else spread) * math.sqrt(1 + 1 / trainings)
    return half_width, abs(measured - published) <= half_width


def _noncentrality(degrees: float, claims: int, kind: Kind) -> float:
    """True effect, in standard errors, at which a one-sided t-test at Holm's first step has the power `POWER`."""
    from scipy.optimize import brentq
    from scipy.special import nctdtr, ndtri, stdtrit

    missed = 1 - POWER
    if kind == "equivalent":  # a true effect of zero has to pass two tests, and each of them may miss it
        missed /= 2
    if degrees > 1e6:
        return float(-ndtri(ONE_SIDED / claims) - ndtri(missed))
    critical = -stdtrit(degrees, ONE_SIDED / claims)
    return float(brentq(lambda shift: nctdtr(degrees, shift, critical) - missed, 0.0, 4 * critical + 10))


def _reason(hypothesis: Hypothesis) -> Word | None:
    """Reason why a claim is not tested."""
    if not hypothesis.testable:
        return "not testable here"
    if not hypothesis.effects or any(math.isnan(effect.estimate) for effect in hypothesis.effects):
        return "not run"
    if any(effect.design == "one seed" for effect in hypothesis.effects):
        return "one seed"
    return None


def _verdict(hypothesis: Hypothesis, p: float, opposite: float, size: int) -> Verdict:
    reason = _reason(hypothesis)
    effects, kind = hypothesis.effects, hypothesis.kind
    if not effects:
        return Verdict(reason or "not run", published=min(hypothesis.published, default=None))
    shown = min(range(len(effects)), key=lambda i: effects[i].estimate)
    effect = effects[shown]
    published = hypothesis.published[shown] if hypothesis.published else None
    detectable = max(smallest_detectable(one, size, kind) for one in effects)
    if reason:
        return Verdict(reason, effect, published)
    word: Word = "inconclusive"
    if p <= ALPHA:
        word = _supported(kind, effect, published)
    elif opposite <= ALPHA:
        word = "opposite"
    return Verdict(word, effect, published, p, opposite, detectable)


def _supported(kind: Kind, effect: Effect, published: float | None) -> Word:
    if kind == "equivalent":
        return "equivalent"
    if kind == "at most":
        return "below the bound"
    if published is None:
        return "same direction"
    if effect.low > published:
        return "same direction, larger"
    if effect.high < published:
        return "same direction, smaller"
    return "same direction, size agrees" if effect.high - effect.low < 2 * published else "same direction, size open"
