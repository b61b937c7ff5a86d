"""How fast the detectors of a table are on this machine, one image at a time, beside the FPS that the paper states."""

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
from workbench.report.page import Shown, markdown_table
from workbench.report.tables.cells import NOTHING
from workbench.runs.folders import check_folders, scale_folder, seed_folder, trained_seeds
from workbench.runs.load import load_run
from workbench.settings.catalog import Row, data_folder, load_table
from workbench.settings.files import read_scale, table_place
from workbench.settings.specs import TableSpec
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_text_atomically
from workbench.support.progress import Reporter
from workbench.support.provenance import device_name, versions
from workbench.support.strict_yaml import choose

RANDOM = "random"
"""Weights of a run that has not been trained."""
MEASURED = ("image_size", "images", "weights", "load_ms", "forward_ms", "postprocess_ms", "images_per_second")
PUBLISHED = "FPS_published"


def bench_speed(
    table: str, chosen: Iterable[str], scale: str, data_root: Path | None, images: int, results: Path
) -> str:
    """Time the rows of a table, one run and variant once, and write ``results/<scale>/speed/<table>-<machine>.csv``.

    Lines of other rows in that file stay.

    Args:
        chosen: ids of rows; all that are run if there is none.
        images: how many of val2017 are timed (fewer where it has fewer), or of made-up ones where no data are at hand.

    Returns:
        The table of these rows in Markdown.

    Raises:
        WorkbenchError: unknown names, a row from the literature, data or weights that cannot be read.
    """
    spec, rows = load_table(table, scale, data_root)
    labels = _label_names(spec)
    picked = _picked(table, spec, rows, list(chosen))
    folder = scale_folder(results, scale)
    check_folders([folder / "speed"])
    data = _test_images(scale, data_root, results, images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    distinct = {(row.run, row.variant_folder): row for row in picked}
    measured: dict[tuple[str, str], tuple[Timing, str]] = {}
    with Reporter(f"speed of {table}", len(distinct)) as reporter:
        for number, (key, row) in enumerate(distinct.items(), 1):
            detector, weights = _detector(row, folder / "runs" / row.run)
            measured[key] = time_detector(detector, row.variant, data, images, device), weights
            reporter.advance(number, "detectors")
    lines = [_line(row, labels, spec, *measured[row.run, row.variant_folder]) for row in picked]
    path = folder / "speed" / f"{table}-{_machine(device)}.csv"
    _write(path, lines, list(spec.rows))
    return f"{_markdown(spec.title, lines, labels, device, made_up=data is None)}\n\nWritten to {path}"


def _test_images(scale: str, data_root: Path | None, results: Path, count: int) -> CocoDetection | None:
    """The first images of the scale's val2017; None where no data set is named, or none drawn yet."""
    spec = read_scale(scale)
    embedded = spec.data.get("kind") == "embedded"
    if not embedded and not (data_root or spec.root):
        return None
    root = data_folder(scale, results, data_root)
    if embedded and not root.is_dir():
        return None
    data = read_coco(root, "val2017", training=False, limit=count)
    for record in data.images:  # into the disk's cache, so that the first detector's times are as all others'
        with contextlib.suppress(OSError):  # told of when it is decoded
            record.path.read_bytes()
    return data


def _picked(table: str, spec: TableSpec, rows: list[Row], chosen: list[str]) -> list[Row]:
    """The rows to time, in the table's order; none of an oracle, which detects nothing without the ground truth."""
    rows = [row for row in rows if row.variant.oracle is None]
    known = [row.id for row in rows]
    for id_ in chosen:
        if id_ in spec.rows and id_ not in known:
            why = "an oracle and no detector" if spec.rows[id_].base else "from the literature and not run"
            raise WorkbenchError(f"{table_place(table)}: {id_} is {why}; leave it out")
        choose(id_, known, "row", table_place(table))
    picked = [row for row in rows if not chosen or row.id in chosen]
    if not picked:
        raise WorkbenchError(f"{table_place(table)}: all rows are from the literature, there is none to time")
    return picked


def _detector(row: Row, run: Path) -> tuple[Detector, str]:
    """A row's detector and whose weights it has: those of its first seed, published ones, or random ones."""
    which: int | str | None = next(iter(trained_seeds(run)), None)
    if which is None and (run / seed_folder("released") / "model.safetensors").is_file():
        which = "released"
    if which is None:
        torch.manual_seed(0)
        return build_detector(row.experiment), RANDOM
    return load_run(run, which).detector, seed_folder(which)


def _label_names(spec: TableSpec) -> list[str]:
    names = list(dict.fromkeys(name for row in spec.rows.values() if row.base for name in row.labels))
    if taken := {"row", *MEASURED, PUBLISHED} & set(names):
        raise WorkbenchError(f"{spec.title}: a label may not be called {min(taken)}; give it another name")
    return names


def _line(row: Row, labels: list[str], spec: TableSpec, timing: Timing, weights: str) -> dict[str, str]:
    """A line of the CSV, all of it text."""
    fps = spec.rows[row.id].fps
    said = {name: row.labels.get(name) for name in labels}
    return {
        "row": row.id,
        **{name: NOTHING if value in (None, "") else str(value) for name, value in said.items()},
        "image_size": str(row.variant.image),
        "images": str(timing.images),
        "weights": weights,
        "load_ms": NOTHING if timing.load is None else f"{timing.load:.2f}",
        "forward_ms": f"{timing.forward:.2f}",
        "postprocess_ms": f"{timing.postprocess:.2f}",
        "images_per_second": f"{timing.images_per_second:.{2 if timing.images_per_second < 10 else 1}f}",
        PUBLISHED: NOTHING if fps is None else f"{fps:g}",
    }


def _machine(device: torch.device) -> str:
    """Hardware and versions, as part of a file's name."""
    hardware = re.sub(r"[^A-Za-z0-9.]+", "_", device_name()).strip("._")[:80]
    return f"{hardware}-" + "-".join(f"{package}{version}" for package, version in _versions(device).items())


def _versions(device: torch.device) -> dict[str, str]:
    """Of torch, and of mmcv where deformable convolution is its."""
    found = {"torch": versions()["torch"]}
    if fastest_back_end(device) == "mmcv":
        found["mmcv"] = import_module("mmcv").__version__
    return found


def _write(path: Path, lines: list[dict[str, str]], order: list[str]) -> None:
    """Write the CSV, rows in ``order``; those that it held before and that are not measured now stay in it."""
    columns, kept = list(lines[0]), {}
    with contextlib.suppress(OSError, ValueError, csv.Error), path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        kept = {line["row"]: line for line in reader} if reader.fieldnames == columns else {}
    kept |= {line["row"]: line for line in lines}
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(kept[id_] for id_ in order if id_ in kept)
    write_text_atomically(path, text.getvalue())


def _markdown(title: str, lines: list[dict[str, str]], labels: list[str], device: torch.device, made_up: bool) -> str:
    """The table, and what a reader must know of it."""
    marks = {"True": "✓", "False": "", NOTHING: "–"}
    cells = [[marks.get(cell, cell.replace("|", r"\|")) for cell in line.values()] for line in lines]
    texts = {"row", "weights", "image_size", *labels}
    alignment = ["left" if name in texts else "right" for name in lines[0]]
    table = markdown_table(Shown([name.replace("_", " ") for name in lines[0]], cells, alignment, notes=()))
    machine = ", ".join([device_name(), *(f"{package} {v}" for package, v in _versions(device).items())])
    notes = [
        f"Measured on {machine}: one image at a time, medians after {WARM_UP} images that are not counted. Images per "
        "second are of forward pass and post-processing. Loading is to decode, resize, normalise and pad, and the way "
        "to the device; files were in the disk's cache. FPS published is the paper's, of COCO's images on a V100.",
    ]
    if made_up:
        height, width = NOISE
        notes.append(f"No data set is at hand: the images are noise of {width}x{height} pixels, resized.")
    if any(line["weights"] == RANDOM for line in lines):
        notes.append("With random weights hardly a score passes the threshold: post-processing looks free there.")
    return "\n\n".join([f"## {title}, speed", table, *notes])
