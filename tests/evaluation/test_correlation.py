"""Rank correlations agree with their definitions over all pairs, and with known values."""

import math
from itertools import combinations

import numpy as np
import pytest

from workbench.evaluation.correlation import kendall, spearman


def slow_kendall(x, y):
    """Tau-b of Kendall (1945), computed over all pairs."""
    same = opposite = tied_x = tied_y = 0
    for (a, b), (c, d) in combinations(zip(x, y, strict=True), 2):
        product = (a - c) * (b - d)
        same, opposite = same + (product > 0), opposite + (product < 0)
        tied_x, tied_y = tied_x + (a == c), tied_y + (b == d)
    pairs = len(x) * (len(x) - 1) / 2
    return (same - opposite) / math.sqrt((pairs - tied_x) * (pairs - tied_y))


def slow_spearman(x, y):
    """Pearson's correlation of the ranks, in which ties have their mean rank."""
    ranks = [[np.mean([i for i, w in enumerate(sorted(v)) if w == u]) for u in v] for v in (x, y)]
    return np.corrcoef(*ranks)[0, 1]


@pytest.mark.parametrize(("count", "values"), [(2, 1000), (30, 1000), (30, 4), (700, 1000), (513, 7)])
def test_correlations_agree_with_their_definitions(count, values):
    rng = np.random.default_rng(count)
    x = rng.integers(0, values, count)
    y = x + rng.integers(0, values, count)
    assert kendall(x, y) == pytest.approx(slow_kendall(x.tolist(), y.tolist()), abs=1e-12)
    assert spearman(x, y) == pytest.approx(slow_spearman(x.tolist(), y.tolist()), abs=1e-12)


def test_correlations_of_known_orders():
    x = [1, 2, 3, 4, 5]
    assert kendall(x, [math.exp(v) for v in x]) == pytest.approx(1)
    assert spearman(x, [v**3 for v in x]) == pytest.approx(1)
    assert kendall(x, x[::-1]) == pytest.approx(-1)
    assert kendall(x, [2, 1, 3, 4, 5]) == pytest.approx(0.8)  # one pair of ten is in opposite order
    assert spearman(x, [2, 1, 3, 4, 5]) == pytest.approx(0.9)  # 1 - 6 * 2 / (5 * 24)


def test_correlations_of_equal_values_are_nan():
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0, 0, 0]), ([1], [2]), ([], [])):
        assert math.isnan(kendall(x, y))
        assert math.isnan(spearman(x, y))
