"""Plan of a table, before anything is started: its trainings, which are shared or done, and their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.commands.costs import (
    Memory,
    Speed,
    disk_bytes,
    epoch_images,
    find_memory,
    find_speed,
    is_rehearsal,
    passes,
    val_images,
)
from workbench.commands.on_disk import TrainingOnDisk, read_trainings
from workbench.runs.results import scale_folder
from workbench.settings.catalog import Rehearsal, Row, load_table
from workbench.settings.files import read_scale, table_names
from workbench.support.errors import WorkbenchError


@dataclass(frozen=True)
class PlannedRun:
    """Run behind rows of a table, with the cost of one training.

    Attributes:
        rows: rows of this table that use the run.
        shared: name of another table → ids of its rows that use the run.
        trainings: trainings of the run on disk, one per seed.
        epoch: number of images per epoch; None if unknown.
        speed: training speed of one device; None if unknown.
        memory: peak memory; None if unknown.
        disk: bytes on disk.
    """

    rows: Sequence[Row]
    shared: Mapping[str, Sequence[str]]
    trainings: Sequence[TrainingOnDisk]
    epoch: int | None
    speed: Speed | None
    memory: Memory | None
    disk: int

    @property
    def done(self) -> list[TrainingOnDisk]:
        """Finished trainings."""
        return [training for training in self.trainings if training.finished]

    @property
    def passes(self) -> int:
        """Passes over the training set: epochs, plus cycles of weight averaging, which have the same length."""
        return passes(self.rows[0].experiment)

    @property
    def images(self) -> int | None:
        """Number of images in all passes; None if unknown."""
        return None if self.epoch is None else self.epoch * self.passes

    @property
    def hours(self) -> float | None:
        """Hours of one training on one device; None if unknown."""
        return self.images / self.speed.images_per_second / 3600 if self.images and self.speed else None


def describe(
    table: str, scale: str, results: Path, data_root: Path | None, images_per_second: float | None = None
) -> str:
    """Describe the trainings behind a table as text: rows, state and cost of each, the total of those to do, and notes.

    Args:
        images_per_second: training speed of one device; None to use a measured speed.
    """
    if images_per_second is not None and not 0 < images_per_second < math.inf:
        raise WorkbenchError(f"--images-per-second {images_per_second:g}: not a positive number; give a number above 0")
    spec, rows = load_table(table, scale, data_root)
    if not rows:
        return f"{spec.title}\nNothing to train: all rows are from the literature."
    rehearsals = read_trainings(scale_folder(results, scale, Rehearsal(steps=1)))
    trainings = read_trainings(scale_folder(results, scale))
    root = data_root or read_scale(scale).root
    root = Path(root) if root else None
    data = rows[0].experiment.data
    epoch, tested = epoch_images(data, root), val_images(data, root)
    others = {name: load_table(name, scale, data_root)[1] for name in table_names() if name != table}
    plan = []
    for run in dict.fromkeys(row.run for row in rows):
        run_rows = [row for row in rows if row.run == run]
        experiment = run_rows[0].experiment
        plan.append(
            PlannedRun(
                rows=run_rows,
                shared={name: [row.id for row in other_rows if row.run == run] for name, other_rows in others.items()},
                trainings=[training for training in trainings if training.run == run],
                epoch=epoch,
                speed=find_speed(experiment, trainings, rehearsals, images_per_second),
                memory=find_memory(experiment, trainings, rehearsals),
                disk=disk_bytes(experiment, len({row.variant_id for row in run_rows}), tested),
            )
        )
    lines = [spec.title, f"{len(plan)} trainings (one per run) for {len(rows)} rows, scale {scale}:"]
    for planned in plan:
        lines += ["", *_block(planned)]
    lines += ["", *_totals(plan)]
    coco_assumed = data.kind == "coco" and root is None
    notes = _notes(table, scale, plan, rehearsals, coco_assumed)
    lines += ["", "Notes:", *(f"- {note}" for note in notes)] if notes else []
    return "\n".join(lines)


def _block(planned: PlannedRun) -> list[str]:
    """Return the lines of one run."""
    experiment = planned.rows[0].experiment
    training = experiment.training
    rows = ", ".join(row.id for row in planned.rows)
    shared = [f"{table} ({', '.join(ids)})" for table, ids in planned.shared.items() if ids]
    length = f"{training.epochs} epochs" + (f" and {training.swa.cycles} SWA cycles" if training.swa else "")
    if planned.epoch:
        length += f" of {planned.epoch:,} images ({_count(planned.images)} in total)"
    size = str(experiment.image)
    if training.image_range:
        size = "x".join(_range(*ends) for ends in (training.image_range.long, training.image_range.short))
    return [
        f"{planned.rows[0].run}: {_state(planned)}",
        f"    rows      {rows}" + (f"; shared with {', '.join(shared)}" if shared else ""),
        f"    training  {length}, batch {training.batch}, image size {size}",
        f"    time      {_time(planned)}",
        f"    memory    {_memory(planned.memory)}",
        f"    disk      {_bytes(planned.disk)}",
    ]


def _state(planned: PlannedRun) -> str:
    parts = []
    if planned.done:
        parts.append(f"done: {', '.join(training.seed for training in planned.done)}")
    for training in planned.trainings:
        if not training.finished:
            epoch = "" if training.epoch is None else f", epoch {training.epoch + 1} of {planned.passes}"
            parts.append(f"in progress: {training.seed}{epoch}")
    return "; ".join(parts) or "not trained"


def _time(planned: PlannedRun) -> str:
    if planned.done:
        first = planned.done[0]
        return f"{'unknown' if first.seconds is None else _hours(first.seconds / 3600)}, measured ({first.place})"
    if planned.hours is None:
        return "unknown"
    speed = planned.speed
    return f"{_hours(planned.hours)} at {speed.images_per_second:.3g} images per second ({speed.source})"


def _memory(memory: Memory | None) -> str:
    return "unknown" if memory is None else f"peak {memory.mb:,} MiB ({memory.source})"


def _totals(plan: Sequence[PlannedRun]) -> list[str]:
    """Return the lines with the total cost of the trainings that are not done; memory is the maximum of all runs."""
    to_do = [planned for planned in plan if not planned.done]
    hours = [planned.hours for planned in to_do if planned.hours is not None]
    unknown = len(to_do) - len(hours)
    time = f"{sum(hours):,.0f}" if sum(hours) >= 10 else f"{sum(hours):.2g}"
    if unknown:
        time = f"{time} for {len(hours)} trainings, unknown for {unknown}" if hours else "unknown"
    measured = [planned.memory for planned in plan if planned.memory]
    memory = _memory(max(measured, key=lambda memory: (memory.whole_batch, memory.mb), default=None))
    if 0 < len(measured) < len(plan):
        memory += f"; unknown for {len(plan) - len(measured)} trainings"
    return [
        f"To do: {len(to_do)} of {len(plan)} trainings",
        f"    GPU-hours  {time if to_do else 0}",
        f"    memory     {memory}",
        f"    disk       {_bytes(sum(planned.disk for planned in to_do))}",
    ]


def _notes(
    table: str, scale: str, plan: Sequence[PlannedRun], rehearsals: Sequence[TrainingOnDisk], coco_assumed: bool
) -> list[str]:
    """Return the assumptions of the numbers, and how to get the missing numbers."""
    notes = []
    to_do = [planned for planned in plan if not planned.done]
    if any(planned.hours for planned in to_do):
        notes.append(
            "Hours are for the training steps of one seed on one device; validation and detection take extra time."
        )
    if plan[0].epoch is None:
        notes.append("The number of images per epoch is unknown; give --data-root.")
    elif coco_assumed:
        notes.append(f"{plan[0].epoch:,} images per epoch are assumed, as in COCO; give --data-root to count them.")
    config = f"--config scale={scale}" + (" data_root=FOLDER" if plan[0].rows[0].experiment.data.kind == "coco" else "")
    if any(planned.speed is None for planned in to_do):
        notes.append(
            "The number of images per second is unknown; give --images-per-second, or measure it: start a training "
            f"(snakemake --cores all {to_do[0].rows[0].id} {config}), stop it after some minutes, and repeat this "
            "command. The training resumes later."
        )
    if any(planned.speed is None and _rehearsed(planned, rehearsals) for planned in to_do):
        notes.append("The speed of rehearsals is not used: a step of one image takes more time per image.")
    if any(planned.memory is None for planned in plan):
        notes.append(
            "To measure the memory for one image per step, run a rehearsal: "
            f"snakemake --cores all {table} {config} limit_steps=2 limit_images=4."
        )
    if coco_assumed:
        notes.append("Run ids are provisional, since they depend on the annotations; give --data-root.")
    return notes


def _rehearsed(planned: PlannedRun, rehearsals: Sequence[TrainingOnDisk]) -> bool:
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
