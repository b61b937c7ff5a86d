"""What a table will take, said before anyone starts: its trainings, which are shared or done, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.commands.costs import (
    Memory,
    Speed,
    TrainingOnDisk,
    disk_bytes,
    epoch_images,
    find_memory,
    find_speed,
    is_rehearsal,
    read_trainings,
    val_images,
)
from workbench.runs.folders import scale_folder
from workbench.settings.catalog import Rehearsal, Row, load_table
from workbench.settings.files import read_scale, table_names
from workbench.support.errors import WorkbenchError


@dataclass(frozen=True)
class Planned:
    """A training behind a table.

    Attributes:
        rows: that it serves, all of this table.
        shared: rows of other tables, in words.
        trainings: what there is of it on disk, a training a seed.
        epoch: images of an epoch.
        disk: bytes.
    """

    rows: Sequence[Row]
    shared: Sequence[str]
    trainings: Sequence[TrainingOnDisk]
    epoch: int | None
    speed: Speed | None
    memory: Memory | None
    disk: int

    @property
    def done(self) -> list[TrainingOnDisk]:
        return [training for training in self.trainings if training.finished]

    @property
    def passes(self) -> int:
        """Over the training set: epochs, and cycles of weight averaging, which are as long."""
        settings = self.rows[0].experiment.training
        return settings.epochs + (settings.swa.cycles if settings.swa else 0)

    @property
    def images(self) -> int | None:
        """Seen in all."""
        return None if self.epoch is None else self.epoch * self.passes

    @property
    def hours(self) -> float | None:
        """Of one device, from its start to its end."""
        return self.images / self.speed.images_per_second / 3600 if self.images and self.speed else None


def describe(
    table: str, scale: str, results: Path, data_root: Path | None, images_per_second: float | None = None
) -> str:
    """Some lines of text: each training of a table, the rows it serves here and elsewhere, what is done of it and what
    it costs; then the sums over those to do.

    Args:
        images_per_second: of one device in training; what was measured here is taken if None.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise WorkbenchError(f"--images-per-second {images_per_second:g}: give a number above 0")
    spec, rows = load_table(table, scale, data_root)
    if not rows:
        return f"{spec.title}\nNothing to train: all rows are from the literature."
    rehearsals = read_trainings(scale_folder(results, scale, Rehearsal(steps=1)))
    trainings = read_trainings(scale_folder(results, scale))
    given_root = data_root or read_scale(scale).root
    root = Path(given_root) if given_root else None
    data = rows[0].experiment.data
    epoch, tested = epoch_images(data, root), val_images(data, root)
    others = [row for name in table_names() if name != table for row in load_table(name, scale, data_root)[1]]
    plan = []
    for run in dict.fromkeys(row.run for row in rows):
        mine = [row for row in rows if row.run == run]
        experiment = mine[0].experiment
        plan.append(
            Planned(
                rows=mine,
                shared=[f"{row.table} ({row.id})" for row in others if row.run == run],
                trainings=[training for training in trainings if training.run == run],
                epoch=epoch,
                speed=find_speed(experiment, trainings, rehearsals, images_per_second),
                memory=find_memory(experiment, trainings, rehearsals),
                disk=disk_bytes(experiment, len({row.variant_folder for row in mine}), tested),
            )
        )
    lines = [spec.title, f"{len(plan)} trainings at scale {scale} for {len(rows)} rows:"]
    for planned in plan:
        lines += _block(planned)
    lines += _totals(plan)
    assumed = data.kind == "coco" and root is None
    lines += _notes(table, scale, plan, rehearsals, assumed)
    return "\n".join(lines)


def _block(planned: Planned) -> list[str]:
    experiment = planned.rows[0].experiment
    training = experiment.training
    rows = ", ".join(row.id for row in planned.rows)
    shared = f"; shared with {', '.join(planned.shared)}" if planned.shared else ""
    passes = f"{training.epochs} epochs" + (f" + {training.swa.cycles} SWA cycles" if training.swa else "")
    if planned.epoch:
        passes += f" of {planned.epoch:,} images ({_count(planned.images)} in all)"
    size = str(experiment.image)
    if training.image_range:
        size = "x".join(_range(*ends) for ends in (training.image_range.long, training.image_range.short))
    return [
        f"  {planned.rows[0].run}: {_state(planned)}",
        f"    rows      {rows}{shared}",
        f"    training  {passes}, batch {training.batch}, images {size}",
        f"    cost      {_time(planned)}; {_memory(planned.memory)}; {_bytes(planned.disk)} of disk",
    ]


