"""The steps behind the pipeline's rules that are more than one call: where files lie, and what goes into them."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from workbench.catalog import Rehearsal, Row, load_table, read_table
from workbench.config import PipelineConfig
from workbench.errors import WorkbenchError
from workbench.experiment import Variant, check_evaluation, seed_folder
from workbench.files import read_json, write_bytes_atomically, write_json_atomically, write_text_atomically
from workbench.provenance import code_digest, provenance
from workbench.released import published_on_val2017, released_runs
from workbench.yamlfile import near_miss, validated


def scale_folder(results: Path, scale: str, rehearsal: Rehearsal | None = None) -> Path:
    """``results/<scale>``, and apart from it what a rehearsal writes."""
    return results / (f"{scale}-rehearsal" if rehearsal else scale)


def metrics_file(folder: Path, row: Row, seed: int | str) -> Path:
    """Where a row's metrics of one training lie below ``results/<scale>``."""
    return folder / "runs" / row.run / seed_folder(seed) / row.variant_folder / "metrics.json"


def bootstrap_file(metrics: Path) -> Path:
    """Where the AP of resampled images lies, beside the metrics."""
    return metrics.with_name("bootstrap.json")


def trained_seeds(run: Path) -> list[int]:
    """Seeds with which the run in this folder has been trained, ascending."""
    found = (file.parent.name.removeprefix("seed") for file in run.glob("seed*/model.safetensors"))
    return sorted(int(seed) for seed in found if seed.isdecimal())


def trainings_of(rows: Iterable[Row], settings: PipelineConfig) -> dict[str, list[int | str]]:
    """For each run its trainings that are wanted: seeds, or ``released`` where published weights take their place."""
    rows = list(rows)
    published = released_runs(rows) if settings.weights == "released" else {}
    if published and rows[0].experiment.data.kind == "embedded":
        raise WorkbenchError(
            f"weights=released: scale {settings.scale} draws its own data set, published weights know COCO's classes; "
            "add scale=coco data_root=FOLDER"
        )
    return {row.run: ["released"] if row.run in published else list(range(settings.seeds)) for row in rows}


def check_folders(folders: Iterable[Path]) -> None:
    """Raise where a file stands in the place of a folder or of one above it."""
    for folder in folders:
        for place in (*reversed(folder.parents), folder):
            if place.exists() and not place.is_dir():
                raise WorkbenchError(f"{place}: a file stands where a folder is needed; remove it or move it away")


def check_space(folder: Path) -> None:
    """Raise where not even Snakemake's own notes would find room, which it would tell in tracebacks."""
    if shutil.disk_usage(folder).free < 2**16:
        raise WorkbenchError(f"{folder.resolve()}: no space left on its disk; free some")


def write_settings(folder: Path, rows: Iterable[Row]) -> None:
    """Write each row's experiment and variant where the steps read them; their names are made of their content."""
    for row in rows:
        for path, settings in (
            (folder / "runs" / row.run / "experiment.json", row.experiment),
            (folder / "variants" / f"{row.variant_folder}.json", row.variant),
        ):
            if not path.is_file():
                write_json_atomically(path, settings.model_dump(mode="json"))


def read_variant(path: Path) -> Variant:
    """A variant's file."""
    return validated(Variant, read_json(path, "settings of an evaluation"), str(path))


def detect_run(run: Path, variant_file: Path, data_root: Path, seed: int | str, workers: int) -> None:
    """Detections of a trained run on val2017 → ``detections.json`` in the variant's folder."""
    began = time.monotonic()
    found = detections_of(run, variant_file, data_root, "val2017", seed, workers)
    folder = run / seed_folder(seed) / variant_file.stem
    facts = {"detection_seconds": round(time.monotonic() - began, 2), **provenance()}
    write_json_atomically(folder / "detection.json", facts)
    write_json_atomically(folder / "detections.json", found, indent=None)


def write_submission(
    run: Path, variant_file: Path, data_root: Path, seed: int | str, split: str, folder: Path, workers: int
) -> Path:
    """What COCO's evaluation server took: detections of a split in a zip file of the name that it asked for."""
    found = detections_of(run, variant_file, data_root, split, seed, workers)
    name = f"detections_{split}_{run.name}_results"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}.json"), json.dumps(found), zipfile.ZIP_DEFLATED)  # without the time
    write_bytes_atomically(folder / f"{name}.zip", content.getvalue())
    return folder / f"{name}.zip"


