"""Tests of claims are corrected for their number, and verdicts follow from effect, interval and published effect."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.evaluation.simulations import FAMILIES, false_verdicts, power
from workbench.evaluation.effects import UNKNOWN, Effect, effect_over_worlds
from workbench.evaluation.hypotheses import (
    ALPHA,
    Hypothesis,
    agrees,
    holm,
    p_opposite,
    p_value,
    seeds_needed,
    smallest_detectable,
    verdicts,
)


def normal(estimate, error=1.0):
    """Effect whose standard error is known, so that its interval is the estimate ± 1.96 standard errors."""
    return Effect(estimate, 5, "images", error)


def mde_factor(n, claims=1, kind="better", pairs=1):
    """Smallest detectable effect of n worlds, divided by the standard deviation of the differences within worlds."""
    return smallest_detectable(Effect(0.0, n, "worlds", seed_parts=((1 / n, n - 1),)), claims, kind, pairs)


def word(kind, *estimates, **more):
    """Verdict on a single claim about effects with a standard error of 1."""
    return verdicts([Hypothesis(kind, tuple(map(normal, estimates)), **more)])[0].word


def test_adjusted_p_values_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_claims_that_were_not_tested_keep_their_place_in_the_family():
    first, nothing, second = holm([0.02, math.nan, 0.01])
    assert (first, second) == pytest.approx((0.04, 0.03))
    assert math.isnan(nothing)
    assert holm([0.01], size=6) == pytest.approx([0.06])


@pytest.mark.parametrize(
    ("kind", "estimates", "bound", "p", "opposite"),
    [
        ("better", (2.0,), 0, stats.norm.sf(2), stats.norm.sf(-2)),
        ("at most", (1.0,), 2.5, stats.norm.sf(1.5), stats.norm.sf(-1.5)),
        ("equivalent", (0.5,), 3, stats.norm.sf(2.5), 2 * stats.norm.sf(-2.5)),
        ("equivalent", (-4.0,), 1, stats.norm.sf(-3), 2 * stats.norm.sf(3)),
        ("best of", (2.0, 1.0, 3.0), 0, stats.norm.sf(1), 3 * stats.norm.sf(-1)),
        ("best of", (2.0, -3.0), 0, stats.norm.sf(-3), 2 * stats.norm.sf(3)),
        ("equivalent", (0.5, -1.0), 3, stats.norm.sf(2), 4 * stats.norm.sf(-2)),
    ],
)
def test_p_values_of_each_kind_are_twice_the_one_sided_ones(kind, estimates, bound, p, opposite):
    hypothesis = Hypothesis(kind, tuple(map(normal, estimates)), bound)
    assert p_value(hypothesis) == pytest.approx(min(1, 2 * p))
    assert p_opposite(hypothesis) == pytest.approx(min(1, 2 * opposite))


@pytest.mark.parametrize(
    ("published", "estimate", "expected"),
    [
        ((3.0,), 2.5, "same direction, size agrees"),
        ((1.9,), 2.5, "same direction, size open"),  # the interval is wider than twice 1.9
        ((0.5,), 2.5, "same direction, larger"),
        ((5.0,), 2.5, "same direction, smaller"),
        ((), 2.5, "same direction"),
        ((3.0,), 1.9, "inconclusive"),
        ((3.0,), -1.9, "inconclusive"),
        ((3.0,), -2.1, "opposite"),
    ],
)
def test_a_verdict_on_a_better_row(published, estimate, expected):
    """The interval is the estimate ± 1.96, and decides a single claim."""
    assert word("better", estimate, published=published) == expected


def test_verdicts_on_the_other_kinds():
    assert word("at most", 0.5, bound=2.5) == "below the bound"
    assert word("at most", 1.0, bound=2.5) == "inconclusive"
    assert word("at most", 5.0, bound=2.5) == "opposite"
    assert word("equivalent", 0.0, bound=2.0) == "equivalent"
    assert word("equivalent", 0.1, bound=2.0) == "inconclusive"
    assert word("equivalent", -5.0, bound=2.0) == "opposite"
    assert word("best of", 2.5, 3.0, published=(3.0, 3.5)) == "same direction, size agrees"
    assert word("best of", 1.5, 3.0) == "inconclusive"
    assert word("best of", -3.0, 3.0) == "opposite"


def test_the_shown_effect_supports_the_claim_least():
    def shown(kind, *estimates):
        published = tuple(range(len(estimates)))
        verdict = verdicts([Hypothesis(kind, tuple(map(normal, estimates)), 9.0, published)])[0]
        return verdict.effect.estimate, verdict.published

    assert shown("best of", 3.0, 1.0, 2.0) == (1.0, 1)
    assert shown("equivalent", 0.5, -0.8, 0.7) == (-0.8, 1)
    assert shown("at most", 0.5, 0.1, 0.7) == (0.7, 2)


def test_claims_without_a_test():
    seed = Effect(3.0, 1, "one seed", 0.1)
    assert verdicts([Hypothesis("better", (seed,), published=(1.0,))])[0].word == "one seed"
    assert word("better", 3.0, testable=False) == "not testable here"
    for effects in ((), (UNKNOWN,), (normal(3.0), UNKNOWN)):
        verdict = verdicts([Hypothesis("best of", effects, published=(2.0, 1.0))])[0]
        assert verdict.word == "not run"
        assert math.isnan(verdict.p)
        assert math.isnan(verdict.p_opposite)
    assert verdicts([Hypothesis("better", published=(1.0,))])[0].published == 1.0
    assert math.isnan(smallest_detectable(seed))


def test_a_registered_family_is_judged_by_its_size():
    """z = 2.5 has p = 0.0124: enough for four claims, and not for five, whether the others were run or not."""
    claim, missing = Hypothesis("better", (normal(2.5),)), Hypothesis("better")
    for size, expected in ((4, "same direction"), (5, "inconclusive")):
        assert verdicts([claim], size)[0].word == expected
        assert verdicts([claim] + [missing] * (size - 1))[0].word == expected
    judged = verdicts([claim, Hypothesis("better", (normal(2.0),))], size=2)
    assert [verdict.word for verdict in judged] == ["same direction"] * 2  # the last of Holm's steps has the full level
    assert [verdict.p for verdict in judged] == pytest.approx([2 * 0.0124, 0.0455], abs=1e-4)


def test_the_opposite_is_a_family_of_its_own():
    words = [v.word for v in verdicts([Hypothesis("better", (normal(z),)) for z in (-2.6, -2.0, 2.5, 2.3)])]
    assert words == ["opposite", "inconclusive", "same direction", "inconclusive"]


def test_an_interval_decides_a_single_claim():
    random = np.random.default_rng(0)
    words = set()
    for _ in range(200):
        effect = effect_over_worlds(random.normal(0.6, 1, 4))
        verdict = verdicts([Hypothesis("better", (effect,))])[0]
        expected = "same direction" if effect.low > 0 else "opposite" if effect.high < 0 else "inconclusive"
        assert verdict.word == expected
        assert (verdict.p <= ALPHA) == (effect.low > 0)
        within = verdicts([Hypothesis("equivalent", (effect,), 2.0)])[0].word == "equivalent"
        assert within == (-2 < effect.low < effect.high < 2)
        words.add(verdict.word)
    assert {"same direction", "inconclusive"} <= words


def test_the_registered_plan_detects_1_38_standard_deviations():
    """Ten worlds and six claims. The factor is that of the noncentral t distribution at one-sided 2.5 % / 6."""
    critical = stats.t.isf(0.025 / 6, 9)
    assert stats.nct.sf(critical, 9, mde_factor(10, 6) * math.sqrt(10)) == pytest.approx(0.8, abs=2e-3)
    assert 1.36 < mde_factor(10, 6) <= 1.38
    assert mde_factor(10**6, 1) == pytest.approx((1.959964 + 0.841621) / 1000, rel=1e-3)
    assert mde_factor(10**6, 1, "equivalent") == pytest.approx((1.959964 + 1.281552) / 1000, rel=1e-3)


def test_seeds_that_an_effect_needs():
    assert seeds_needed(lambda n: mde_factor(n, 6), 1.38) == 10
    for effect, claims, kind in ((0.5, 6, "better"), (0.9, 1, "at most"), (2.0, 12, "equivalent"), (50, 1, "better")):
        n = seeds_needed(lambda n, c=claims, k=kind: 0.8 * mde_factor(n, c, k), effect)
        assert 0.8 * mde_factor(n, claims, kind) <= effect
        assert n == 2 or 0.8 * mde_factor(n - 1, claims, kind) > effect
    assert seeds_needed(mde_factor, 0.001) is None
    assert seeds_needed(mde_factor, 0.0) is None


def test_the_smallest_detectable_effect_of_known_noise():
    assert smallest_detectable(normal(7.0, error=0.5)) == pytest.approx(0.5 * (1.959964 + 0.841621), abs=1e-4)
    assert smallest_detectable(effect_over_worlds([1.0, 1.0])) == 0.0
    verdict = verdicts([Hypothesis("best of", (normal(0.0), normal(0.0, error=2.0)))], size=6)[0]
    assert verdict.detectable == pytest.approx(smallest_detectable(normal(0.0, error=2.0), 6, pairs=2))
    assert verdict.detectable > smallest_detectable(normal(0.0, error=2.0), 6)


@pytest.mark.parametrize("pairs", [1, 3])
def test_a_claim_about_several_pairs_is_supported_in_80_of_100_studies_at_its_mde(pairs):
    """All pairs are at the MDE, and independent. The bound is then 0.8, and the exact power (1 - 0.2 / m) to the m."""
    random, studies, worlds, claims = np.random.default_rng(pairs), 2000, 10, 6
    effects = mde_factor(worlds, claims, pairs=pairs) + random.normal(0, 1, (studies, pairs, worlds))
    hypotheses = [Hypothesis("better", tuple(map(effect_over_worlds, study))) for study in effects]
    share = np.mean([claims * p_value(hypothesis) <= ALPHA for hypothesis in hypotheses])
    assert share == pytest.approx((1 - 0.2 / pairs) ** pairs, abs=0.02 + 2 * math.sqrt(0.16 / studies))


def test_agreement_with_a_published_ap():
    assert agrees(-0.5, 1) == (pytest.approx(1.96 * 0.2 * math.sqrt(2), abs=1e-4), True)
    assert agrees(-0.6, 1)[1] is False
    assert agrees(0.6, 4, spread=0.3) == (pytest.approx(3.18245 * 0.3 * math.sqrt(1.25), abs=1e-4), True)


@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_a_row_without_a_true_difference_agrees_in_95_of_100_studies(trainings):
    random, studies = np.random.default_rng(trainings), 2000
    measured, published = random.normal(40, 0.3, (studies, trainings)), random.normal(40, 0.3, studies)
    differences, spreads = measured.mean(1) - published, measured.std(1, ddof=1)
    share = np.mean([agrees(d, trainings, s)[1] for d, s in zip(differences, spreads, strict=True)])
    assert share == pytest.approx(0.95, abs=2 * math.sqrt(0.95 * 0.05 / studies))


def check_errors(results):
    """At most 5 % plus two standard errors."""
    for one in results:
        assert one.share <= 100 * (0.05 + 2 * math.sqrt(0.05 * 0.95 / one.studies)), one


def check_power(results):
    """75 to 85 %, plus two standard errors."""
    for one in results:
        assert abs(one.share - 80) <= 5 + 2 * 100 * math.sqrt(0.8 * 0.2 / one.studies), one


def test_few_tables_of_true_null_hypotheses_have_a_false_verdict():
    results = list(false_verdicts(studies=100, seeds=(5,), families=["at most, effect at the bound", "mixed"]))
    assert len(results) == 4
    check_errors(results)


def test_claims_at_the_smallest_detectable_effect_are_supported_at_the_stated_rate():
    results = list(power(studies=100, seeds=(3,)))
    assert {one.case for one in results} == {"better", "at most", "equivalent"}
    check_power(results)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_few_tables_of_each_kind_have_a_false_verdict(family):
    check_errors(false_verdicts(families=[family]))


@pytest.mark.slow
def test_power_is_as_stated_everywhere():
    check_power(power())
