"""Speed of a table's detectors on this machine, one image at a time, next to the FPS that the paper states."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import torch

from workbench.commands.bench.timing import NOISE, WARM_UP, Timing, time_detector
from workbench.data.coco import CocoDetection, read_coco
from workbench.detectors import Detector, build_detector
from workbench.layers.deform import fastest_back_end
from workbench.report.page import TableView, markdown_table
from workbench.report.tables.cells import NOTHING
from workbench.report.text import LETTERS, csv_text, markdown
from workbench.runs.find import data_folder
from workbench.runs.folders import Run
from workbench.runs.load import load_training
from workbench.runs.results import check_folders, scale_folder
from workbench.settings.catalog import Row, load_table
from workbench.settings.digest import VAL
from workbench.settings.files import read_scale, table_place
from workbench.settings.specs import TableSpec
from workbench.support.arithmetic import set_precision
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_text_atomically
from workbench.support.progress import Reporter
from workbench.support.provenance import device_name, versions
from workbench.support.strict_yaml import choose

RANDOM = "random"
"""Name for the weights of a run that has not been trained."""
MEASURED = ("image_size", "images", "weights", "load_ms", "forward_ms", "postprocess_ms", "images_per_second")
PUBLISHED = "FPS_published"


def bench_speed(
    table: str, chosen: Iterable[str], scale: str, data_root: Path | None, images: int, results: Path
) -> str:
    """Time the rows of a table and write ``results/<scale>/speed/<table>-<machine>.csv``.

    Rows with the same run and variant are timed once. Lines of other rows in the file are kept.

    Args:
        chosen: ids of rows; if empty, all rows that are run.
        images: number of images of val2017 to time (at most all of them); without data, number of noise images.

    Returns:
        Table of these rows in Markdown.

    Raises:
        WorkbenchError: a name is unknown, a row is from the literature, or data or weights cannot be read.
    """
    spec, rows = load_table(table, scale, data_root)
    labels = _label_names(spec)
    picked = picked_rows(table, spec, rows, list(chosen))
    folder = scale_folder(results, scale)
    check_folders([folder.speed])
    data = _test_images(scale, data_root, results, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    distinct = {(row.run, row.variant_id): row for row in picked}
    measured: dict[tuple[str, str], tuple[Timing, str]] = {}
    with Reporter(f"speed of {table}", len(distinct)) as reporter:
        for number, (key, row) in enumerate(distinct.items(), 1):
            detector, weights = _detector(row, folder.run(row.run))
            set_precision(row.experiment.training.detection_precision)
            measured[key] = time_detector(detector, row.variant, data, images, device), weights
            reporter.advance(number, "detectors")
    lines = [_line(row, labels, spec, *measured[row.run, row.variant_id]) for row in picked]
    path = folder.speed / f"{table}-{machine(device)}.csv"
    write_csv(path, lines, list(spec.rows))
    return f"{_markdown(spec.title, lines, labels, device, noise=data is None)}\n\nWritten to {path}"


def _test_images(scale: str, data_root: Path | None, results: Path, count: int) -> CocoDetection | None:
    """Return the first images of the scale's val2017; None if no data set is named, or if it is not drawn yet."""
    spec = read_scale(scale)
    embedded = spec.data.get("kind") == "embedded"
    if not embedded and not (data_root or spec.root):
        return None
    root = data_folder(scale, results, data_root)
    if embedded and not root.is_dir():
        return None
    data = read_coco(root, VAL, training=False, limit=count)
    for record in data.images:  # fill the disk cache, so that all detectors have the same loading time
        with contextlib.suppress(OSError):  # decoding reports the error later
            record.path.read_bytes()
    return data


def picked_rows(table: str, spec: TableSpec, rows: list[Row], chosen: list[str]) -> list[Row]:
    """Return the rows to time, in the table's order, without oracles, which need the ground truth."""
    rows = [row for row in rows if row.variant.oracle is None]
    ids = [row.id for row in rows]
    for id_ in chosen:
        if id_ in spec.rows and id_ not in ids:
            reason = "an oracle, not a detector" if spec.rows[id_].base else "from the literature"
            raise WorkbenchError(f"{table_place(table)}: {id_} is {reason}; remove it from --row")
        choose(id_, ids, "row", table_place(table))
    picked = [row for row in rows if not chosen or row.id in chosen]
    if not picked:
        raise WorkbenchError(
            f"{table_place(table)}: all rows are from the literature; name a table with rows that are run"
        )
    return picked