def detections_of(
    run: Path, variant_file: Path, data_root: Path, split: str, seed: int | str, workers: int
) -> list[dict]:
    """Detections of a trained run on a split, in COCO's results format."""
    import torch

    from workbench.inference import detect_data_set, load_run_for
    from workbench.progress import Reporter

    variant = read_variant(variant_file)
    trained, data = load_run_for(run, seed, data_root, split, variant.limit_images)
    check_evaluation(trained.experiment.detector, variant, str(variant_file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Reporter(f"{run.name} {seed_folder(seed)}", len(data.images)) as reporter:
        return detect_data_set(trained.detector, data, variant, device, workers, reporter=reporter)


def evaluate_run(run: Path, variant_file: Path, data_root: Path, seed: int | str) -> dict:
    """COCO's metrics of a run's detections → ``metrics.json`` beside them, with provenance; returned too.

    And the AP of resampled images → ``bootstrap.json``.
    """
    from workbench.confidence import bootstrap, write_bootstrap
    from workbench.evaluation import metrics_of, read_detections, run_evaluation
    from workbench.resampling import matches_of

    variant = read_variant(variant_file)
    folder = run / seed_folder(seed) / variant_file.stem
    annotations = data_root / "annotations" / "instances_val2017.json"
    ids = None
    if variant.limit_images is not None:
        ids = [image["id"] for image in read_json(annotations, "annotations")["images"][: variant.limit_images]]
    evaluation = run_evaluation(annotations, read_detections(folder / "detections.json"), ids)
    metrics, matches = metrics_of(evaluation), matches_of(evaluation)
    del evaluation  # of COCO, gigabytes
    found = bootstrap(matches)
    training = read_json(run / seed_folder(seed) / "train.json", "facts of the training")
    detection = read_json(folder / "detection.json", "facts of the detection")
    metrics["provenance"] = {
        "seed": seed,
        "code_digest": training["code_digest"],
        "training": training,
        "detection": detection,
        "evaluation": {"code_digest": code_digest()},
    }
    file = folder / "metrics.json"
    write_bootstrap(bootstrap_file(file), found)
    write_json_atomically(file, metrics)
    return metrics


def make_table(name: str, settings: PipelineConfig, results: Path) -> str:
    """Write ``tables/<name>.csv``, ``.md`` and ``.html`` of whatever has been measured; returns the Markdown."""
    from workbench.confidence import read_bootstrap
    from workbench.report.page import page
    from workbench.report.tables import TEST_DEV, TableRow, shown, table_markdown, write_table

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
    write_table(title, lines, folder / "tables" / f"{name}.csv", folder / "tables" / f"{name}.md")
    write_text_atomically(folder / "tables" / f"{name}.html", page(title, shown(lines)))
    return table_markdown(title, lines)


def draw_figure(name: str, settings: PipelineConfig, results: Path, ranking: bool = False) -> None:
    """Draw the loss curves of a table's runs on one figure, or the score of each against IoU; PNG and PDF."""
    import pandas

    from workbench.report.figures import draw_loss_curves
    from workbench.report.ranking import draw_rankings

    draw, title, file, part = (
        (draw_rankings, "Score against IoU", "ranking.csv", "ranking")
        if ranking
        else (draw_loss_curves, "Training", "train.csv", "loss")
    )
    _, rows = load_table(name, settings.scale, settings.data_root, settings.rehearsal)
    folder = scale_folder(results, settings.scale, settings.rehearsal)
    trainings = trainings_of(rows, settings)
    found = {}
    for row in {row.run: row for row in reversed(rows)}.values():
        files = [folder / "runs" / row.run / seed_folder(training) / file for training in trainings[row.run]]
        frames = [pandas.read_csv(path) for path in files if path.is_file()]
        if frames:
            found[row_title(row)] = frames
    found = dict(reversed(found.items()))
    if not found:
        target = f"{name}_ranking" if ranking else name
        raise WorkbenchError(f"{name}: no row of it has a {file} at scale {settings.scale}; run snakemake {target}")
    base = folder / "figures" / f"{name}_{part}"
    draw(found, base.with_suffix(".png"), base.with_suffix(".pdf"), f"{title}, {name}, scale {folder.name}")


def row_title(row: Row) -> str:
    """A row's labels in a few words, for a legend; the detector's name where they say nothing of the run."""
    said = []
    for key, value in row.labels.items():
        if value is True:
            said.append(key)
        elif isinstance(value, str):
            said.append(value)
        elif value is not False:
            said.append(f"{key} {value:g}")
    return ", ".join(said) or row.experiment.detector.title


def settings_digest(name: str, rows: Iterable[Row]) -> str:
    """What a table says besides its metrics, as text that changes when it does."""
    spec = read_table(name)
    stated = [[id_, r.labels, r.published, r.fps, r.note] for id_, r in spec.rows.items()]
    compared = [spec.reference(id_) for id_ in spec.rows]
    return json.dumps([spec.title, spec.split, stated, compared, [[r.id, r.run, r.variant_folder] for r in rows]])


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
        makers = {f"{folder}/tables/{table}.csv": {"all", "tables", table} for table in tables}
    if name == "star_points":
        run = next(row.run for row in tables["table3"] if row.id == "t3_full_vfl")
        users = {word for table, rows in tables.items() for row in rows if row.run == run for word in (table, row.id)}
        file = f"{folder}/runs/{run}/{seed_folder(trainings[run][0])}/model.safetensors"
        makers = {file: {"all", "tables", "figures", *users}}
    asked = set(targets) or {"all"}
    found = []
    for file, known in makers.items():
        if asked & {*known, file}:
            found.append(file)
        elif Path(file).is_file():
            found.append(str(Path(file).absolute()))
    return found


CUT_SHORT = "the job ended before it could say why (killed, or no memory or space left?); read what there is of its log"


def last_words(snakemake_logs: str | Iterable[str]) -> list[str]:
    """What failed jobs said last, from the log files that Snakemake's own log names as theirs.

    Snakemake prints a page of its own after a failure, which hides the one line that tells what to do.
    """
    logs = [snakemake_logs] if isinstance(snakemake_logs, str) else snakemake_logs
    text = "\n".join(Path(log).read_text(errors="replace") for log in logs)
    named = re.findall(r"^ +log: (.+?) \(check log file", text, re.MULTILINE)
    words = {}
    for file in map(Path, named):
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        told = lines and lines[-1].startswith("workbench: ")
        words[lines[-1] if told else f"workbench: {file}: {CUT_SHORT}"] = None
    return list(words)


def unknown_targets(targets: Iterable[str], known: Iterable[str], rows: Iterable[str]) -> list[str]:
    """A line for each target that is neither a path nor the name of a rule; the rules of ``rows`` are not listed."""
    known, rows = list(known), set(rows)
    listed = [name for name in known if name not in rows]
    return [
        f"workbench: unknown target '{target}'"
        + (near_miss(target, known) or f"; known: {', '.join(listed)}, and the id of each row, e.g. {min(rows)}")
        for target in targets
        if target not in known and "/" not in target
    ]
