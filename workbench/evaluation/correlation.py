"""Rank correlations: do two quantities put things in the same order?"""

import numpy as np
from numpy.typing import ArrayLike

ROWS = 256  # compared with all others at a time


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b: pairs in the same order minus pairs in the opposite one, over those that are tied in neither.

    Ties count by the geometric mean of the two quantities' untied pairs (Kendall, Biometrika 1945). All pairs are
    compared, which for ten thousand values takes a second.

    Args:
        x, y: `[N]` numbers of the same N things.

    Returns:
        In [-1, 1]; NaN where all x, or all y, are equal.
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
    """1 where a is larger, -1 where b is, 0 where they are equal, in single bytes."""
    return (a > b).view(np.int8) - (a < b).view(np.int8)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rho: the correlation of the ranks, equal values sharing their mean rank; NaN as with `kendall`."""
    import pandas as pd

    ranks_x, ranks_y = (pd.Series(np.asarray(values, float)).rank() for values in (x, y))
    return float(ranks_x.corr(ranks_y)) if ranks_x.nunique() > 1 and ranks_y.nunique() > 1 else float("nan")
