"""Pilot: trainings of two rows before the registration, for a first spread of their difference within worlds.

The spread of a scale is computed from ``results/reference/pilot.csv`` alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from pathlib import Path

from workbench.evaluation.effects import Effect
from workbench.evaluation.hypotheses import smallest_detectable
from workbench.report.evidence.lines import Key, Line, read_lines, registered_keys
from workbench.settings.registration import Pilot, Planned, RegisteredRow
from workbench.support.errors import WorkbenchError

PLANNED_WORLDS = 10
"""Number of worlds for which the smallest detectable effect is printed."""
LARGEST_FAMILY = 6
"""Number of claims for which it is printed. The claims of the paper's Table 1 are as many."""
Lines = Mapping[str, Mapping[int, Line]]
"""Row → seed → line, in the order of the list."""


def pilot_lines(file: Path, scale: str) -> Lines:
    """Listed trainings of the pilot of a scale.

    Raises:
        WorkbenchError: a mistake in the list, more than two rows, or a row with several runs or codes.
    """
    lines: dict[str, dict[int, Line]] = {}
    versions = set()
    for line in read_lines(file).values():
        if line.scale == scale:
            lines.setdefault(line.row, {})[line.seed] = line
            versions.add((line.row, line.run, line.code))
    if not len(versions) == len(lines) <= 2:
        raise WorkbenchError(
            f"{file}: scale {scale} has more than two rows, or a row with several runs or codes; keep one pilot"
        )
    return lines


def pilot_keys(pilot: Pilot, rows: Mapping[str, RegisteredRow], scale: str) -> set[Key]:
    """Identities of the lines of a pilot if its rows have these runs and this code."""
    return {*registered_keys(Planned({id_: rows[id_] for id_ in pilot.rows}, pilot.seeds), scale)}


def measured_pilot(lines: Lines) -> Pilot | None:
    """Pilot with the spread of the listed trainings; None unless two rows have two or more worlds in common."""
    differences = _differences(lines)
    if len(differences) < 2:
        return None
    spread = statistics.stdev(differences.values())
    return Pilot(rows=tuple(lines), seeds=tuple(differences), spread=round(spread, 2))


def describe_pilot(lines: Lines) -> str:
    """Describe the rows of a pilot, and the difference of their AP within worlds, in points."""
    texts = [_row_text(id_, list(seeds.values())) for id_, seeds in lines.items()]
    differences = list(_differences(lines).values())
    if len(differences) < 2:
        return "\n".join([*texts, "The spread needs two rows with two or more worlds in common."])
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    noise = Effect(0.0, PLANNED_WORLDS, "worlds", seed_parts=((spread**2 / PLANNED_WORLDS, PLANNED_WORLDS - 1),))
    detectable = smallest_detectable(noise, LARGEST_FAMILY)
    pair = f"{' minus '.join(lines)}, {len(differences)} worlds"
    texts += [
        f"{pair}: mean {mean:+.2f} AP, standard deviation {spread:.2f} AP",
        f"MDE with {PLANNED_WORLDS} worlds and {LARGEST_FAMILY} claims: {detectable:.2f} AP",
    ]
    return "\n".join(texts)


def _differences(lines: Lines) -> dict[int, float]:
    """Seed → AP of the first row minus AP of the other row, in points; empty without two rows."""
    if len(lines) < 2:
        return {}
    first, other = lines.values()
    return {seed: _mean([first[seed]], "AP") - _mean([other[seed]], "AP") for seed in sorted({*first} & {*other})}


def _row_text(id_: str, lines: Collection[Line]) -> str:
    ap, ap50, ap75 = (_mean(lines, metric) for metric in ("AP", "AP50", "AP75"))
    ratio = ap75 / ap50 if ap50 else math.nan
    return f"{id_}, {len(lines)} worlds: AP {ap:.1f}, AP50 {ap50:.1f}, AP75/AP50 {ratio:.2f}"


def _mean(lines: Collection[Line], metric: str) -> float:
    """Mean of a metric in points; NaN if a line has none."""
    values = [line.metrics[metric] for line in lines]
    return math.nan if None in values else 100 * statistics.fmean(values)
