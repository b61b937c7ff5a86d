"""Hypothesis tests of claims, corrected for their number, and the verdicts that follow.

A claim has a kind. Each kind has one null hypothesis, and one p-value against it:

- better: the effect is above zero;
- at most: the effect is below a bound;
- equivalent: the effect is within a margin around zero (two one-sided tests: Schuirmann, Journal of Pharmacokinetics
  and Biopharmaceutics 15, 1987);
- best of: the effect over each rival is above zero.

A claim about several effects, like "best of", has the largest of their p-values (Berger, Technometrics 24, 1982).

The claims of one table are a family, corrected by Holm's method (Scandinavian Journal of Statistics 6, 1979). The
opposites of these claims are a second family.

All tests are one-sided at 2.5 %, because this level agrees with the 95 % intervals. The p-values here are twice the
one-sided ones and are compared with 5 %. A family of one is therefore decided exactly if the interval excludes the null
hypothesis. In each table, the chance of any false support is at most 2.5 %, and of any false opposite at most 2.5 %.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.evaluation.effects import ONE_SIDED, Effect, p_above, p_below, small_tail_factor

ALPHA = 2 * ONE_SIDED
"""Level with which adjusted p-values are compared."""
POWER = 0.8
"""Chance of support at the smallest detectable effect."""
USUAL_SPREAD = 0.2
"""Standard deviation of single trainings on COCO in points of AP, where it was not measured."""
MOST_SEEDS = 10_000
"""Largest number of seeds that a plan considers."""
NODES = 100
"""Number of estimates of a variance for which the power is computed."""

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
        effects: one effect; one for each rival or pair of rows if the claim is about several. Empty if a row was not
            run.
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
        effect: the effect; of several ones, the estimate that supports the claim least. None if a row was not run.
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
    return [_verdict(h, *p, size) for h, p in zip(hypotheses, adjusted_p_values(hypotheses, size), strict=True)]


def adjusted_p_values(hypotheses: Sequence[Hypothesis], size: int | None = None) -> list[tuple[float, float]]:
    """Adjusted p-values of each claim and of its opposite; NaN if the claim is not tested. See `verdicts`."""
    tested = [_reason(hypothesis) is None for hypothesis in hypotheses]
    pairs = list(zip(hypotheses, tested, strict=True))
    supports = holm([p_value(hypothesis) if test else math.nan for hypothesis, test in pairs], size)
    opposites = holm([p_opposite(hypothesis) if test else math.nan for hypothesis, test in pairs], size)
    return list(zip(supports, opposites, strict=True))


def p_value(hypothesis: Hypothesis) -> float:
    """Twice the one-sided p-value of a claim, before the correction for several claims."""
    return min(1.0, 2 * max(_support(effect, hypothesis.kind, hypothesis.bound) for effect in hypothesis.effects))


def p_opposite(hypothesis: Hypothesis) -> float:
    """Twice the one-sided p-value of the opposite of a claim, before the correction for several claims.

    The opposites: the effect is below zero; it is above the bound; it is outside the margin; some rival is better. An
    opposite with several ways to come true has the smallest of their p-values times the number of ways.
    """
    ways = [p for effect in hypothesis.effects for p in _against(effect, hypothesis.kind, hypothesis.bound)]
    return min(1.0, 2 * len(ways) * min(ways))


def _support(effect: Effect, kind: Kind, bound: float) -> float:
    match kind:
        case "at most":
            return p_below(effect, bound)
        case "equivalent":
            return max(p_above(effect, -bound), p_below(effect, bound))
    return p_above(effect, 0.0)


def _against(effect: Effect, kind: Kind, bound: float) -> list[float]:
    match kind:
        case "at most":
            return [p_above(effect, bound)]
        case "equivalent":
            return [p_above(effect, bound), p_below(effect, -bound)]
    return [p_below(effect, 0.0)]


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


def smallest_detectable(effect: Effect, claims: int = 1, kind: Kind = "better", pairs: int = 1) -> float:
    """Smallest distance of the true effect from the null hypothesis at which a claim is supported in 80 % of studies.

    A claim about m pairs is supported if each of its pairs is. Each pair is therefore missed in 20 % / m of studies at
    most: then some pair is missed in at most 20 %, whether the pairs depend on each other or not.

    The level is the one of Holm's first step, as if all other claims of the family had larger p-values. For
    "equivalent" it is the smallest margin for which a true effect of zero is supported. NaN if the noise of trainings
    is unknown.

    Args:
        effect: effect with the measured or expected noise; the estimate is not used.
        claims: number of claims of the family.
        pairs: number of pairs of the claim; its distance is the largest one of its pairs.
    """
    if effect.design == "one seed":
        return math.nan
    power = 1 - (1 - POWER) / pairs
    return _distance(effect.image_error, effect.seed_parts, ONE_SIDED / claims, power, is_double=kind == "equivalent")


def seeds_needed(detectable: Callable[[int], float], target: float) -> int | None:
    """Smallest number of seeds, at least 2, whose smallest detectable effect is at most ``target``.

    Args:
        detectable: number of seeds → smallest detectable effect, which falls as the number rises.
        target: distance of the true effect from the null hypothesis; for "equivalent" the margin.

    Returns:
        None if more than `MOST_SEEDS` are needed.
    """
    if not target > 0 or detectable(MOST_SEEDS) > target:
        return None
    return 2 + bisect_left(range(2, MOST_SEEDS), True, key=lambda seeds: detectable(seeds) <= target)


def agrees(difference: float, trainings: int, spread: float | None = None) -> tuple[float, bool]:
    """Half-width of the 95 % interval of a measured minus a published AP, and whether it contains their difference.

    The published AP is of one training on the same test images (COCO's val2017), so the choice of images adds nothing.
    A measured spread of few trainings is uncertain, so it has Student's quantile.

    Args:
        difference: mean AP over the trainings minus the published AP, in points.
        trainings: number of trainings of the measured AP.
        spread: standard deviation of the AP of these trainings, in points; None if it was not measured.
    """
    from scipy.special import ndtri, stdtrit

    quantile = ndtri(ONE_SIDED) if spread is None else stdtrit(trainings - 1, ONE_SIDED)
    spread = USUAL_SPREAD if spread is None else spread
    half_width = float(-quantile * spread * math.sqrt(1 + 1 / trainings))
    return half_width, abs(difference) <= half_width


def _distance(
    image_error: float, seed_parts: Sequence[tuple[float, int]], tail: float, power: float, *, is_double: bool
) -> float:
    """Distance from the null hypothesis at which one pair is supported with the chance ``power``.

    A study estimates the variances of the seeds. The interval is therefore computed for each of many equally probable
    pairs of estimates, quantiles of chi-squared distributions, and the chance is the mean over these pairs.

    Args:
        image_error, seed_parts: true noise, see `Effect`.
        tail: level of the one-sided test.
        is_double: whether a true effect of zero has to be far enough from two margins.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr, ndtri, stdtrit

    probabilities = (np.arange(NODES) + 0.5) / NODES
    error = math.sqrt(image_error**2 + sum(variance for variance, _ in seed_parts))
    if not error:
        return 0.0
    estimates = np.meshgrid(*(v * chdtri(degrees, probabilities) / degrees for v, degrees in seed_parts))
    total = np.sum(estimates, axis=0)
    squares = sum(estimate**2 / degrees for estimate, (_, degrees) in zip(estimates, seed_parts, strict=True))
    degrees = np.divide(total**2, squares, out=np.full_like(total, 1e9), where=squares > 0)
    least = min((degrees for _, degrees in seed_parts), default=1e9)
    quantile = np.minimum(stdtrit(degrees, tail), small_tail_factor(degrees, least) * stdtrit(least, tail))
    half_width = np.hypot(ndtri(tail) * image_error, quantile * np.sqrt(total))

    def excess(distance: float) -> float:
        inside = ndtr((distance - half_width) / error)
        if is_double:
            inside = np.maximum(2 * inside - 1, 0.0)
        return float(np.mean(inside)) - power

    return float(brentq(excess, 0.0, half_width.max() + 10 * error))


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
        return Verdict(reason or "not run", published=_weakest(hypothesis.published, kind))
    estimates = [effect.estimate for effect in effects]
    shown = estimates.index(_weakest(estimates, kind))
    effect = effects[shown]
    published = hypothesis.published[shown] if hypothesis.published else None
    detectable = max(smallest_detectable(one, size, kind, len(effects)) for one in effects)
    if reason:
        return Verdict(reason, effect, published)
    word: Word = "inconclusive"
    if p <= ALPHA:
        word = _supported(kind, effect, published)
    elif opposite <= ALPHA:
        word = "opposite"
    return Verdict(word, effect, published, p, opposite, detectable)


def _weakest(estimates: Sequence[float], kind: Kind) -> float | None:
    """Estimate that supports the claim least; None if there is none."""
    order = {"at most": lambda value: value, "equivalent": abs}.get(kind, lambda value: -value)
    return max(estimates, key=order, default=None)


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
