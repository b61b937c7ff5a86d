"""Confidence intervals of an AP, and of the paired difference of two APs, over test images and seeds.

The bootstrap (Efron, "Bootstrap methods", Annals of Statistics 7, 1979) computes the AP on resamples of the images. A
resample is drawn with replacement and has as many images as the data set. All rows use the same resamples. The
difference of two rows is computed on each resample, so the part of the variation that both rows share cancels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType

import numpy as np

from workbench.evaluation.resampling import Matches, average_precision
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

RESAMPLES = 1000
SEED = 0
"""Seed of the resamples."""

LEVEL = 0.95
"""Confidence level of all intervals: the share of intervals that contain the true value."""
KINK = 1 / (math.sqrt(2) - 1)
"""Bias of the maximum of noisy numbers, divided by the growth of this bias when the numbers' variance doubles."""


@dataclass(frozen=True)
class Bootstrap:
    """AP of one training on the test images and on resamples, as fractions.

    Attributes:
        ap: AP on the images; NaN if they have no objects.
        samples: `[R]`, AP on each resample; NaN if the resample has no objects.
        images: number of images.
        digest: digest of the images and the resamples; bootstraps with equal digests can be paired.
    """

    ap: float
    samples: np.ndarray
    images: int
    digest: str


def resamples(images: int, number: int = RESAMPLES) -> np.ndarray:
    """Numbers of times `[number, images]` that each resample contains each image; equal arguments, equal resamples."""
    random = np.random.default_rng(SEED)
    return np.stack([np.bincount(random.integers(images, size=images), minlength=images) for _ in range(number)])


def bootstrap(matches: Matches, split: str = "") -> Bootstrap:
    """AP on the images and on `RESAMPLES` resamples of the images.

    Args:
        split: digest of the data split. Image ids alone would pair the images of different data sets.
    """
    images = len(matches.image_ids)
    drawn = resamples(images)
    named = json.dumps([split, matches.image_ids]).encode()
    digest = hashlib.sha256(named + drawn.astype("<i4").tobytes()).hexdigest()[:16]
    ap, *samples = average_precision(matches, np.concatenate([np.ones((1, images), drawn.dtype), drawn]))
    return Bootstrap(float(ap), np.array(samples), images, digest)


def write_bootstrap(path: Path, result: Bootstrap, belongs: Mapping[str, object] = MappingProxyType({})) -> None:
    """Write a bootstrap as JSON, with resamples rounded to 1e-6; see `write_json_atomically`.

    Args:
        belongs: facts about the evaluation, written at the beginning of the file.
    """
    ap, *samples = (None if math.isnan(value) else value for value in (result.ap, *result.samples.round(6).tolist()))
    facts = {"AP": ap, "images": result.images, "digest": result.digest, "seed": SEED, "resamples": samples}
    write_json_atomically(path, {**belongs, **facts}, indent=None)


