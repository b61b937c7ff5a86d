"""The same seed yields the same weights and metrics bit for bit, with any number of processes that read images."""

import json
import sys

import pytest
import torch

from workbench import cli
from workbench.settings.variant import Variant
from workbench.support.files import write_json_atomically


def workbench(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
    cli.main()


def outcome(seed):
    """Weights, detections, metrics without provenance, and the log without the speed."""
    (evaluation,) = (path.parent for path in seed.glob("*/metrics.json"))
    metrics = json.loads((evaluation / "metrics.json").read_text())
    del metrics["provenance"]
    metrics["resamples"] = (evaluation / "bootstrap.json").read_text()
    log = [line.rsplit(",", 1)[0] for line in (seed / "train.csv").read_text().splitlines()]
    detections = json.loads((evaluation / "detections.json").read_text())
    return (seed / "model.safetensors").read_bytes(), detections, metrics, log


@pytest.fixture
def on_a_cpu(monkeypatch):
    """Hide GPUs, because they add in a varying order."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_the_number_of_workers_changes_nothing(tiny_data, tiny_experiment, tmp_path, new_run, monkeypatch, on_a_cpu):
    """The pipeline's own choice of workers, then none, one and three, twice each."""
    variant = tmp_path / "quick.json"
    write_json_atomically(variant, Variant(image=tiny_experiment.image, score_threshold=0).model_dump(mode="json"))
    outcomes = []
    for number, workers in enumerate([None, 0, 0, 1, 1, 3, 3]):
        run = new_run(tiny_experiment, tmp_path / f"results{number}")
        common = ("--run", run.folder, "--data-root", tiny_data, "--seed", 7)
        asked = [] if workers is None else ["--workers", workers]
        workbench(monkeypatch, "train", *common, *asked)
        workbench(monkeypatch, "detect", *common, "--variant", variant, *asked)
        workbench(monkeypatch, "evaluate", *common, "--variant", variant)
        outcomes.append(outcome(run.folder / "seed7"))
    assert len(outcomes[0][1]) > 6
    assert all(other == outcomes[0] for other in outcomes[1:])
