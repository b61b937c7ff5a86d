"""Rank correlations of two quantities, as SciPy computes them."""

import warnings

from numpy.typing import ArrayLike


def rank_correlations(x: ArrayLike, y: ArrayLike) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b of N pairs; NaN without a warning if all x, or all y, are equal.

    Args:
        x, y: `[N]`, values of the same N items.
    """
    from scipy.stats import kendalltau, spearmanr  # takes half a second

    with warnings.catch_warnings(action="ignore"):
        return float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic)
