"""Detections of a trained run: ``workbench detect`` and ``workbench submission``."""

from __future__ import annotations

import io
import json
import time
import zipfile
from pathlib import Path

from workbench.runs.folders import seed_folder
from workbench.settings.variant import Variant, check_evaluation
from workbench.support.files import read_json, write_bytes_atomically, write_json_atomically
from workbench.support.provenance import provenance
from workbench.support.strict_yaml import validated


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

    from workbench.evaluation.inference import detect_data_set
    from workbench.runs.load import load_run_for
    from workbench.support.progress import Reporter

    variant = read_variant(variant_file)
    trained, data = load_run_for(run, seed, data_root, split, variant.limit_images)
    check_evaluation(trained.experiment.detector, variant, str(variant_file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with Reporter(f"{run.name} {seed_folder(seed)}", len(data.images)) as reporter:
        return detect_data_set(trained.detector, data, variant, device, workers, reporter=reporter)
