"""Identity of a training: facts that decide its result. Files that state another identity are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.settings.digest import TRAIN, split_digest
from workbench.settings.experiment import Experiment
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError

PARTS = "micro_batch x ranks x accumulation"
"""Key in files of earlier versions, in which the machine decided the canvases and the normalisers of a step."""
REMEDIES = {
    "data": "name the data set of this training with --data-root",
    "pretrained": "name the --pretrained file of this training",
}
"""Key of an identity → change of the command that continues the other training."""


def identity(
    experiment: Experiment, seed: int, data_root: Path, pretrained: Mapping[str, str] | None
) -> dict[str, Any]:
    """Return the facts that decide what a training learns, as JSON values.

    Args:
        pretrained: name and SHA-256 of the file with which backbone or detector starts; None for random weights.

    Raises:
        WorkbenchError: the training data cannot be read, or they are not the data of the run.
    """
    data = split_digest(data_root, TRAIN)
    stated = experiment.data.digest if experiment.data.kind == "coco" else None
    if stated not in (None, data.annotations):
        raise WorkbenchError(
            f"{data_root}: the training annotations have the digest {data.annotations}, but {run_id(experiment)} is "
            f"a run on annotations with the digest {stated}; name the data set of this run with --data-root, or "
            "train the row by its name, which makes a new run for this data set"
        )
    return {
        "run": run_id(experiment),
        "seed": seed,
        "data": {TRAIN: data.facts()},
        "pretrained": None if pretrained is None else dict(pretrained),
    }


def refuse_others(file: Path, stated: Mapping[str, Any], own: Mapping[str, Any], otherwise: str) -> None:
    """Raise a WorkbenchError if a file states another identity.

    Args:
        file: place of the message.
        stated: content of the file. Keys of an identity that it lacks are not compared.
        own: identity of this training.
        otherwise: remedy if no change of the command can help.
    """
    if not str(stated.get(PARTS, "1 x 1 x 1")).endswith(" x 1 x 1"):
        raise WorkbenchError(
            f"{file}: an earlier version trained this run in parts ({PARTS}: {stated[PARTS]}), which had canvases "
            f"of their own; {otherwise}"
        )
    differing = [key for key in own if key in stated and stated[key] != own[key]]
    if not differing:
        return
    remedies = [REMEDIES[key] for key in differing if key in REMEDIES]
    ways = [*remedies, otherwise] if len(remedies) == len(differing) else [otherwise]
    listed = "; ".join(line for key in differing for line in _differences(key, stated[key], own[key]))
    raise WorkbenchError(f"{file}: belongs to another training ({listed}); {', or '.join(ways)}")


def _differences(name: str, stated: Any, own: Any) -> Iterator[str]:
    """Text such as ``seed 0, not 1`` for each value that differs."""
    if isinstance(stated, Mapping) and isinstance(own, Mapping):
        for key in sorted(stated.keys() | own.keys()):
            if stated.get(key) != own.get(key):
                yield from _differences(f"{name} {key}", stated.get(key), own.get(key))
    else:
        yield f"{name} {_short(stated)}, not {_short(own)}"


def _short(value: Any) -> str:
    """Text of a value in one line."""
    if isinstance(value, Mapping):
        return " ".join(str(part) for part in value.values())
    return "none" if value is None else str(value)
