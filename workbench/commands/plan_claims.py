"""Plan of the claims: smallest detectable effect with a number of seeds, the seeds that a claim needs, and their cost.

The noise is measured on the trainings that exist. Where a claim was not run, its noise is assumed to be the median
noise of the comparisons that were run, so that a pilot of two rows is enough for a plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.commands.costs import epoch_images, find_hours
from workbench.commands.on_disk import read_trainings
from workbench.evaluation.effects import Effect
from workbench.evaluation.hypotheses import MOST_SEEDS, seeds_needed, smallest_detectable
from workbench.report.claims.judge import Measurements, measured_on_disk
from workbench.report.claims.words import metric_in_words
from workbench.report.page import TableView, markdown_table
from workbench.report.text import markdown
from workbench.runs.results import scale_folder
from workbench.settings.catalog import Rehearsal, Row, load_table
from workbench.settings.claims import Claim, Comparison, Stated, families, read_claims, read_observations
from workbench.settings.config import PipelineConfig
from workbench.settings.files import catalogue, read_scale, read_table
from workbench.support.errors import WorkbenchError

PLANNED_SEEDS = 10
"""Number of seeds that are planned unless another one is named."""
COCO = "coco"
"""Scale at which the paper was trained."""
HEADINGS = ("claim", "spread", "MDE", "to show", "seeds")
ALIGNMENT = ("left", "right", "right", "right", "right")


@dataclass(frozen=True)
class Noise:
    """Noise of an effect, from which its noise with another number of seeds follows.

    Attributes:
        variances: variance of the differences of single seeds within worlds; on fixed test images, of the trainings of
            each of the two rows.
        image_error: standard error due to the choice of test images, which more seeds do not reduce; 0 in drawn worlds.
    """

    variances: tuple[float, ...]
    image_error: float = 0.0

    @property
    def spread(self) -> float:
        """Standard deviation of the difference of one seed."""
        return math.sqrt(sum(self.variances))

    def of(self, seeds: int) -> Effect:
        """Effect of zero with the noise of this number of seeds."""
        parts = tuple((variance / seeds, seeds - 1) for variance in self.variances)
        return Effect(0.0, seeds, "images" if self.image_error else "worlds", self.image_error, parts)


def describe_claims(settings: PipelineConfig, results: Path, seeds: int, images_per_second: float | None = None) -> str:
    """Describe the claims of each table as text: MDE with a number of seeds, seeds needed, and cost of a seed.

    Args:
        settings: scale and data set.
        seeds: number of seeds that are planned.
        images_per_second: training speed of one GPU on COCO; None to use a measured speed.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise WorkbenchError(f"--images-per-second {images_per_second:g}: not a positive number; give a number above 0")
    spec = read_scale(settings.scale)
    has_data = settings.data_root or spec.root or spec.data.get("kind") == "embedded"
    measured = measured_on_disk(settings, results) if has_data else None
    typical = _typical_noise(measured)
    on_coco = Costs(COCO, settings.data_root if settings.scale == COCO else None, results, images_per_second)
    here = on_coco if settings.scale == COCO else Costs(settings.scale, settings.data_root, results, None)
    parts = [f"Claims with {seeds} seeds, scale {settings.scale}"]
    for family in families(read_claims()):
        ranks = ", ranking of boxes" if family[0].content.ranks else ""
        parts.append(f"{read_table(family[0].table).title.partition(':')[0]}{ranks}")
        size = sum(claim.content.kind != "placebo" for claim in family)
        lines = [_line(claim, measured, typical, seeds, size) for claim in family]
        parts.append(markdown_table(TableView(HEADINGS, lines, ALIGNMENT, ())))
        rows = dict.fromkeys(row for claim in family for pair in claim.content.pairs for row in pair)
        parts.append(_cost(list(rows), seeds, here, on_coco))
    notes = _notes(bool(typical), settings.scale, on_coco)
    return "\n\n".join([*parts, "Notes:\n" + "\n".join(f"- {note}" for note in notes)])


class Costs:
    """Hours of trainings at a scale, from measurements or from a speed; see `find_hours`."""

    def __init__(self, scale: str, data_root: Path | None, results: Path, images_per_second: float | None) -> None:
        self.scale = scale
        self._data_root, self._images_per_second = data_root, images_per_second
        self._trainings = read_trainings(scale_folder(results, scale))
        self._rehearsals = read_trainings(scale_folder(results, scale, Rehearsal(steps=1)))
        self._hours: dict[str, float | None] = {}

    def of_seed(self, ids: Sequence[str]) -> tuple[int, float | None]:
        """Number of the trainings of one seed of some rows, and their hours on one device; None if unknown."""
        tables = dict.fromkeys(catalogue().rows[id_] for id_ in ids)
        rows = [row for table in tables for row in load_table(table, self.scale, self._data_root)[1] if row.id in ids]
        for row in rows:
            if row.run not in self._hours:
                self._hours[row.run] = self._of_run(row)
        hours = [self._hours[run] for run in {row.run for row in rows}]
        return len(hours), None if None in hours else sum(hours)

    def _of_run(self, row: Row) -> float | None:
        root = self._data_root or read_scale(self.scale).root
        epoch = epoch_images(row.experiment.data, Path(root) if root else None)
        return find_hours(row.experiment, epoch, self._trainings, self._rehearsals, self._images_per_second)


