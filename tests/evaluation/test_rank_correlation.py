"""Rank correlations of known orders; ties and equal values."""

import math
import warnings

import pytest

from workbench.evaluation.rank_correlation import rank_correlations


def test_correlations_of_known_orders():
    x = [1, 2, 3, 4, 5]
    assert rank_correlations(x, [math.exp(v) for v in x]) == pytest.approx((1, 1))
    assert rank_correlations(x, x[::-1]) == pytest.approx((-1, -1))
    # one pair of ten is in opposite order; 1 - 6 * 2 / (5 * 24)
    assert rank_correlations(x, [2, 1, 3, 4, 5]) == pytest.approx((0.9, 0.8))


def test_ties_share_their_mean_rank():
    # ranks 1, 2.5, 2.5 and 1, 2, 3; two of the three pairs are untied in x, and all three in y
    assert rank_correlations([1, 2, 2], [1, 2, 3]) == pytest.approx((math.sqrt(3) / 2, 2 / math.sqrt(6)))


@pytest.mark.parametrize(("x", "y"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0]), ([1], [2]), ([], [])])
def test_correlations_of_equal_values_are_nan_without_a_warning(x, y):
    with warnings.catch_warnings(action="error"):
        assert all(map(math.isnan, rank_correlations(x, y)))
