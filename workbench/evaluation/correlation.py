"""Rank correlations: agreement of two quantities on the order of the same items."""

import numpy as np
from numpy.typing import ArrayLike

ROWS = 256  # number of items that are compared with all others at once


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b: number of pairs in the same order minus pairs in opposite order, divided by the untied pairs.

    The divisor is the geometric mean of the numbers of untied pairs of x and y (Kendall, Biometrika 1945). All pairs
    are compared, which takes a second for ten thousand values.

    Args:
        x, y: `[N]`, values of the same N items.

    Returns:
        Correlation in [-1, 1]; NaN if all x, or all y, are equal.
    """
    x, y = (np.unique(values, return_inverse=True)[1].astype(np.int32) for values in (x, y))
    agreement = untied_x = untied_y = 0
    for start in range(0, len(x), ROWS):
        order_x, order_y = (_order(v[start : start + ROWS, None], v) for v in (x, y))
        agreement += int((order_x * order_y).sum(dtype=np.int64))
        untied_x += np.count_nonzero(order_x)
        untied_y += np.count_nonzero(order_y)
    return agreement / np.sqrt(float(untied_x) * untied_y) if untied_x and untied_y else float("nan")


def _order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Order of a and b in one byte per pair: 1 if a is larger, -1 if b is larger, 0 for a tie."""
    return (a > b).view(np.int8) - (a < b).view(np.int8)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rho: correlation of the ranks, in which ties have their mean rank; NaN as in `kendall`."""
    import pandas as pd

    ranks_x, ranks_y = (pd.Series(np.asarray(values, float)).rank() for values in (x, y))
    return float(ranks_x.corr(ranks_y)) if ranks_x.nunique() > 1 and ranks_y.nunique() > 1 else float("nan")
