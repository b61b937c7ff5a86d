"""What the pipeline ends in: tables and figures of whatever has been measured, and what notebooks read of it.

Nothing heavy is imported before it is needed: the Snakefile reads this each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.runs.folders import bootstrap_file, metrics_file, scale_folder, seed_folder
from workbench.settings.catalog import Row, load_table
from workbench.settings.config import PipelineConfig
from workbench.settings.data import is_coco
from workbench.settings.files import read_table
from workbench.settings.released import published_on_val2017, trainings_of
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json, write_text_atomically

if TYPE_CHECKING:
    import pandas


def make_table(name: str, settings: PipelineConfig, results: Path) -> str:
    """Write ``tables/<name>.csv``, ``.md`` and ``.html`` of whatever has been measured; returns the Markdown."""
    from workbench.evaluation.intervals import read_bootstrap
    from workbench.report.page import page
    from workbench.report.tables.render import TEST_DEV, TableRow, table_markdown, table_view, write_table

    spec, rows = load_table(name, settings.scale, settings.data_root, settings.rehearsal)
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    resolved = {row.id: row for row in rows}
    trainings = trainings_of(rows, settings)
    on_val2017 = published_on_val2017() if spec.split == TEST_DEV else {}
    lines = []
    for id_, stated in spec.rows.items():
        published = dict(stated.published)
        if spec.split == TEST_DEV:
            published = {f"{metric}_{TEST_DEV}": value for metric, value in published.items()}
        if id_ in on_val2017:
            published["AP"] = on_val2017[id_]
        if stated.fps:
            published["FPS"] = stated.fps
        line = TableRow(id_, stated.labels, published, "", stated.note)
        if row := resolved.get(id_):
            files = [metrics_file(folder, row, training) for training in trainings[row.run]]
            files = [file for file in files if file.is_file()]
            line = replace(
                line,
                run=row.run,
                measured=tuple(read_json(file, "metrics") for file in files),
                bootstraps=tuple(read_bootstrap(file) for file in map(bootstrap_file, files) if file.is_file()),
                compared_with=spec.reference(id_) or "",
            )
        lines.append(line)
    title = f"{spec.title}, scale {folder.name}"
    on_coco = not rows or is_coco(rows[0].experiment.data)
    base = folder / "tables" / name
    write_table(title, lines, base.with_suffix(".csv"), base.with_suffix(".md"), on_coco)
    write_text_atomically(base.with_suffix(".html"), page(title, table_view(lines, on_coco)))
    return table_markdown(title, lines, on_coco)


FIGURES = {"loss": "train.csv", "ranking": "ranking.csv"}
"""What is drawn of a table's trainings, and the file of each that holds it."""


def draw_figure(name: str, kind: str, settings: PipelineConfig, results: Path) -> None:
    """Draw ``figures/<name>_<kind>.png`` and ``.pdf``.

    Args:
        kind: "loss" for the curves of a table's trainings, "ranking" for the score of each against IoU, "ap" for the
            table itself as bars.

    Raises WorkbenchError where there is nothing to draw yet.
    """
    from workbench.report.figures.curves import draw_loss_curves
    from workbench.report.figures.ranking import draw_rankings

    folder = scale_folder(results, settings.scale, settings.rehearsal)
    base = folder / "figures" / f"{name}_{kind}"
    files = base.with_suffix(".png"), base.with_suffix(".pdf")
    if kind == "ap":
        draw_table(name, folder, *files)
        return
    draw, title = (draw_rankings, "Score against IoU") if kind == "ranking" else (draw_loss_curves, "Training")
    frames = _frames(name, kind, settings, folder)
    if not frames:
        target = f"{name}_ranking" if kind == "ranking" else name
        raise WorkbenchError(
            f"{name}: no row of it has a {FIGURES[kind]} at scale {settings.scale}; run snakemake {target}"
        )
    draw(frames, *files, f"{title}, {name}, scale {folder.name}")


def draw_table(name: str, folder: Path, out_png: Path, out_pdf: Path) -> None:
    """Draw the AP of a table's rows, measured and published, as bars."""
    import matplotlib

    from workbench.report.figures.bars import ap_figure
    from workbench.report.figures.style import STYLE, write_figure
    from workbench.report.tables.read import read_table_file

    path = folder / "tables" / f"{name}.csv"
    if not path.is_file():
        raise WorkbenchError(f"{path}: no such table; run snakemake {name}")
    with matplotlib.rc_context(STYLE):
        write_figure(ap_figure(name, read_table_file(path)), out_png, out_pdf)


def _frames(name: str, kind: str, settings: PipelineConfig, folder: Path) -> dict[str, list[pandas.DataFrame]]:
    """What was written of each run of a table, a frame for each seed that has some, by the run's name in a legend."""
    import pandas

    from workbench.report.tables.cells import row_names

    _, rows = load_table(name, settings.scale, settings.data_root, settings.rehearsal)
    trainings = trainings_of(rows, settings)
    first = {row.run: row for row in reversed(rows)}
    ordered = [row for row in rows if first[row.run] is row]
    names = row_names([row.labels for row in ordered])
    found = {}
    for row, words in zip(ordered, names, strict=True):
        files = [folder / "runs" / row.run / seed_folder(training) / FIGURES[kind] for training in trainings[row.run]]
        frames = [pandas.read_csv(path) for path in files if path.is_file()]
        if frames:  # a row whose labels say nothing of the run is called by its detector
            found[words or row.experiment.detector.title] = frames
    return found


def settings_digest(name: str, rows: Iterable[Row]) -> str:
    """Of what a table says besides its metrics; another one when that changes."""
    spec = read_table(name)
    stated = [[id_, r.labels, r.published, r.fps, r.note] for id_, r in spec.rows.items()]
    compared = [spec.reference(id_) for id_ in spec.rows]
    said = [spec.title, spec.split, stated, compared, [[r.id, r.run, r.variant_folder] for r in rows]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def read_by_notebook(
    name: str,
    folder: Path,
    tables: Mapping[str, list[Row]],
    trainings: Mapping[str, list[int | str]],
    targets: Iterable[str],
) -> list[str]:
    """What a notebook shows if it is there, for its rule: tables, or a trained VFNet.

    A notebook makes nothing. What the ``targets`` of this call make anyway it waits for; what lies there already is an
    input by its absolute path, which no rule makes, so that nothing is made anew because a notebook wants it.
    """
    makers: dict[str, set[str]] = {}
    if name == "results":
        makers = {f"{folder}/tables/{table}.csv": {"all", "tables", "figures", table} for table in tables}
    if name == "star_points":
        run = next(row.run for row in tables["table3"] if row.id == "t3_full_vfl")
        users = {word for table, rows in tables.items() for row in rows if row.run == run for word in (table, row.id)}
        file = f"{folder}/runs/{run}/{seed_folder(trainings[run][0])}/model.safetensors"
        makers = {file: {"all", "tables", "figures", *users}}
    asked = set(targets)
    found = []
    for file, known in makers.items():
        if asked & {*known, file}:
            found.append(file)
        elif Path(file).is_file():
            found.append(str(Path(file).absolute()))
    return found
