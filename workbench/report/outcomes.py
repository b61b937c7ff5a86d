"""Tables and figures of the results that exist.

Heavy packages are imported only when they are needed, because the Snakefile imports this module at each start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.report.measured import (
    metrics_by_seed,
    read_ranking,
    refuse_fewer,
    resamples_by_seed,
    results_folder,
    shown_trainings,
)
from workbench.runs.find import data_folder, on_test
from workbench.runs.results import ScaleFolder
from workbench.settings.catalog import Row, load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.data import is_coco
from workbench.settings.files import read_table
from workbench.settings.released import published_on_val2017, reported_by
from workbench.settings.specs import RowSpec, TableSpec
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_text_atomically

if TYPE_CHECKING:
    import pandas

    from workbench.evaluation.intervals import Bootstrap
    from workbench.report.tables.cells import TableRow


def make_table(name: str, settings: PipelineConfig, results: Path) -> str:
    """Write ``tables/<name>.csv``, ``.md`` and ``.html`` from the evaluations that exist.

    With ``split=test``, Markdown and HTML have a second block, and its CSV is ``tables/<name>.test.csv``.

    Returns:
        Markdown of the table.

    Raises:
        WorkbenchError: a result does not belong, or the existing table shows more trainings.
    """
    from workbench.report.page import page, sectioned_page
    from workbench.report.tables.render import blocks_markdown, table_markdown, table_view

    spec, rows = load_table(name, settings.scale, settings.data_root, settings.rehearsal, settings.init)
    folder = results_folder(settings, results)

    def read(row: Row) -> tuple[Sequence[dict[str, Any]], Sequence[Bootstrap]]:
        measured, resamples = metrics_by_seed(folder, row, settings), resamples_by_seed(folder, row, settings)
        return tuple(measured.values()), tuple(resamples[seed] for seed in measured if seed in resamples)

    lines = table_rows(spec, rows, read)
    title = f"{spec.title}, scale {folder.name}"
    on_coco = not rows or is_coco(rows[0].experiment.data)
    file, view = folder.table(name), table_view(lines, on_coco)
    files = {file: lines}
    if settings.split == "test" and rows:
        rows = on_test(rows, data_folder(settings.scale, results, settings.data_root))
        files[folder.test_table(name)] = tested = _measured_alone(table_rows(spec, rows, read))
        blocks = {"val": view, "test": table_view(tested, on_coco=False)}
        text, html = blocks_markdown(title, blocks), sectioned_page(title, [], blocks, [], {})
    else:
        text, html = table_markdown(title, lines, on_coco), page(title, view)
    _write_csv(files)
    write_text_atomically(file.with_suffix(".md"), text)
    write_text_atomically(file.with_suffix(".html"), html)
    return text


def _write_csv(files: Mapping[Path, Sequence[TableRow]]) -> None:
    """Write the CSV of each block of a table; raise, and write none, if an existing file shows more trainings."""
    from workbench.report.tables.cells import number_of_seeds
    from workbench.report.tables.render import table_csv

    for file, lines in files.items():
        refuse_fewer(file, "row", {line.row: len(line.measured) for line in lines}, number_of_seeds)
    for file, lines in files.items():
        write_text_atomically(file, table_csv(lines))


def _measured_alone(lines: Iterable[TableRow]) -> list[TableRow]:
    """Rows that are run, without published metrics, which are of other images than a test split's.

    Known differences from the published training are noted below the block of val.
    """
    return [replace(line, published={}, differences=()) for line in lines if line.run]


def table_rows(
    spec: TableSpec,
    rows: Iterable[Row],
    read: Callable[[Row], tuple[Sequence[dict[str, Any]], Sequence[Bootstrap]]],
) -> list[TableRow]:
    """Rows of a table with their measurements, among them the rows from the literature.

    Args:
        rows: rows that are run.
        read: function that returns the metrics of each training of a row, and their resamples; see ``TableRow``.
    """
    from workbench.report.tables.cells import TEST_DEV, TableRow
    from workbench.report.tables.known_differences import known_differences
    from workbench.report.tables.training_notes import on_published_weights, on_start

    resolved = {row.id: row for row in rows}
    on_val2017 = published_on_val2017() if spec.split == TEST_DEV else {}
    lines = []
    for id_, row_spec in spec.rows.items():
        published = _published(row_spec, TEST_DEV if spec.split == TEST_DEV else None, on_val2017.get(id_))
        line = TableRow(id_, row_spec.labels, published, "", row_spec.note)
        if row := resolved.get(id_):
            measured, bootstraps = read(row)
            weights = on_published_weights(measured, reported_by(id_)), on_start(measured, row.experiment)
            line = replace(
                line,
                run=row.run,
                note="; ".join(filter(None, [row_spec.note, *weights])),
                measured=tuple(measured),
                bootstraps=tuple(bootstraps),
                compared_with=spec.reference(id_) or "",
                differences=known_differences(row.experiment),
                worlds=row.experiment.data.per_seed,
            )
        lines.append(line)
    return lines


def _published(row: RowSpec, split: str | None, on_val2017: float | None) -> dict[str, float]:
    """Published metrics of a row. Metrics of a split that is not measured get the split as a suffix."""
    published = {f"{metric}_{split}" if split else metric: value for metric, value in row.published.items()}
    if on_val2017 is not None:
        published["AP"] = on_val2017
    if row.fps:
        published["FPS"] = row.fps
    return published


FIGURES = ("loss", "ranking", "ap")
"""Kinds of figures of a table."""


def draw_figure(name: str, kind: str, settings: PipelineConfig, results: Path) -> None:
    """Draw ``figures/<name>_<kind>.png`` and ``.pdf``.

    Args:
        kind: "loss" for the loss curves of the trainings, "ranking" for the scores of each training against IoU, "ap"
            for the AP of the rows as dots.

    Raises:
        WorkbenchError: there is nothing to draw yet.
    """
    from workbench.report.figures.curves import draw_loss_curves
    from workbench.report.figures.ranking import draw_rankings

    folder = results_folder(settings, results)
    png = folder.figure(name, kind)
    files = png, png.with_suffix(".pdf")
    if kind == "ap":
        draw_table(name, folder, *files)
        return
    draw, title = (draw_rankings, "Score against IoU") if kind == "ranking" else (draw_loss_curves, "Training")
    frames = _frames(name, kind, settings, folder)
    if not frames:
        target = f"{name}_ranking" if kind == "ranking" else name
        raise WorkbenchError(f"{name}: nothing to draw at scale {settings.scale} yet; run snakemake {target}")
    draw(frames, *files, f"{title}, {name}, scale {folder.name}")


def draw_table(name: str, folder: ScaleFolder, out_png: Path, out_pdf: Path) -> None:
    """Draw the measured and published AP of a table's rows as dots."""
    import matplotlib

    from workbench.report.figures.dots import ap_figure
    from workbench.report.figures.style import STYLE, write_figure
    from workbench.report.tables.cells import told_apart
    from workbench.report.tables.read import read_table_file

    path = folder.table(name)
    if not path.is_file():
        raise WorkbenchError(f"{path}: no such table; run snakemake {name}")
    table = read_table_file(path)
    table.index = told_apart(_in_words(name, table["row"], table.index), table["row"])
    with matplotlib.rc_context(STYLE):
        write_figure(ap_figure(name, table), out_png, out_pdf)


