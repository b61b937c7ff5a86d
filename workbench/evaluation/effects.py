"""Effects: differences of AP between two rows, with standard errors, 95 % intervals and p-values.

There are two designs. Each fits another kind of study.

- Drawn worlds: each seed draws its own data set, and both rows are trained and tested on it. The differences within the
  worlds are independent, so Student's t applies to them. They contain the noise of pictures and of trainings.
- Fixed test images: all trainings are tested on the same images. The bootstrap measures the noise of the images (Efron,
  "Bootstrap methods", Annals of Statistics 7, 1979), and the spread over seeds the noise of trainings. Rows may have
  different spreads (Welch, "The generalization of Student's problem", Biometrika 34, 1947).

With a single training there is no measure of the noise of trainings: its interval covers the choice of images only.

All values have the unit of the AP that comes in. It is a fraction where the AP is one of a `Bootstrap`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from workbench.evaluation.intervals import Bootstrap
from workbench.support.errors import WorkbenchError

LEVEL = 0.95
"""Confidence level of all intervals: the share of intervals that contain the true value."""
ONE_SIDED = (1 - LEVEL) / 2
"""Level of a one-sided test that agrees with the interval: it rejects if the interval is on one side of the bound."""
KINK = 1 / (math.sqrt(2) - 1)
"""Bias of the maximum of noisy numbers, divided by the growth of this bias when the numbers' variance doubles."""

Design = Literal["worlds", "images", "one seed"]


@dataclass(frozen=True)
class Effect:
    """Difference of AP between two rows, or the AP of one row, and its noise.

    Attributes:
        estimate: measured value; NaN if there is none.
        seeds: number of worlds, or number of trainings per row (the smaller one if two rows differ).
        design: source of the noise: "worlds" or "images" as in the module's first lines. "one seed": the noise of
            trainings is unknown.
        image_error: standard error due to the test images, apart from their share of ``seed_error``; NaN if unknown.
        seed_parts: variance of the estimate due to trainings, or due to worlds and trainings: independent parts, each
            with its degrees of freedom. Two rows on fixed images have two parts.
        bias: smallest and largest bias of the estimate, see `image_bias`.
    """

    estimate: float
    seeds: int
    design: Design
    image_error: float = 0.0
    seed_parts: tuple[tuple[float, int], ...] = ()
    bias: tuple[float, float] = (0.0, 0.0)

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.estimate - self.bias[1] - self.half_width()

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.estimate - self.bias[0] + self.half_width()

    @property
    def seed_error(self) -> float:
        """Standard error due to trainings, or due to worlds and trainings."""
        return math.sqrt(sum(variance for variance, _ in self.seed_parts))

    @property
    def degrees(self) -> float:
        """Degrees of freedom of ``seed_error``: those of Welch and Satterthwaite if there are two parts."""
        squares = sum(variance**2 / degrees for variance, degrees in self.seed_parts)
        return self.seed_error**4 / squares if squares else math.inf

    @property
    def standard_error(self) -> float:
        """Standard error due to images and trainings together."""
        return math.hypot(self.image_error, self.seed_error)

    def half_width(self) -> float:
        """Half of the width of the 95 % interval, without the correction for the bias."""
        from scipy.special import ndtri, stdtrit

        seeds = stdtrit(self.degrees, ONE_SIDED) * self.seed_error if self.seed_error else 0.0
        return float(math.hypot(ndtri(ONE_SIDED) * self.image_error, seeds))

    @property
    def least_degrees(self) -> int:
        """Degrees of freedom of the part with the fewest."""
        return min((degrees for _, degrees in self.seed_parts), default=0)

    def scaled(self, factor: float) -> Effect:
        """Effect in another unit, for example in points of AP with the factor 100."""
        return replace(
            self,
            estimate=factor * self.estimate,
            image_error=factor * self.image_error,
            seed_parts=tuple((factor**2 * variance, degrees) for variance, degrees in self.seed_parts),
            bias=(factor * self.bias[0], factor * self.bias[1]),
        )


UNKNOWN = Effect(math.nan, 0, "one seed", math.nan)
"""Effect without any measurement."""


