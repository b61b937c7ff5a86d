"""Stops of trainings at a chosen step, and their results, for tests of resumes."""

import csv
import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.trainings import train_experiment
from workbench.training import loop
from workbench.training.loop import Interrupted


def signal_after(monkeypatch, *steps, number=signal.SIGTERM):
    """Send a signal to this process after some of the steps of every training."""
    step = loop.take_step

    def stopping(state, canvases):
        done = step(state, canvases)
        if state.step + 1 in steps:
            os.kill(os.getpid(), number)
        return done

    monkeypatch.setattr(loop, "take_step", stopping)


def train_until(step, experiment, folder, data_root, seed=0, **machine):
    """Train, and stop after a step."""
    with pytest.MonkeyPatch.context() as patch:
        signal_after(patch, step)
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM at step {step}"):
            train_experiment(experiment, folder, data_root, seed=seed, **machine)


def no_step(monkeypatch):
    """Let every further step of a training fail."""

    def step(*_):
        raise AssertionError("a step was made")

    monkeypatch.setattr(loop, "take_step", step)


def log_of(folder):
    """Rows of the log, without the speed."""
    with (folder / "train.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]


def same_results(a, b):
    """Whether two trainings have the same weights, bit for bit, and the same log."""
    return digest(a / "model.safetensors") == digest(b / "model.safetensors") and log_of(a) == log_of(b)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Digests of all files below a folder but the locks."""
    return {str(p.relative_to(folder)): digest(p) for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
