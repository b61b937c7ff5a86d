"""AP on the test images and on resamples of them, from which intervals over images are computed.

The bootstrap (Efron, "Bootstrap methods", Annals of Statistics 7, 1979) computes the AP on resamples of the images. A
resample is drawn with replacement and has as many images as the data set. All rows use the same resamples. The
difference of two rows is computed on each resample, so the part of the variation that both rows share cancels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from workbench.evaluation.resampling import Matches, average_precision
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

RESAMPLES = 1000
SEED = 0
"""Seed of the resamples."""


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