def _typical_noise(measured: Measurements | None) -> dict[str, Noise]:
    """Metric → noise with the median spread of the comparisons that were run with two or more seeds."""
    noises: dict[str, list[Noise]] = {}
    for entry in (*read_claims(), *read_observations()):
        if noise := _noise(measured, entry.content):
            noises.setdefault(entry.content.metric, []).append(noise)
    return {metric: sorted(group, key=lambda noise: noise.spread)[len(group) // 2] for metric, group in noises.items()}


def _noise(measured: Measurements | None, content: Comparison) -> Noise | None:
    """Noise of a comparison, of several pairs the largest one; None if it was not run with two or more seeds."""
    effects = measured.effects(content) if measured else ()
    if not effects or any(effect.design == "one seed" for effect in effects):
        return None
    effect = max(effects, key=lambda effect: effect.standard_error)
    # A part is the variance of a mean over one more trainings than it has degrees of freedom.
    return Noise(tuple(v * (degrees + 1) for v, degrees in effect.seed_parts), effect.image_error)


def _line(
    claim: Stated[Claim], measured: Measurements | None, typical: Mapping[str, Noise], seeds: int, size: int
) -> list[str]:
    content = claim.content
    own, target = _noise(measured, content), _target(claim)
    noise = own or typical.get(content.metric)
    cells = [markdown(f"{content.statement}{metric_in_words(content)}")]
    if noise is None:
        return [*cells, "unknown", "–", _points(target), "–"]
    # A placebo is judged alone, and shows a difference of either sign.
    kind, family = ("better", 1) if content.kind == "placebo" else (content.kind, size)

    def detectable(number: int) -> float:
        return smallest_detectable(noise.of(number), family, kind, len(content.pairs))

    needed = "–" if target is None else _needed(detectable, target)
    return [
        *cells,
        f"{noise.spread:.2f}{'' if own else ' (assumed)'}",
        f"{detectable(seeds):.1f}",
        _points(target),
        needed,
    ]


def _target(claim: Stated[Claim]) -> float | None:
    """Distance of the published effect from the effects for which the claim is false; for a likeness, its margin.

    Of several pairs the smallest distance counts.
    """
    content = claim.content
    if content.margin is not None:
        return content.margin
    if not claim.published:
        return None
    return min(claim.published) if content.bound is None else content.bound - max(claim.published)


def _needed(detectable: Callable[[int], float], target: float) -> str:
    """Smallest number of seeds whose MDE is at most the target, as text."""
    seeds = seeds_needed(detectable, target)
    return f"over {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"


def _cost(rows: Sequence[str], seeds: int, here: Costs, on_coco: Costs) -> str:
    places = [here] if here is on_coco else [here, on_coco]
    parts = []
    for costs in places:
        number, hours = costs.of_seed(rows)
        each, total = ("unknown", "unknown") if hours is None else (_hours(hours), _hours(seeds * hours))
        trainings = f"{number} training{'s' if number > 1 else ''}"
        parts.append(f"{costs.scale}: {trainings} per seed, {each}; {seeds} seeds, {total}")
    return "\n".join(parts)


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(60 * hours))} min"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _notes(is_measured: bool, scale: str, on_coco: Costs) -> list[str]:
    notes = [
        "Spread: standard deviation of the difference of one seed. MDE: smallest effect that is found in 80 % of "
        "studies, at the level of Holm's first step. Seeds: number for which the MDE is the effect to show.",
        "To show: the published effect; of a bound, its distance from the published effect; of a likeness, its margin.",
        "Hours are for the training steps on one device; validation and detection take extra time. Tables share runs.",
    ]
    if is_measured:
        notes.append("An assumed spread is the median of the comparisons that were run.")
    else:
        notes.append(
            "No spread is known: train two rows with two or more seeds, e.g. "
            f"snakemake --cores all t3_raw_fl t3_fcos_atss --config scale={scale} seeds=6."
        )
    if on_coco.of_seed(["t3_raw_fl"])[1] is None:
        notes.append("The speed on COCO is unknown; give --images-per-second of one GPU.")
    return notes
