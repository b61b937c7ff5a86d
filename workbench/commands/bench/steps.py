"""Speed and memory of a table's training steps on this machine, with synthetic images."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import get_args

import torch

from workbench.commands.bench.speed import machine, picked_rows, write_csv
from workbench.commands.bench.timing import now
from workbench.data.batch import Batch
from workbench.data.transforms import STRIDE
from workbench.detectors import build_detector
from workbench.report.page import TableView, markdown_table
from workbench.report.tables.cells import NOTHING
from workbench.runs.folders import Run, Training
from workbench.runs.results import check_folders, scale_folder
from workbench.settings.catalog import Row, load_table
from workbench.settings.experiment import Experiment
from workbench.settings.experiment import Training as TrainingSettings
from workbench.support.provenance import device_name
from workbench.support.strict_yaml import choose
from workbench.training.log import TrainLog
from workbench.training.processes import open_fabric
from workbench.training.schedule import make_optimiser
from workbench.training.start import set_up
from workbench.training.state import Machine, TrainingState, plan_steps
from workbench.training.step import take_step

OBJECTS = 8
"""Number of objects of a synthetic image, about as many as an image of COCO has."""


def bench_steps(
    table: str, chosen: Iterable[str], scale: str, precisions: Sequence[str], steps: int, images: int, results: Path
) -> str:
    """Time training steps of rows on one device and write ``results/<scale>/speed/steps-<table>-<machine>.csv``.

    Args:
        chosen: ids of rows; if empty, one row of each network of the table.
        precisions: values of ``training.precision``.
        steps: number of timed steps; two more steps come first and are not timed.
        images: number of images of a step, 0 for the row's own batch.

    Returns:
        Table of these rows in Markdown.
    """
    known = get_args(TrainingSettings.model_fields["precision"].annotation)
    for precision in precisions:
        choose(precision, known, "precision", "--precision")
    spec, rows = load_table(table, scale)
    rows = picked_rows(table, spec, rows, list(chosen))
    if not chosen:
        rows = list({(str(row.experiment.backbone), str(row.experiment.detector)): row for row in rows}.values())
    folder = scale_folder(results, scale)
    check_folders([folder.speed])
    lines = [_line(row, precision, steps, images) for row, precision in product(rows, precisions)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = folder.speed / f"steps-{table}-{machine(device)}.csv"
    write_csv(path, lines, [f"{id_} {precision}" for id_, precision in product(spec.rows, known)])
    view = TableView(list(lines[0]), [list(line.values()) for line in lines], ["left", *["right"] * 6], notes=())
    return f"{markdown_table(view)}\n\nOn {device_name()}, one device. Written to {path}"


def _line(row: Row, precision: str, steps: int, images: int) -> dict[str, str]:
    """Line of the CSV for a row and a precision."""
    settings = row.experiment.training
    batch = images or settings.batch
    canvas = min(settings.canvas_images, batch)
    training = settings.model_copy(update={"precision": precision, "batch": batch - batch % canvas, "canvas": canvas})
    experiment = row.experiment.model_copy(update={"training": training})
    seconds, memory = time_steps(experiment, steps)
    return {
        "row": f"{row.id} {precision}",
        "image_size": str(experiment.image),
        "canvas": str(canvas),
        "images": str(training.batch),
        "step_ms": f"{1000 * seconds:.1f}",
        "images_per_second": f"{training.batch / seconds:.1f}",
        "memory_mb": NOTHING if memory is None else str(memory),
    }


def time_steps(experiment: Experiment, steps: int) -> tuple[float, int | None]:
    """Median seconds of a training step on one device, and the peak memory of a GPU in MiB."""
    fabric = open_fabric(1)
    torch.manual_seed(0)
    plan = plan_steps(experiment.training, Machine())
    detector = build_detector(experiment)
    optimiser = make_optimiser(experiment.training, detector, plan.learning_rate)
    module, optimiser = set_up(fabric, detector, optimiser, experiment.training.precision)
    training = Training(Run(Path("benchmark")), "0")
    log = TrainLog(training.growing_curves)
    state = TrainingState(fabric, experiment, training, {}, {}, plan, detector, module, optimiser, log, steps)
    detector.train()
    canvases = [synthetic_canvas(experiment, seed) for seed in range(plan.canvases)]
    if fabric.device.type == "cuda":
        canvases = [canvas.pin_memory() for canvas in canvases]
        gc.collect()  # of the network before this one
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps + 2):
        began = now(fabric.device)
        take_step(state, canvases)
        seconds.append(now(fabric.device) - began)
        state.step += 1
    memory = torch.cuda.max_memory_allocated() // 2**20 if fabric.device.type == "cuda" else None
    return statistics.median(seconds[2:]), memory


def synthetic_canvas(experiment: Experiment, seed: int) -> Batch:
    """Canvas of noise with some objects per image, of the experiment's image size, rounded up to whole strides."""
    rng = torch.Generator().manual_seed(seed)
    count = experiment.training.canvas_images
    width, height = (-(-side // STRIDE) * STRIDE for side in (experiment.image.long, experiment.image.short))
    side = torch.tensor([width, height])
    corner = torch.rand(count, OBJECTS, 2, generator=rng) * side * 0.7
    extent = (0.02 + 0.28 * torch.rand(count, OBJECTS, 2, generator=rng)) * side
    return Batch(
        images=torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=rng),
        boxes=torch.cat([corner, corner + extent], dim=-1),
        labels=torch.randint(experiment.data.classes, (count, OBJECTS), generator=rng),
        valid=torch.ones(count, OBJECTS, dtype=torch.bool),
        sizes=torch.tensor([(height, width)] * count),
        original_sizes=torch.tensor([(height, width)] * count),
        image_ids=tuple(range(count)),
        file_names=tuple(f"synthetic {number}" for number in range(count)),
    )