def _state(planned: Planned) -> str:
    said = []
    if planned.done:
        said.append(f"done: {', '.join(training.seed for training in planned.done)}")
    for training in planned.trainings:
        if not training.finished:
            epoch = "" if training.epoch is None else f", epoch {training.epoch + 1} of {planned.passes}"
            said.append(f"under way: {training.seed}{epoch}")
    return "; ".join(said) or "not trained"


def _time(planned: Planned) -> str:
    if planned.done:
        first = planned.done[0]
        return f"took {'an unknown time' if first.seconds is None else _hours(first.seconds / 3600)} ({first.place})"
    if planned.hours is None:
        return "time unknown"
    speed = planned.speed
    return f"{_hours(planned.hours)} at {speed.images_per_second:.3g} images/s ({speed.source})"


def _memory(memory: Memory | None) -> str:
    return "peak memory unknown" if memory is None else f"peak memory {memory.mb:,} MB ({memory.source})"


def _totals(plan: Sequence[Planned]) -> list[str]:
    to_do = [planned for planned in plan if not planned.done]
    hours = [planned.hours for planned in to_do if planned.hours is not None]
    unknown = len(to_do) - len(hours)
    time = f"{sum(hours):,.0f}" if sum(hours) >= 10 else f"{sum(hours):.2g}"
    if unknown:
        time = f"{time} for {len(hours)} of them, unknown for {unknown}" if hours else "unknown"
    known = [planned.memory for planned in plan if planned.memory]
    most = max(known, key=lambda memory: (memory.whole_batch, memory.mb), default=None)
    lacking = f"; unknown for {len(plan) - len(known)}" if known and len(known) < len(plan) else ""
    return [
        f"To do: {len(to_do)} of {len(plan)} trainings",
        f"    GPU-hours    {time if to_do else 0}",
        f"    peak memory  {'unknown' if most is None else f'{most.mb:,} MB ({most.source}){lacking}'}",
        f"    disk         {_bytes(sum(planned.disk for planned in to_do))}",
    ]


def _notes(
    table: str, scale: str, plan: Sequence[Planned], rehearsals: Sequence[TrainingOnDisk], assumed: bool
) -> list[str]:
    """What the numbers rest on, and how to get those that are missing."""
    notes = []
    to_do = [planned for planned in plan if not planned.done]
    if any(planned.hours for planned in to_do):
        notes.append("Hours are of one device and one seed, in training steps; validation and detection come on top.")
    if plan[0].epoch is None:
        notes.append("How many images an epoch has is not known: give --data-root.")
    elif assumed:
        notes.append(f"{plan[0].epoch:,} images an epoch are assumed, COCO's; with --data-root they are counted.")
    config = f"--config scale={scale}" + (" data_root=FOLDER" if plan[0].rows[0].experiment.data.kind == "coco" else "")
    if any(planned.speed is None for planned in to_do):
        notes.append(
            "Images a second are not known: give --images-per-second, or start a training, for instance with "
            f"snakemake --cores all {to_do[0].rows[0].id} {config}, stop it after some minutes (it will go on from "
            "there) and ask again."
        )
    if any(planned.speed is None and _rehearsed(planned, rehearsals) for planned in to_do):
        notes.append("Images a second of rehearsals are left out: a step of one image takes more time an image.")
    if any(planned.memory is None for planned in plan):
        notes.append(
            "A rehearsal measures the memory for one image a step: "
            f"snakemake --cores all {table} {config} limit_steps=2 limit_images=4."
        )
    if assumed:
        notes.append("The ids are provisional: give --data-root, the annotations are part of them.")
    return notes


def _rehearsed(planned: Planned, rehearsals: Sequence[TrainingOnDisk]) -> bool:
    return any(is_rehearsal(rehearsal.experiment, planned.rows[0].experiment) for rehearsal in rehearsals)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _count(images: int) -> str:
    return f"{images / 1e6:.2f} million" if images >= 1e6 else f"{images:,}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