def _in_words(table: str, ids: Iterable[str], labels: Iterable[str]) -> list[str]:
    """Names of rows that their table's file states; in place of a missing name, the labels in words."""
    rows = read_table(table).rows
    return [rows[id_].name or label if id_ in rows else label for id_, label in zip(ids, labels, strict=True)]


def _frames(name: str, kind: str, settings: PipelineConfig, folder: ScaleFolder) -> dict[str, list[pandas.DataFrame]]:
    """Data of a figure: name of a run in the legend → one data frame per training with a file."""
    from workbench.report.tables.cells import row_names, told_apart
    from workbench.report.tables.read import read_log

    _, rows = load_table(name, settings.scale, settings.data_root, settings.rehearsal, settings.init)
    first = {row.run: row for row in reversed(rows)}
    ordered = [row for row in rows if first[row.run] is row]
    labels = row_names([row.labels for row in ordered])
    # If the labels of a row do not identify its run, the name is the detector's title.
    names = [label or row.experiment.detector.title for row, label in zip(ordered, labels, strict=True)]
    frames = {}
    for row, name in zip(ordered, told_apart(names, [row.id for row in ordered]), strict=True):
        trainings = shown_trainings(folder, row, settings)
        if kind == "ranking":
            evaluations = [folder.ranking(row, training.seed) for training in trainings]
            drawn = [read_ranking(evaluation) for evaluation in evaluations if evaluation.ranking.is_file()]
        else:
            drawn = [read_log(training.curves) for training in trainings if training.curves.is_file()]
        if drawn:
            frames[name] = drawn
    return frames


def settings_digest(name: str, rows: Iterable[Row]) -> str:
    """Digest of a table's content without the measured metrics.

    The evaluation's folder of seed 0 represents the folders of all seeds, since the run's name states the data's rule.
    """
    spec = read_table(name)
    stated = [[id_, r.labels, r.published, r.fps, r.note, *filter(None, [r.name])] for id_, r in spec.rows.items()]
    compared = [spec.reference(id_) for id_ in spec.rows]
    content = [spec.title, spec.split, stated, compared, [[r.id, r.run, r.evaluation_folder(0)] for r in rows]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