def bootstrap_of(facts: object, path: Path) -> Bootstrap:
    """Bootstrap of the content of a file that `write_bootstrap` wrote.

    Raises:
        WorkbenchError: the content is of another kind, or an AP is not a fraction. The message names ``path``.
    """
    try:
        values = [facts["AP"], *facts["resamples"]]
        if not all(value is None or is_fraction(value) for value in values):
            raise ValueError("not fractions")
        values = np.array(values, dtype=float)  # None becomes NaN
        return Bootstrap(float(values[0]), values[1:], int(facts["images"]), str(facts["digest"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WorkbenchError(f"{path}: not an AP on resampled images; delete the file and evaluate again") from error


def is_fraction(value: object) -> bool:
    """Whether a value is a number in [0, 1]. NaN and a truth value are not."""
    return type(value) in (int, float) and 0 <= value <= 1


def interval(samples: np.ndarray, estimate: float, half_width: float = 0.0) -> tuple[float, float]:
    """95 % confidence interval of the AP, or difference of AP, on an unlimited set of images; NaN if there is none.

    The interval is normal, with the standard deviation over the resamples, around the estimate minus its bias. AP on
    few images is biased upwards, because the envelope of the precision takes the maximum of noisy numbers. The bias is
    larger for classes with fewer objects.

    A resample has twice the variance of the noise. The resamples' mean minus the estimate is therefore the growth of
    the bias when the variance doubles. If the bias is proportional to the variance, it equals this growth. If the bias
    is proportional to the standard deviation, like the bias of a maximum, it is `KINK` times this growth. The interval
    covers both cases.

    In simulations with 100 to 1,000 images and 3 to 80 classes, 93 to 96 of 100 intervals contain the true value
    (tests/evaluation/test_intervals.py). With percentiles of an AP, 75 to 94 of 100 intervals do. An AP can be near the
    upper end of its interval, or above the interval.

    Args:
        samples: `[R]`, values on resamples; NaN are left out.
        estimate: value on the images.
        half_width: half-width of an independent interval, which covers other sources of variation.
    """
    samples = samples[~np.isnan(samples)]
    if math.isnan(estimate) or len(samples) < 2:
        return math.nan, math.nan
    bias = samples.mean() - estimate
    near, far = sorted((bias, KINK * bias))
    half = math.hypot(NormalDist().inv_cdf((1 + LEVEL) / 2) * samples.std(ddof=1), half_width)
    return float(estimate - far - half), float(estimate - near + half)


def mean_interval(seeds: Sequence[Bootstrap]) -> tuple[float, float, float]:
    """Mean AP over the seeds of a row, and its 95 % interval, clipped to [0, 1]; see `difference_interval`."""
    row = _same_images(seeds)
    mean, low, high = _effect(row.mean(axis=0), [row])
    return mean, max(low, 0.0), min(high, 1.0)


def difference_interval(
    a: Sequence[Bootstrap], b: Sequence[Bootstrap], same_trainings: bool = False
) -> tuple[float, float, float]:
    """Mean AP over the seeds of row a minus the mean AP over the seeds of row b, and its 95 % interval.

    The interval has two parts, whose half-widths add in quadrature.

    - Images: the interval of the difference of the means over seeds, computed on each resample.
    - Seeds: Student's interval with variance (s² − g²)(1/k_a + 1/k_b), where k_a and k_b are the numbers of seeds.
      Here s² is the variance of AP over seeds on these images, and g² is the part of s² that the images explain. The
      first part already covers g². It is the variance over the resamples of a seed's AP minus the mean AP of its row.
      Both variances are pooled over the rows, as if the trainings of both rows had the same variance.

    With one seed per row there is no second part. The interval then applies to these two trainings on other images, not
    to other trainings.

    Args:
        same_trainings: whether a[k] and b[k] are two evaluations of the same training, for example with and without an
            oracle. The part that is specific to a training then cancels in the difference. The variance over seeds is
            the variance of the differences, times 1/k.

    Raises WorkbenchError if the evaluations do not use the same images.
    """
    rows = np.split(_same_images([*a, *b]), [len(a)])
    if same_trainings:
        differences = rows[0] - rows[1]
        return _effect(differences.mean(axis=0), [differences])
    return _effect(rows[0].mean(axis=0) - rows[1].mean(axis=0), rows)


def _same_images(bootstraps: Sequence[Bootstrap]) -> np.ndarray:
    """Values `[k, 1 + R]` of k bootstraps: the AP on the images, then the AP on each resample."""
    if len({(b.digest, len(b.samples)) for b in bootstraps}) > 1:
        counts = " and ".join(sorted({str(b.images) for b in bootstraps}))
        raise WorkbenchError(f"bootstrap: the rows use different images ({counts} images); evaluate all rows again")
    return np.array([[b.ap, *b.samples] for b in bootstraps])


def _effect(values: np.ndarray, rows: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Effect and its interval.

    Args:
        values: `[1 + R]`, the effect on the images, then on each resample.
        rows: `[k, 1 + R]` each, the values of k seeds whose mean, or whose difference of means, is the effect.
    """
    degrees = sum(len(row) - 1 for row in rows)
    half_width = 0.0
    if degrees:
        deviations = [row - row.mean(axis=0) for row in rows]
        squares = sum((d[:, 0] ** 2).sum() - np.nanvar(d[:, 1:], axis=1).sum() for d in deviations)
        half_width = student(degrees) * math.sqrt(max(squares, 0.0) / degrees * sum(1 / len(row) for row in rows))
    return float(values[0]), *interval(values[1:], float(values[0]), half_width=half_width)


def student(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t distribution, computed without SciPy.

    With t = √degrees · tan θ, the density of θ is proportional to cos(θ) to the power of degrees − 1.

    Args:
        degrees: degrees of freedom.
    """
    edges = np.linspace(0, math.pi / 2, 100_001)
    mass = np.cumsum(np.cos((edges[1:] + edges[:-1]) / 2) ** (degrees - 1))
    return math.sqrt(degrees) * math.tan(np.interp(LEVEL * mass[-1], mass, edges[1:]))
