"""Simulated studies with a known truth: coverage of intervals, false verdicts in a table, and power.

    python -m tests.evaluation.simulations    # write results/reference/simulations.csv, and print it; half an hour

A simulated AP is linear, so that studies are cheap and the truth is known. In points of AP:

- Drawn worlds: the AP of a row in world k is the world's AP plus the noise of this row's training there. The world's AP
  cancels in differences and is left out.
- Fixed test images: the AP of a training is the mean, over images, of an effect of the row and an effect of the
  training on each image, plus an effect of the training on all images. Resamples repeat the images.

Real code judges the simulated numbers.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

from workbench.evaluation.effects import Effect, effect_on_images, effect_over_worlds, mean_of_row
from workbench.evaluation.hypotheses import ALPHA, Hypothesis, Kind, adjusted_p_values, smallest_detectable
from workbench.evaluation.intervals import Bootstrap, resamples

FILE = Path(__file__).parents[2] / "results" / "reference" / "simulations.csv"
STUDIES = 2000
SEEDS = (2, 3, 5, 10)
SPREADS = ((1.0, 1.0), (2.5, 0.5), (0.5, 0.5))
"""Standard deviations of the AP of single trainings of two rows, on an unlimited number of images."""
NOISE = {"none": (0.05, 0.05), "row": (1.0, 0.3), "training": (0.5, 1.0), "both": (1.5, 1.5)}
"""Noise of the test images: standard deviation of the difference of two rows, and of the AP of a single training."""
CLAIMS = 6
"""Number of claims of a simulated table. Ten worlds and six claims are the plan of Table 3."""
RIVALS = 9
IMAGES = 100
WEIGHTS = resamples(IMAGES, 300) / IMAGES

FAMILIES = {
    "better, no effect": ["better"] * CLAIMS,
    "at most, effect at the bound": ["at most"] * CLAIMS,
    "equivalent, effect at the margin": ["at the margin"] * CLAIMS,
    "equivalent, no effect": ["no effect"] * CLAIMS,
    "best of ten, all tie": ["best of"] * CLAIMS,
    "mixed": ["better", "better", "at most", "at the margin", "no effect", "best of"],
}
"""Tables of claims of which no verdict other than "inconclusive" is true, but "equivalent" of the claims "no effect"."""


@dataclass(frozen=True)
class Cell:
    """Noise of simulated studies.

    Attributes:
        design: "worlds" or "images".
        seeds: number of worlds, or of trainings per row.
        spreads: see `SPREADS`. Each rival of a row has the second one.
        images: key of `NOISE`, or "-" for worlds.
    """

    design: str
    seeds: int
    spreads: tuple[float, float]
    images: str = "-"

    def random(self) -> np.random.Generator:
        """Generator of random numbers, the same for equal cells."""
        return np.random.default_rng([self.seeds, *(int(10 * s) for s in self.spreads), *self.images.encode()])

    def effects(self, random: np.random.Generator, truth: float = 0.0, rivals: int = 1) -> tuple[Effect, ...]:
        """Effects of one row over its rivals in one simulated study."""
        spreads = [self.spreads[0], *[self.spreads[1]] * rivals]
        if self.design == "worlds":
            rows = random.normal(0, spreads, (self.seeds, 1 + rivals)).T
            return tuple(effect_over_worlds(rows[0] + truth - other) for other in rows[1:])
        rows = [self.row(random, spread) for spread in spreads]
        better = [Bootstrap(one.ap + truth, one.samples + truth, one.images, one.digest) for one in rows[0]]
        return tuple(effect_on_images(better, other) for other in rows[1:])

    def row(self, random: np.random.Generator, spread: float) -> list[Bootstrap]:
        """Trainings of one row with a true AP of 0, on the test images."""
        row, training = NOISE[self.images]
        values = random.normal(0, training * math.sqrt(IMAGES), (self.seeds, IMAGES))
        values += random.normal(0, row * math.sqrt(IMAGES / 2), IMAGES)
        values += random.normal(0, spread, (self.seeds, 1))
        drawn = values @ WEIGHTS.T
        return [Bootstrap(float(ap), s, IMAGES, "") for ap, s in zip(values.mean(axis=1), drawn, strict=True)]

    def expected(self) -> Effect:
        """Effect with the true noise."""
        if self.design == "worlds":
            part = (sum(spread**2 for spread in self.spreads) / self.seeds, self.seeds - 1)
            return Effect(0.0, self.seeds, "worlds", seed_parts=(part,))
        row, training = NOISE[self.images]
        parts = tuple(((spread**2 + training**2) / self.seeds, self.seeds - 1) for spread in self.spreads)
        return Effect(0.0, self.seeds, "images", row, parts)


@dataclass(frozen=True)
class Result:
    """Share of the simulated studies with an event, and its standard error, in percent.

    Attributes:
        quantity: "coverage" (the interval contains the truth), "false verdict" (any in a table) or "power".
        case: estimated value, or claims.
    """

    quantity: str
    design: str
    case: str
    seeds: int
    spreads: str
    images: str
    share: float
    error: float
    studies: int


def result(quantity: str, case: str, cell: Cell, events: Iterable[bool]) -> Result:
    """Count the events of all studies of a cell."""
    happened = np.fromiter(events, dtype=bool)
    share, spreads = float(happened.mean()), " and ".join(f"{s:g}" for s in cell.spreads)
    error = math.sqrt(share * (1 - share) / len(happened))
    share, error = round(100 * share, 2), round(100 * error, 2)
    return Result(quantity, cell.design, case, cell.seeds, spreads, cell.images, share, error, len(happened))


def coverage(studies: int = STUDIES, seeds: Sequence[int] = SEEDS) -> Iterator[Result]:
    """Share of 95 % intervals that contain the true value."""
    for cell in cells(seeds, SPREADS, NOISE):
        random = cell.random()
        if cell.design == "worlds":
            yield result("coverage", "difference", cell, (covers(*cell.effects(random)) for _ in range(studies)))
            continue
        rows = [[cell.row(random, spread) for spread in cell.spreads] for _ in range(studies)]
        yield result("coverage", "difference", cell, (covers(effect_on_images(a, b)) for a, b in rows))
        paired = (covers(effect_on_images(a, b, same_trainings=True)) for a, b in rows)
        yield result("coverage", "difference of two oracles", cell, paired)
        yield result("coverage", "mean of the first row", cell, (covers(mean_of_row(a)) for a, _ in rows))


def covers(effect: Effect) -> bool:
    """Whether the interval contains the true value 0."""
    return effect.low <= 0 <= effect.high


def false_verdicts(
    studies: int = STUDIES, seeds: Sequence[int] = SEEDS, families: Sequence[str] = tuple(FAMILIES)
) -> Iterator[Result]:
    """Share of tables with any false verdict, where each claim is at its own null hypothesis."""
    for name in families:
        for cell in cells(seeds, SPREADS[1:2], ["none"]):  # the hardest case for Welch's approximation
            random = cell.random()
            yield result("false verdict", name, cell, (any_false(cell, random, name) for _ in range(studies)))


def any_false(cell: Cell, random: np.random.Generator, family: str) -> bool:
    """Whether a table has a false verdict in one simulated study."""
    pairs = adjusted_p_values([hypothesis(cell, random, claim) for claim in FAMILIES[family]])
    false = (
        opposite <= ALPHA or (p <= ALPHA and claim != "no effect")
        for (p, opposite), claim in zip(pairs, FAMILIES[family], strict=True)
    )
    return any(false)


def hypothesis(cell: Cell, random: np.random.Generator, claim: str) -> Hypothesis:
    """Claim at its null hypothesis in one simulated study. A bound or margin is the smallest detectable effect."""
    if claim in ("better", "best of"):
        return Hypothesis(claim, cell.effects(random, rivals=RIVALS if claim == "best of" else 1))
    bound = detectable(cell, "better")
    effects = cell.effects(random, truth=0.0 if claim == "no effect" else bound)
    return Hypothesis("at most" if claim == "at most" else "equivalent", effects, bound)


def power(studies: int = STUDIES, seeds: Sequence[int] = SEEDS) -> Iterator[Result]:
    """Share of studies that support a claim at the smallest detectable effect, at Holm's first step of six claims."""
    for cell in cells(seeds, SPREADS, NOISE):
        random, effect, margin = cell.random(), detectable(cell, "better"), detectable(cell, "equivalent")
        found = (supported(Hypothesis("better", cell.effects(random, effect))) for _ in range(studies))
        yield result("power", "better", cell, found)
        if cell.design == "worlds":  # the bound is above an effect of 0 by the same distance
            found = (supported(Hypothesis("at most", cell.effects(random), effect)) for _ in range(studies))
            yield result("power", "at most", cell, found)
        found = (supported(Hypothesis("equivalent", cell.effects(random), margin)) for _ in range(studies))
        yield result("power", "equivalent", cell, found)


@cache
def detectable(cell: Cell, kind: Kind) -> float:
    """Smallest detectable effect, or margin, with the true noise of a cell."""
    return smallest_detectable(cell.expected(), CLAIMS, kind)


def supported(claim: Hypothesis) -> bool:
    """Whether the first of six claims is supported, if no other claim has a smaller p-value."""
    return adjusted_p_values([claim], size=CLAIMS)[0][0] <= ALPHA


def cells(seeds: Sequence[int], spreads: Iterable[tuple[float, float]], noise: Iterable[str]) -> Iterator[Cell]:
    """Cells of both designs."""
    for k in seeds:
        for pair in spreads:
            yield Cell("worlds", k, pair)
            yield from (Cell("images", k, pair, images) for images in noise)


def main() -> None:
    """Simulate all cells and write them."""
    results = []
    for part in (coverage, power, false_verdicts):
        for one in part():
            print("  ".join(map(str, asdict(one).values())), file=sys.stderr)
            results.append(one)
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(results[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, results))


if __name__ == "__main__":
    main()
