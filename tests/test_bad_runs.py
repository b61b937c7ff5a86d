"""Mistakes in the files of a run on the command line: settings, checkpoints, weights, detections, and full disks.

Each mistake ends in one line that names the file and a remedy. No file is left with which a step would count as done.
"""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from tests.few_images import CLASSES
from tests.scene import (
    NOT_DETECTED,
    assert_one_line,
    checkpoint_of_another_head,
    experiment,
    file_for_folder,
    full_disk,
    no_move,
    stated,
    truncated,
    truncated_checkpoint,
)
from workbench.support import files
from workbench.training import checkpoints as checkpointing

# Mistake: (command, damage to the scene, parts of the message).
MISTAKES = {
    "checkpoint of another head": (
        "train",
        checkpoint_of_another_head,
        ["train.json: belongs to another training (run vfnet-", "to train again"],
    ),
    "checkpoint truncated": ("train", truncated_checkpoint, ["last.pt: not a checkpoint of this run", "delete it"]),
    "losses not finite": (
        "train",
        experiment(training={"learning_rate": 1e18, "optimiser": "sgd", "warmup_steps": 0, "epochs": 2}),
        [
            "the loss is not finite",
            "images 0000",
            ".jpg; check the boxes of these images, or lower training.learning_rate",
        ],
    ),
    "unknown key": (
        "train",
        experiment(training={"epoch": 3}),
        ["experiment.json: training.epoch: unknown key; did you mean 'epochs'?"],
    ),
    "unknown loss": (
        "train",
        experiment(loss={"name": "varifocl"}),
        ["experiment.json: loss: unknown name 'varifocl'; did you mean 'varifocal'?"],
    ),
    "wrong type": (
        "train",
        experiment(training={"epochs": "many"}),
        ["experiment.json: training.epochs: input should be a valid integer", "(found 'many')"],
    ),
    "settings are a list": (
        "train",
        lambda s: (s.run / "experiment.json").write_text("[]"),
        ["experiment.json: expected a group of keys and values, not []"],
    ),
    "settings truncated": (
        "train",
        truncated(lambda s: s.run / "experiment.json"),
        ["experiment.json: settings of the run are truncated", "copy"],
    ),
    "no settings": (
        "train",
        lambda s: (s.run / "experiment.json").unlink(),
        ["experiment.json: not found; train this run first"],
    ),
    "a file in place of the results' folder": (
        "train",
        file_for_folder,
        ["seed0/checkpoints: cannot make this folder (Not a directory); check the path, its permissions and the"],
    ),
    "no space for the checkpoint": (
        "train",
        full_disk(torch, "save"),
        ["last.pt: cannot be written (File too large); free some space"],
    ),
    "no space for the weights": (
        "train",
        full_disk(checkpointing, "write_bytes_atomically"),
        ["model.safetensors: cannot be written (File too large); free some space"],
    ),
    "no space for the log": (
        "train",
        full_disk(files, "write_bytes_atomically"),
        ["train.csv: cannot be written (File too large); free some space"],
    ),
    "no space to move": (
        "train",
        lambda s: s.monkeypatch.setattr(os, "replace", no_move),
        ["train.csv: cannot be written (No space left on device); free some space"],
    ),
    "not trained": (
        "detect",
        lambda s: shutil.rmtree(s.seed),
        ["model.safetensors: not found; train this run with seed 0 first"],
    ),
    "weights truncated": (
        "detect",
        truncated(lambda s: s.seed / "model.safetensors"),
        ["model.safetensors: not the weights of this run", "delete the file and train again"],
    ),
    "weights of another head": (
        "detect",
        experiment(head={"channels": 32}),
        ["train.json: facts of another training (run vfnet-varifocal-resnet50-", "put back the files of this training"],
    ),
    "facts incomplete": (
        "detect",
        lambda s: (s.seed / "train.json").write_text("{}"),
        [
            f"train.json: category_ids and class_names are not {CLASSES} ids and names; ",
            "workbench train ",
            "which writes it again",
        ],
    ),
    "facts are a list": (
        "detect",
        lambda s: (s.seed / "train.json").write_text("[]"),
        ["train.json: facts of the training are not an object; delete the file, and run the step"],
    ),
    "facts with NaN": (
        "detect",
        lambda s: (s.seed / "train.json").write_text('{"seconds": NaN}'),
        ["train.json: facts of the training have the number NaN", "write or copy the file again"],
    ),
    "settings with text for a number": (
        "train",
        experiment(training={"learning_rate": "0.01"}),
        ["experiment.json: training.learning_rate: input should be a valid number (found '0.01')"],
    ),
    "settings with true for a number": (
        "train",
        experiment(training={"epochs": True}),
        ["experiment.json: training.epochs: input should be a valid integer (found True)"],
    ),
    "settings nested deeply": (
        "train",
        lambda s: (s.run / "experiment.json").write_text("[" * 100_000),
        ["experiment.json: settings of the run are nested too deeply"],
    ),
    "variant is a pipe": (
        "detect",
        lambda s: (s.variant.unlink(), os.mkfifo(s.variant)),
        ["quick.json: settings of an evaluation cannot be read (this is a pipe or a device, not a file)"],
    ),
    "no space for detections": (
        "detect",
        full_disk(files, "write_bytes_atomically", 5000),
        ["detections.json: cannot be written (File too large); free some space"],
    ),
    "no space for metrics": (
        "evaluate",
        full_disk(files, "write_bytes_atomically"),
        ["bootstrap.json: cannot be written (File too large); free some space"],
    ),
    "no variant": ("detect", lambda s: s.variant.unlink(), ["quick.json: ", "not found; check the path"]),
    "not detected": (
        "evaluate",
        lambda s: s.detections.unlink(),
        NOT_DETECTED,
    ),
    "detections truncated": (
        "evaluate",
        truncated(lambda s: s.detections),
        ["detections.json: not the detections that detection.json describes", "and detect again"],
    ),
    "code changed after the detection": (
        "evaluate",
        stated("detection.json", code_digest="shared:00000000"),
        ["detection.json: other code detected the objects", "delete ", "and detect again"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_and_leaves_no_result(mistake, scene, capfd):
    assert_one_line(scene, capfd, *MISTAKES[mistake])
