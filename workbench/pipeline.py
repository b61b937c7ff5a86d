"""The steps behind the pipeline's rules that are more than one call: where files lie, and what goes into them."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

from workbench.catalog import Rehearsal, Row
from workbench.config import PipelineConfig
from workbench.errors import WorkbenchError
from workbench.experiment import Variant, check_evaluation, seed_folder
from workbench.files import read_json, write_bytes_atomically, write_json_atomically
from workbench.provenance import code_digest, provenance
from workbench.released import released_runs
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


CUT_SHORT = (
    "the job ended before it could say why (killed, or no memory, time or space left?); read what there is of its log"
)


def last_words(snakemake_logs: str | Iterable[str]) -> list[str]:
    """What failed jobs said last, from the log files that Snakemake's own log names as theirs.

    Snakemake prints a page of its own after a failure, which hides the one line that tells what to do.
    """
    logs = [snakemake_logs] if isinstance(snakemake_logs, str) else snakemake_logs
    text = "\n".join(Path(log).read_text(errors="replace") for log in logs)
    named = re.findall(r"^ +log: (.+?) \(check log file", text, re.MULTILINE)
    words = {}
    for job in named:
        files = [Path(file) for file in job.split(", ")]  # on a cluster its own log of the job is the second
        lines = files[0].read_text(errors="replace").splitlines() if files[0].is_file() else []
        told = lines and lines[-1].startswith("workbench: ")
        words[lines[-1] if told else f"workbench: {' and '.join(map(str, files))}: {CUT_SHORT}"] = None
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