def effect_over_worlds(differences: Sequence[float]) -> Effect:
    """Mean of the differences within n worlds, with Student's t; also the mean AP of a row over its worlds.

    With a single world the interval is NaN.

    Args:
        differences: `[n]`, difference of AP within each world; each world has its own data and trainings.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return replace(UNKNOWN, estimate=float(values[0]), seeds=1) if len(values) else UNKNOWN
    return Effect(float(values.mean()), len(values), "worlds", seed_parts=(_seed_part(values),))


def effect_on_images(a: Sequence[Bootstrap], b: Sequence[Bootstrap], same_trainings: bool = False) -> Effect:
    """Mean AP over the seeds of row a minus the mean AP over the seeds of row b, on fixed test images.

    The half-width of the interval is the square root of the sum of two squares:

    - Seeds: Student's quantile times √(s_a²/k_a + s_b²/k_b), where k is the number of seeds of a row, and s² is the
      variance of AP over seeds on these images. The degrees of freedom are those of Welch and Satterthwaite.
    - Images: 1.96 times √(b² − g_a²/k_a − g_b²/k_b). Here b² is the variance, over resamples, of the difference of the
      means over seeds. g² is the variance, over resamples, of the AP of one seed minus the mean AP of its row. s²
      already contains g².

    The share g² is taken from b² and not from s². The bootstrap knows b² and g² well, but s² of a few seeds is often
    below g² by chance. A seeds' part of zero then hides the noise of trainings: in simulations of one row with two
    seeds, as few as 87 of 100 such intervals contained the true value (tests/evaluation/simulations.py).

    With one seed in a row there is no seeds' part, and the design is "one seed".

    Args:
        same_trainings: whether a[k] and b[k] are two evaluations of the same training, for example with and without an
            oracle. The part that is specific to a training then cancels in the difference, and s² is the variance of
            the differences.

    Raises:
        WorkbenchError: the evaluations do not use the same images.
    """
    rows = np.split(_same_images([*a, *b]), [len(a)])
    if same_trainings:
        differences = rows[0] - rows[1]
        return _on_images(differences.mean(axis=0), [differences])
    return _on_images(rows[0].mean(axis=0) - rows[1].mean(axis=0), rows)


def effect_of_rows(
    a: Sequence[Bootstrap], b: Sequence[Bootstrap], worlds: bool = False, same_trainings: bool = False
) -> Effect:
    """Difference of AP between two rows in the design of their data.

    Args:
        worlds: whether each seed draws its own data set. Evaluations of equal digest belong to one world. Only worlds
            of both rows count. If there is one world, it is a set of fixed test images.
        same_trainings: see `effect_on_images`.
    """
    if not (a and b):
        return UNKNOWN
    if not worlds:
        return effect_on_images(a, b, same_trainings)
    common = [digest for digest in _by_world(a) if digest in _by_world(b)]
    if len(common) == 1:
        a, b = _by_world(a)[common[0]], _by_world(b)[common[0]]
        return effect_on_images(a, b, same_trainings and len(a) == len(b))
    return effect_over_worlds([_mean_ap(_by_world(a)[d]) - _mean_ap(_by_world(b)[d]) for d in common])


def effect_over_trainings(a: Sequence[float], b: Sequence[float], same_trainings: bool = False) -> Effect:
    """Mean of a metric of row a minus row b on fixed test images, for a metric without resamples.

    The interval covers other trainings on the same images. With one training in a row, it is NaN.

    Args:
        a, b: `[k]`, the metric of each training of the rows.
        same_trainings: see `effect_on_images`.
    """
    seeds = min(len(a), len(b))
    if not seeds:
        return UNKNOWN
    rows = [np.subtract(a, b)] if same_trainings else [np.asarray(a, float), np.asarray(b, float)]
    estimate = float(np.mean(a) - np.mean(b))
    if seeds == 1:
        return replace(UNKNOWN, estimate=estimate, seeds=1)
    return Effect(estimate, seeds, "images", seed_parts=tuple(map(_seed_part, rows)))


def mean_of_row(seeds: Sequence[Bootstrap], worlds: bool = False) -> Effect:
    """Mean AP over the seeds of a row, in the design of its data; see `effect_of_rows`."""
    if not seeds:
        return UNKNOWN
    if worlds and len(_by_world(seeds)) > 1:
        return effect_over_worlds([_mean_ap(world) for world in _by_world(seeds).values()])
    row = _same_images(seeds)
    return _on_images(row.mean(axis=0), [row])


def p_above(effect: Effect, bound: float) -> float:
    """One-sided p-value of the hypothesis that the effect is not above the bound; small if the effect is above it.

    It is the tail at which the lower end of the interval meets the bound. It is therefore below 2.5 % exactly if the
    95 % interval is above the bound.
    """
    return _tail(effect, effect.estimate - effect.bias[1] - bound)


def p_below(effect: Effect, bound: float) -> float:
    """One-sided p-value of the hypothesis that the effect is not below the bound; see `p_above`."""
    return _tail(effect, bound - effect.estimate + effect.bias[0])


def small_tail_factor(degrees: np.ndarray | float, least: float) -> np.ndarray | float:
    """Factor of Student's quantiles with the least degrees of freedom that makes them Welch's at 2.5 %.

    Welch's approximation rejects too often at the small levels of many claims: with three seeds and spreads of 5 and 1,
    7.6 % of tables of six claims had a false verdict instead of 5 %. The number of degrees is the estimate of an
    unknown value, and this value can be as small as the least one. Beyond 2.5 %, quantiles therefore grow like those
    of the least degrees. In simulations at most 5.4 % of such tables have a false verdict.
    """
    from scipy.special import stdtrit

    return stdtrit(degrees, ONE_SIDED) / stdtrit(least, ONE_SIDED)


def _tail(effect: Effect, distance: float) -> float:
    """Tail for which the half-width of the interval is the distance; above 1/2 if the distance is negative."""
    from scipy.optimize import brentq
    from scipy.special import ndtr, ndtri, stdtr

    if distance < 0:
        return 1 - _tail(effect, -distance)
    if math.isnan(distance) or math.isnan(effect.standard_error):
        return math.nan
    if not effect.standard_error:
        return 0.0 if distance else 0.5
    if not effect.seed_error:
        return float(ndtr(-distance / effect.image_error))
    images, seeds, degrees, least = effect.image_error, effect.seed_error, effect.degrees, effect.least_degrees
    factor = small_tail_factor(degrees, least)

    def tail(quantile: float) -> float:
        return max(float(stdtr(degrees, -quantile)), float(stdtr(least, -quantile / factor)))

    def excess(quantile: float) -> float:
        return math.hypot(ndtri(tail(quantile)) * images, quantile * seeds) - distance

    largest = distance / seeds  # without the images' part
    if not images or not distance:
        return tail(largest)
    return tail(brentq(excess, 0.0, (1 + 1e-9) * largest))  # a little more, because of rounding


def image_bias(samples: np.ndarray, estimate: float) -> tuple[float, float]:
    """Smallest and largest bias of a value on few images.

    AP on few images is biased upwards, because the envelope of the precision takes the maximum of noisy numbers. The
    bias is larger for classes with fewer objects.

    A resample has twice the variance of the noise. The resamples' mean minus the estimate is therefore the growth of
    the bias when the variance doubles. If the bias is proportional to the variance, it equals this growth. If the bias
    is proportional to the standard deviation, like the bias of a maximum, it is `KINK` times this growth. The interval
    covers both cases.

    In simulations with 100 to 1,000 images and 3 to 80 classes, 93 to 96 of 100 intervals contain the true value
    (tests/evaluation/test_effects.py). With percentiles of an AP, 75 to 94 of 100 intervals do. An AP can be near the
    upper end of its interval, or above the interval.

    Args:
        samples: `[R]`, values on resamples.
        estimate: value on the images.
    """
    bias = float(samples.mean()) - estimate
    near, far = sorted((bias, KINK * bias))
    return near, far


def _by_world(row: Sequence[Bootstrap]) -> dict[str, list[Bootstrap]]:
    worlds: dict[str, list[Bootstrap]] = {}
    for one in row:
        worlds.setdefault(one.digest, []).append(one)
    return worlds


def _mean_ap(row: Sequence[Bootstrap]) -> float:
    return float(np.mean([one.ap for one in row]))


def _same_images(bootstraps: Sequence[Bootstrap]) -> np.ndarray:
    """Values `[k, 1 + R]` of k bootstraps: the AP on the images, then the AP on each resample."""
    if len({(b.digest, len(b.samples)) for b in bootstraps}) > 1:
        counts = " and ".join(sorted({str(b.images) for b in bootstraps}))
        raise WorkbenchError(f"bootstrap: the rows use different images ({counts} images); evaluate all rows again")
    return np.stack([np.insert(b.samples, 0, b.ap) for b in bootstraps])


def _on_images(values: np.ndarray, rows: Sequence[np.ndarray]) -> Effect:
    """Effect on fixed test images.

    Args:
        values: `[1 + R]`, the effect on the images, then on each resample. NaN resamples are left out.
        rows: `[k, 1 + R]` each, the values of k seeds whose mean, or whose difference of means, is the effect.
    """
    known = ~np.isnan(values)
    estimate, samples, seeds = float(values[0]), values[1:][known[1:]], min(map(len, rows))
    if math.isnan(estimate) or len(samples) < 2:
        return replace(UNKNOWN, estimate=estimate, seeds=seeds)
    image_variance, bias = float(samples.var(ddof=1)), image_bias(samples, estimate)
    if seeds == 1:
        return Effect(estimate, seeds, "one seed", math.sqrt(image_variance), bias=bias)
    parts = tuple(_seed_part(row[:, 0]) for row in rows)
    image_error = math.sqrt(max(image_variance - sum(_explained(row[:, known]) for row in rows), 0.0))
    return Effect(estimate, seeds, "images", image_error, parts, bias)


def _seed_part(values: np.ndarray) -> tuple[float, int]:
    """Variance of the mean of k independent values, s²/k, and its degrees of freedom."""
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _explained(row: np.ndarray) -> float:
    """Part of the variance over seeds of a row's mean AP that the images explain, g²/k.

    Args:
        row: `[k, 1 + R]`, the AP of k seeds on the images, then on each resample.
    """
    deviations = row[:, 1:] - row[:, 1:].mean(axis=0)
    return float(deviations.var(axis=1, ddof=1).sum()) / (len(row) - 1) / len(row)
