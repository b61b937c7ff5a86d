"""A GPU trains as the CPU does, and resumes a CPU's trainings; run with ``make test-gpu``.

All tests are in single precision without TF32, except the training in bfloat16.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.gpu.comparison import LOSS, LOSS_GRADIENT, assert_close, gradients_of, noise_batch
from tests.trainings import train_experiment
from workbench.detectors import build_detector
from workbench.runs.results import scale_folder
from workbench.settings.catalog import load_row
from workbench.settings.ids import run_id
from workbench.support.provenance import device_name

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("device", "no_tf32")]
TRAINING = 5e-4
"""Tolerance of the losses in a training of eight steps. Rounding changes them by 1e-5, exchanged moments by 2e-3."""
WORKBENCH = Path(sys.executable).parent / "workbench"


def training_step(table, row, device):
    """Loss terms and gradients of an untrained detector."""
    torch.manual_seed(0)
    detector = build_detector(load_row(table, row).experiment)
    for name, parameter in detector.named_parameters():
        if name.endswith("bn3.weight"):  # zero at the start, which would hide the gradients behind it
            nn.init.ones_(parameter)
    detector.to(device).train()
    terms = detector.loss(noise_batch().to(device))
    sum(terms.values()).backward()
    return terms, gradients_of(detector)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("table3", "t3_full_vfl"),
        ("table3", "t3_fcos_atss"),
        *(("table5", f"t5_{family}_vfl") for family in ("atss", "retinanet", "foveabox", "reppoints")),
        ("gfl_table3", "gfl3_qfl_dfl"),
    ],
)
def test_a_training_step_agrees_with_the_cpu(device, table, row):
    terms, gradients = training_step(table, row, "cpu")
    terms_there, gradients_there = training_step(table, row, device)
    assert_close(terms_there, terms, LOSS)
    assert_close(gradients_there, gradients, LOSS_GRADIENT)


@pytest.mark.parametrize(
    ("table", "row"), [("table3", "t3_full_vfl"), *(("table5", f"t5_{f}_vfl") for f in ("retinanet", "foveabox"))]
)
def test_predictions_and_assignment_do_not_wait(device, table, row):
    """``test_fake_gpu`` has the other assigners."""
    if device.type != "cuda":
        pytest.skip("a CPU has nothing to wait for")
    detector, batch = build_detector(load_row(table, row).experiment).to(device), noise_batch().to(device)
    detector.assign(detector.predict(batch.images), batch)  # libraries are loaded
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        detector.assign(detector.predict(batch.images), batch)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def with_training(experiment, **settings):
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=settings)})


def losses_of(folder):
    with (folder / "train.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_bf16_trains(tiny_experiment, tiny_data, tmp_path):
    train_experiment(with_training(tiny_experiment, precision="bf16"), tmp_path, tiny_data, seed=0)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model.safetensors").values())
    losses = losses_of(tmp_path)
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_losses(tiny_experiment, tiny_data, tmp_path):
    for name in ("a", "b"):
        train_experiment(tiny_experiment, tmp_path / name, tiny_data, seed=0)
    assert losses_of(tmp_path / "a") == pytest.approx(losses_of(tmp_path / "b"), rel=TRAINING)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    if not all(torch.equal(a[key], b[key]) for key in a):
        warnings.warn("two trainings of one seed agree within rounding on this device, not to the bit", stacklevel=1)


def state_as(file, experiment):
    """Let a checkpoint of a shorter training pass as one of an experiment that is in progress."""
    content = torch.load(file, map_location="cpu")
    content["identity"]["run"], content["final_facts"] = run_id(experiment), None
    torch.save(content, file)


def run_training(experiment, checkpoints, results, data, on_cpu):
    """Lines of ``workbench train``, in a process that sees the machine's GPUs or none, and the training's folder.

    ``checkpoints`` are those that the training resumes from, if any.
    """
    training = scale_folder(results, "mini").run(run_id(experiment)).training(0)
    training.run.write_experiment(experiment)
    if checkpoints:
        shutil.copytree(checkpoints, training.checkpoints)
        state_as(training.checkpoints / "last.pt", experiment)
    environment = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"} | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    command = [WORKBENCH, "train", "--run", training.folder.parent, "--data-root", data]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    used = json.loads(training.facts.read_text())["device"]
    assert "thread(s)" in used if on_cpu else used == device_name()
    return said.stderr, training


@pytest.mark.parametrize("first_on_cpu", [False, True], ids=["gpu-to-cpu", "cpu-to-gpu"])
def test_a_training_is_resumed_on_another_device(tiny_experiment, tiny_data, tmp_path, first_on_cpu):
    """The second epoch starts from the first epoch's checkpoint, and the losses are as on a single device."""
    one_epoch, two_epochs = (with_training(tiny_experiment, epochs=epochs) for epochs in (1, 2))
    train_experiment(one_epoch, tmp_path / "one", tiny_data, seed=0)
    shutil.copytree(tmp_path / "one" / "checkpoints", tmp_path / "seed0" / "checkpoints")
    state_as(tmp_path / "seed0" / "checkpoints" / "last.pt", two_epochs)
    train_experiment(two_epochs, tmp_path / "seed0", tiny_data, seed=0)
    _, first = run_training(one_epoch, None, tmp_path, tiny_data, on_cpu=first_on_cpu)
    steps = len(losses_of(first.folder))
    said, second = run_training(two_epochs, first.checkpoints, tmp_path, tiny_data, on_cpu=not first_on_cpu)
    assert f"resumed from the checkpoint at step {steps}" in said
    assert losses_of(second.folder) == pytest.approx(losses_of(tmp_path / "seed0"), rel=TRAINING)


def test_two_jobs_take_two_gpus(device, tmp_path):
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        pytest.skip("fewer than two CUDA devices")
    code = """
import sys
from pathlib import Path
import torch
from workbench.support.devices import reserved_gpus
with reserved_gpus(1, Path(sys.argv[1])):
    print(torch.cuda.device_count(), torch.cuda.get_device_properties(0).uuid, flush=True)
    sys.stdin.read()
"""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    taken = [job.stdout.readline().split() for job in jobs]
    for job in jobs:
        job.communicate(timeout=60)
    assert [count for count, _ in taken] == ["1", "1"]
    assert taken[0][1] != taken[1][1]
