"""Trainings in tests: an experiment's own detector, trained as the command line does it."""

from dataclasses import dataclass
from pathlib import Path

from workbench.runs.folders import Run, Training
from workbench.settings.experiment import Experiment
from workbench.training.loop import train
from workbench.training.start import initial_detector
from workbench.training.state import Machine


@dataclass(frozen=True)
class TrainingAt(Training):
    """A training in any folder."""

    path: Path = Path()

    @property
    def folder(self) -> Path:
        return self.path


def training_at(folder: Path, seed: int = 0) -> TrainingAt:
    return TrainingAt(Run(folder.parent), str(seed), folder)


def train_experiment(experiment: Experiment, folder: Path, data_root: Path, seed: int = 0, **machine: int) -> None:
    """Train the detector of an experiment; ``machine`` are the arguments of ``Machine``."""
    train(initial_detector(experiment, seed), experiment, training_at(folder, seed), data_root, Machine(**machine))
