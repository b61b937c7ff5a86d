"""Weight averaging: rates value by value, the mean against a list of weights, and a whole stage against a plain loop."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import update_bn

from tests.samples import CANVAS, make_batch
from tests.trainings import train_experiment
from workbench.data.coco import read_coco
from workbench.data.loader import training_batches
from workbench.detectors import build_detector
from workbench.settings.data import ImageRange
from workbench.settings.experiment import CutOut, Training, WeightAveraging
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.training import checkpoints as checkpointing
from workbench.training import loop as training
from workbench.training.averaging import WeightAverage
from workbench.training.loop import Interrupted
from workbench.training.schedule import rate_factor

APS = [0.3, 0.5, 0.4, 0.9, 0.8, 0.7]  # three epochs, of which the second is the best, then three cycles
SWA = WeightAveraging(cycles=3, high=0.004, low=0.0002)


@pytest.fixture
def validations(monkeypatch):
    """Replace the validations: each epoch and cycle has its AP of ``APS``."""

    def validator(state, *_):
        return lambda: APS[state.step // state.steps_per_epoch - 1]

    monkeypatch.setattr(training, "_validator", validator)


@pytest.fixture
def experiment(tiny_experiment):
    changes = {"epochs": 3, "swa": SWA, "validate_every": 2, "warmup_steps": 500, "batch": 12, "reference_batch": 6}
    return tiny_experiment.model_copy(update={"training": tiny_experiment.training.model_copy(update=changes)})


def with_sgd(experiment):
    changes = {"optimiser": "sgd", "learning_rate": 1e-4, "bias_lr_factor": 2, "bias_weight_decay": False}
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})


def log_of(folder):
    with (folder / "train.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def same_results(a, b):
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return all(torch.equal(one[key], two[key]) for key in one | two) and log_of(a) == log_of(b)


def test_rates_of_vfnet_x_value_by_value():
    settings = Training(epochs=41, decay_epochs=(36, 40), swa=WeightAveraging(), warmup_steps=500)
    for steps in (7330, 7):
        for cycle in (0, 1, 17):
            for k in {0, 1, steps // 2, steps - 1}:
                expected = 1e-4 + 0.5 * (0.01 - 1e-4) * (1 + math.cos(math.pi * k / steps))
                rate = 0.01 * rate_factor(settings, (41 + cycle) * steps + k, steps)
                assert rate == pytest.approx(expected, rel=1e-12)
    assert 0.01 * rate_factor(settings, 41 * 7330 + 3665, 7330) == pytest.approx(0.00505)
    plain = settings.model_copy(update={"swa": None})
    for step in (0, 100, 36 * 7330 - 1, 36 * 7330, 41 * 7330 - 1):
        assert rate_factor(settings, step, 7330) == rate_factor(plain, step, 7330)


def test_the_average_is_the_mean_of_all_added_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[0].bias.requires_grad_(False)
    frozen = model[0].bias.clone()
    average, kept = WeightAverage(), []
    for number in range(7):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
        model[1].running_mean.fill_(number)
        kept.append([parameter.detach().clone() for parameter in model.parameters()])
        average.add(model)
        if number == 3:
            average = WeightAverage(**average.state())
    average.give_to(model)
    for parameter, values in zip(model.parameters(), zip(*kept, strict=True), strict=True):
        torch.testing.assert_close(parameter.detach(), torch.stack(values).double().mean(0).float(), rtol=1e-7, atol=0)
    assert torch.equal(model[0].bias, frozen)
    assert model[1].running_mean.eq(6).all()  # the last value, not the mean
    assert average.count == 7


def test_statistics_are_equal_on_any_number_of_processes_and_the_detector_stays_as_it_is(experiment):
    """The mean over all canvases is the mean of the processes' means, since each has equally many canvases."""
    torch.manual_seed(0)
    detector, average = build_detector(experiment), WeightAverage()
    average.add(detector)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.mul_(1.5)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    canvases = [dataclasses.replace(make_batch((2, 1)), images=torch.randn(2, 3, *CANVAS)) for _ in range(4)]
    measured = []
    for part in (canvases, canvases[::2], canvases[1::2]):
        average.measure_statistics(detector, part)
        measured.append(dict(average.statistics))
    whole, *parts = measured
    assert whole.keys() == {name for name in before if name.endswith(("running_mean", "running_var"))}
    for name, value in whole.items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2, rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, before[name])
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert {m.momentum for m in detector.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_without_trained_statistics_no_canvas_is_read(experiment):
    backbone = experiment.backbone.model_copy(update={"norm": "frozen"})
    detector, average = build_detector(experiment.model_copy(update={"backbone": backbone})), WeightAverage()
    average.add(detector)
    average.measure_statistics(detector, None)
    assert average.statistics == {}


def plain_loop(experiment, root, seed, start):
    """The stage of weight averaging as a plain loop; returns the mean of the weights and the rates of all steps."""
    settings = experiment.training
    data = read_coco(root, "train2017", training=True)
    size = (experiment.image.long, experiment.image.short)
    batches = training_batches(data, size=size, canvas=settings.batch, seed=seed)
    detector = build_detector(experiment).to(memory_format=torch.channels_last)
    detector.load_state_dict(start)
    norms = (nn.BatchNorm2d, nn.GroupNorm)
    owners = {f"{path}.{n}" if path else n: m for path, m in detector.named_modules() for n, _ in m.named_parameters(recurse=False)}  # fmt: skip
    parameters = {name: p for name, p in detector.named_parameters() if p.requires_grad}
    biases = [n for n in parameters if n.endswith(".bias") and not isinstance(owners[n], norms)]
    decay = 0.0 if not settings.bias_weight_decay else settings.weight_decay
    groups = [
        {"params": [p for n, p in parameters.items() if n not in biases], "weight_decay": settings.weight_decay},
        {"params": [parameters[n] for n in biases], "weight_decay": decay},
    ]
    if settings.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups, lr=1.0, momentum=0.9, fused=True)
    else:
        optimiser = torch.optim.AdamW(groups, lr=1.0, fused=True)
    detector.train()
    ends, rates, steps = [], [], batches.canvases_per_epoch
    for cycle in range(3):
        for k, batch in enumerate(batches.epoch(3 + cycle)):
            rate = 2 * (
                0.0002 + 0.5 * (0.004 - 0.0002) * (1 + math.cos(math.pi * k / steps))
            )  # doubled: the batch is twice the reference batch
            rates.append(rate)
            optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = rate, rate * settings.bias_lr_factor
            optimiser.zero_grad()
            sum(detector.loss(batch.to("cpu")).values()).backward()
            optimiser.step()
        ends.append({name: value.clone() for name, value in detector.state_dict().items()})
    names = {name for name, _ in detector.named_parameters()}
    mean = {n: torch.stack([e[n].double() for e in ends]).mean(0).float() if n in names else ends[-1][n] for n in ends[0]}  # fmt: skip
    detector.load_state_dict(mean)
    update_bn([batch.to("cpu").images for batch in batches.epoch(6)], WithForward(detector))
    return detector.state_dict() | {n: v for n, v in mean.items() if n.endswith("num_batches_tracked")}, rates


