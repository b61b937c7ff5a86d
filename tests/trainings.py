"""Trainings in tests: an experiment's own detector, trained as the command line does it."""

from pathlib import Path

from workbench.settings.experiment import Experiment
from workbench.training.loop import train
from workbench.training.start import initial_detector
from workbench.training.state import Machine


def train_experiment(experiment: Experiment, folder: Path, data_root: Path, seed: int = 0, **machine: int) -> None:
    """Train the detector of an experiment; ``machine`` are the arguments of ``Machine``."""
    train(initial_detector(experiment, seed), experiment, folder, data_root, seed, Machine(**machine))
