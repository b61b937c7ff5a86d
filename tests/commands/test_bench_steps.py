"""Speed of training steps: distinct networks, one line per precision, the row's canvases."""

import csv

import pytest
import torch

from workbench import cli
from workbench.commands.bench import steps
from workbench.settings.catalog import load_row
from workbench.support.errors import WorkbenchError


def lines(folder):
    (path,) = (folder / "mini" / "speed").iterdir()
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_network_is_timed_once_in_each_precision(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(steps, "time_steps", lambda experiment, count: timed.append(experiment) or (0.5, 700))
    steps.bench_steps("table5", [], "mini", ["fp32", "bf16"], 3, 0, tmp_path)
    rows = lines(tmp_path)
    assert len(rows) == len(timed) == 10  # five detectors, of three losses each
    assert [e.training.precision for e in timed[:2]] == ["fp32", "bf16"]
    assert rows[0]["row"].endswith(" fp32")
    assert {(line["images"], line["canvas"], line["step_ms"], line["images_per_second"]) for line in rows} == {("8", "8", "500.0", "16.0")}  # fmt: skip
    assert {line["memory_mb"] for line in rows} == {"700"}


def test_lines_that_are_not_measured_again_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "time_steps", lambda *_: (0.5, None))
    for row, precision in (("t5_retinanet_fl", "fp32"), ("t5_atss_fl", "bf16"), ("t5_atss_fl", "fp32")):
        steps.bench_steps("table5", [row], "mini", [precision], 1, 0, tmp_path)
    assert [line["row"] for line in lines(tmp_path)] == ["t5_retinanet_fl fp32", "t5_atss_fl fp32", "t5_atss_fl bf16"]


def test_a_step_is_taken_on_this_machine(tmp_path, monkeypatch, capsys):
    arguments = ["bench", "steps", "table5", "--row", "t5_reppoints_fl", "--steps", "1", "--images", "2"]
    monkeypatch.setattr("sys.argv", ["workbench", *arguments, "--results", str(tmp_path)])
    cli.main()
    (line,) = lines(tmp_path)
    assert float(line["step_ms"]) > 0
    assert (line["images"], line["memory_mb"]) == ("2", "-")
    assert "t5_reppoints_fl fp32" in capsys.readouterr().out


def test_the_synthetic_canvas_is_the_rows(monkeypatch):
    canvas = steps.synthetic_canvas(load_row("table5", "t5_retinanet_fl", "coco").experiment, 0)
    assert canvas.images.shape == (4, 3, 800, 1344)
    assert canvas.images.dtype == torch.uint8
    assert (canvas.boxes[..., 2:] > canvas.boxes[..., :2]).all()
    assert (canvas.boxes[..., 2:] <= torch.tensor([1344, 800])).all()
    assert canvas.labels.max() > 5


def test_a_machine_without_a_gpu_is_refused_where_one_is_needed(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(
        "sys.argv", ["workbench", "bench", "steps", "table5", "--scale", "coco", "--gpu", "--results", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="GPU"):
        cli.main()
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_is_refused(monkeypatch, tmp_path):
    with pytest.raises(WorkbenchError, match="--precision: unknown precision 'fp16'; "):
        steps.bench_steps("table5", ["t5_atss_fl"], "mini", ["fp16"], 1, 0, tmp_path)
