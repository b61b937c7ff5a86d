"""Pretraining of a backbone on drawn objects, and its file of weights with the facts about them."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import torch
from safetensors.torch import save

from workbench.settings.experiment import DrawnPretraining, Experiment
from workbench.settings.ids import drawn_objects, pretraining_id
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_bytes_atomically, write_json_atomically
from workbench.support.progress import Reporter
from workbench.training.pretraining import pretrain


def write_backbone(experiment: Experiment, file: Path) -> None:
    """Pretrain the backbone of an experiment and write its weights; a file beside them states how they were made.

    Raises:
        WorkbenchError: the experiment's backbone does not start from such weights, or the file cannot be written.
    """
    backbone = experiment.backbone
    if not isinstance(backbone.pretrained, DrawnPretraining):
        raise WorkbenchError(
            f"{backbone.name}: not pretrained on drawn objects at this scale; name a scale such as mini"
        )
    if file.suffix != ".safetensors":
        raise WorkbenchError(f"{file}: the name must end in .safetensors; rename it")
    name, data, start = pretraining_id(experiment), drawn_objects(experiment), time.monotonic()
    with Reporter(name, 0) as reporter:
        weights, accuracy = pretrain(
            backbone,
            backbone.pretrained,
            data,
            lambda step, steps, loss: reporter.say(f"step {step} of {steps}, loss {loss:.3f}"),
        )
    content = save(weights)
    facts = {
        "name": name,
        "command": f"workbench pretrain --run ROW {file.name}",
        "backbone": backbone.model_dump(mode="json", exclude={"pretrained", "frozen_stages", "norm", "dcn"}),
        "recipe": backbone.pretrained.model_dump(mode="json"),
        "drawing": data.drawing,
        "categories": [category.name for category in data.categories],
        "accuracy": round(accuracy, 4),
        "seconds": round(time.monotonic() - start),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_bytes_atomically(file, content)
    write_json_atomically(file.with_suffix(".json"), facts)