class WithForward(nn.Module):
    """Detector whose ``forward`` is its ``predict``, as PyTorch's ``update_bn`` calls it."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, images):
        return self.detector.predict(images)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_whole_stage_agrees_with_a_plain_loop(experiment, optimiser, tiny_data, tmp_path, validations):
    experiment = with_sgd(experiment) if optimiser == "sgd" else experiment
    train_experiment(experiment, tmp_path, tiny_data, seed=5)
    best = torch.load(tmp_path / "checkpoints" / "best.pt")
    rows = log_of(tmp_path)
    steps = len(rows) // 6
    assert best["step"] == 2 * steps
    mean, rates = plain_loop(experiment, tiny_data, 5, best["model"])
    result = load_file(tmp_path / "model.safetensors")
    assert result.keys() == mean.keys()
    for name, value in result.items():
        torch.testing.assert_close(value, mean[name], rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    moved = max(float((value - best["model"][name]).abs().max()) for name, value in result.items())
    assert moved > 1e-3
    assert [row["stage"] for row in rows] == ["epochs"] * 3 * steps + ["swa"] * 3 * steps
    assert [int(row["epoch"]) for row in rows] == [step // steps for step in range(6 * steps)]
    assert [float(row["lr"]) for row in rows[3 * steps :]] == pytest.approx(rates, rel=1e-5)
    assert [float(row["val_ap"]) for row in rows if row["val_ap"]] == APS  # every epoch is validated
    facts = json.loads((tmp_path / "train.json").read_text())
    assert facts["steps"] == 6 * steps
    assert facts["swa"] == {"first_step": 3 * steps + 1, "from_weights_of_step": 2 * steps, "averaged": 3}


def test_the_last_validation_is_of_the_mean_weights_that_are_written(experiment, tiny_data, tmp_path, monkeypatch):
    validated = []

    def validator(state, *_):
        return lambda: validated.append({n: v.clone() for n, v in state.detector.state_dict().items()}) or 0.5

    monkeypatch.setattr(training, "_validator", validator)
    train_experiment(experiment, tmp_path, tiny_data)
    written, last = load_file(tmp_path / "model.safetensors"), torch.load(tmp_path / "checkpoints" / "last.pt")
    assert len(validated) == 6
    assert all(torch.equal(validated[-1][name], written[name]) for name in written)
    assert not all(torch.equal(last["model"][name], written[name]) for name in written)  # the last cycle is kept


def stopping(monkeypatch, after, kill):
    """Call ``kill()`` once, after this number of steps."""
    step, done = training.take_step, []

    def stopping(*arguments):
        done.append(step(*arguments))
        if len(done) == after:
            kill()
        return done[-1]

    monkeypatch.setattr(training, "take_step", stopping)


@pytest.mark.parametrize("after", [9, 10, 12, 18])
def test_a_stopped_stage_resumes_to_the_same_bits(
    experiment, tiny_data, tmp_path, monkeypatch, capsys, validations, after
):
    """An epoch has three steps: the stops are just before the stage, at its first step, after a cycle and at the end."""
    train_experiment(experiment, tmp_path / "whole", tiny_data, seed=0)
    stopping(monkeypatch, after, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"at step {after}"):
        train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0)
    capsys.readouterr()
    train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0)
    output = capsys.readouterr().err
    done = (after - 9) // 3
    assert f"resumed from the checkpoint at step {after}, after {done} of 3 cycles of weight averaging\n" in output
    assert ("3 cycles of one epoch each, from the weights of step 6 (val AP 50.0)" in output) == (after == 9)
    assert same_results(tmp_path / "whole", tmp_path / "parts")


class Killed(BaseException):
    """Stand-in for SIGKILL: after it nothing is written."""


@pytest.mark.parametrize("after", [10, 14])
def test_a_killed_stage_resumes_from_its_last_checkpoint(
    experiment, tiny_data, tmp_path, monkeypatch, validations, after
):
    train_experiment(experiment, tmp_path / "whole", tiny_data, seed=0)

    def kill():
        raise Killed

    stopping(monkeypatch, after, kill)
    with pytest.raises(Killed):
        train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0)
    train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0)
    assert same_results(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_a_resumed_stage_with_every_augmentation_and_other_workers_has_the_same_bits(
    experiment, tiny_data, tmp_path, monkeypatch, validations
):
    changes = {"image_range": ImageRange(long=(96, 128), short=(48, 80)), "crop": 0.5, "cutout": CutOut(unit=1)}
    drawn = experiment.training.model_copy(update=changes)
    experiment = experiment.model_copy(update={"training": drawn})
    train_experiment(experiment, tmp_path / "whole", tiny_data, seed=0)
    stopping(monkeypatch, 11, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0, workers=2)
    train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0, workers=1)
    assert same_results(tmp_path / "whole", tmp_path / "parts")


def test_a_kill_between_the_last_and_the_best_checkpoint_loses_nothing(
    experiment, tiny_data, tmp_path, monkeypatch, validations
):
    train_experiment(experiment, tmp_path / "whole", tiny_data, seed=0)
    copy, copied = shutil.copyfileobj, []

    def dying(*paths):
        copied.append(paths)
        if len(copied) == 2:
            raise Killed
        return copy(*paths)

    monkeypatch.setattr(checkpointing.shutil, "copyfileobj", dying)
    with pytest.raises(Killed):
        train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0)
    best = tmp_path / "parts" / "checkpoints" / "best.pt"
    assert torch.load(best)["step"] == 3
    train_experiment(experiment, tmp_path / "parts", tiny_data, seed=0)
    assert torch.load(best)["step"] == 6
    assert same_results(tmp_path / "whole", tmp_path / "parts")


def test_of_equal_validations_the_first_is_the_best_and_no_other_checkpoint_is_kept(
    experiment, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "_validator", lambda *_: lambda: 0.25)
    train_experiment(experiment, tmp_path, tiny_data, seed=0)
    assert torch.load(tmp_path / "checkpoints" / "best.pt")["step"] == 3
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.pt", "last.pt", "lock", "train.csv"}


def test_a_broken_best_checkpoint_is_reported(experiment, tiny_data, tmp_path, monkeypatch, validations):
    stopping(monkeypatch, 9, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train_experiment(experiment, tmp_path, tiny_data, seed=0)
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(
        WorkbenchError,
        match=r"best\.pt: not a checkpoint of this run .*; delete .*checkpoints to start from the beginning",
    ) as error:
        train_experiment(experiment, tmp_path, tiny_data, seed=0)
    assert "\n" not in str(error.value)


def test_a_rehearsal_averages_nothing(experiment, tiny_data, tmp_path):
    short = experiment.training.model_copy(update={"limit_steps": 3})
    train_experiment(experiment.model_copy(update={"training": short}), tmp_path, tiny_data, seed=0)
    facts = json.loads((tmp_path / "train.json").read_text())
    assert facts["steps"] == 3
    assert "swa" not in facts
    assert "stage" not in log_of(tmp_path)[0]


def test_the_setting_makes_another_run(experiment):
    plain = experiment.model_copy(update={"training": experiment.training.model_copy(update={"swa": None})})
    default = plain.model_copy(update={"training": plain.training.model_copy(update={"swa": WeightAveraging()})})
    assert len({run_id(experiment), run_id(plain), run_id(default)}) == 3