def _detector(row: Row, run: Run) -> tuple[Detector, str]:
    """Return a row's detector and the name of its weights: first trained seed, else published, else random weights."""
    training = next(iter(run.finished_trainings()), None)
    if training is None:
        torch.manual_seed(0)
        return build_detector(row.experiment), RANDOM
    return load_training(training).detector, training.name


def _label_names(spec: TableSpec) -> list[str]:
    names = list(dict.fromkeys(name for row in spec.rows.values() if row.base for name in row.labels))
    if clashes := {"row", *MEASURED, PUBLISHED} & set(names):
        raise WorkbenchError(f"{spec.title}: {min(clashes)} is the name of a column; rename the label")
    return names


def _line(row: Row, labels: list[str], spec: TableSpec, timing: Timing, weights: str) -> dict[str, str]:
    """Return a line of the CSV; all values are text."""
    fps = spec.rows[row.id].fps
    values = {name: row.labels.get(name) for name in labels}
    return {
        "row": row.id,
        **{name: NOTHING if value in (None, "") else str(value) for name, value in values.items()},
        "image_size": str(row.variant.image),
        "images": str(timing.images),
        "weights": weights,
        "load_ms": NOTHING if timing.load is None else f"{timing.load:.2f}",
        "forward_ms": f"{timing.forward:.2f}",
        "postprocess_ms": f"{timing.postprocess:.2f}",
        "images_per_second": f"{timing.images_per_second:.{2 if timing.images_per_second < 10 else 1}f}",
        PUBLISHED: NOTHING if fps is None else f"{fps:g}",
    }


def machine(device: torch.device) -> str:
    """Return hardware and versions as part of a file name."""
    hardware = re.sub(r"[^A-Za-z0-9.]+", "_", device_name()).strip("._")[:80]
    return f"{hardware}-" + "-".join(f"{package}{version}" for package, version in _versions(device).items())


def _versions(device: torch.device) -> dict[str, str]:
    """Return the version of torch, and of mmcv if it is the back end of deformable convolution."""
    packages = {"torch": versions()["torch"]}
    if fastest_back_end(device) == "mmcv":
        packages["mmcv"] = import_module("mmcv").__version__
    return packages


def write_csv(path: Path, lines: list[dict[str, str]], order: list[str]) -> None:
    """Write the CSV with rows in ``order``; rows of an existing file that are not measured now are kept."""
    lines = [{csv_text(name): csv_text(value) for name, value in line.items()} for line in lines]
    columns, kept = list(lines[0]), {}
    with contextlib.suppress(OSError, ValueError, csv.Error), path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        kept = {line["row"]: line for line in reader} if reader.fieldnames == columns else {}
    kept |= {line["row"]: line for line in lines}
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept[id_] for id_ in map(csv_text, order) if id_ in kept)
    write_text_atomically(path, text.getvalue())


def _markdown(title: str, lines: list[dict[str, str]], labels: list[str], device: torch.device, noise: bool) -> str:
    """Return the table and its notes."""
    marks = {"True": "✓", "False": "", NOTHING: "–"}
    cells = [[marks[cell] if cell in marks else markdown(cell, LETTERS) for cell in line.values()] for line in lines]
    texts = {"row", "weights", "image_size", *labels}
    alignment = ["left" if name in texts else "right" for name in lines[0]]
    table = markdown_table(TableView([name.replace("_", " ") for name in lines[0]], cells, alignment, notes=()))
    machine = ", ".join([device_name(), *(f"{package} {v}" for package, v in _versions(device).items())])
    notes = [
        f"Measured on {machine}: one image at a time, medians after {WARM_UP} images of warm-up. Images per second "
        "include forward pass and post-processing. Loading: decode, resize, pad, copy to the device and normalise. "
        "Files are in the disk cache. FPS published is the paper's, measured on COCO's images with a V100.",
    ]
    if noise:
        height, width = NOISE
        notes.append(f"No data set is available: the images are noise of {width}x{height} pixels, resized.")
    if any(line["weights"] == RANDOM for line in lines):
        notes.append("With random weights few scores pass the threshold, so post-processing takes almost no time.")
    return "\n\n".join([f"## {markdown(title)}, speed", table, *notes])
