"""Files that MMDetection 2 or 3 saved, read without executing anything that they hold.

Checkpoints hold more than tensors: histories of the losses, NumPy's numbers, settings. PyTorch's restricted reader lets
through what is listed here, each as a class that keeps nothing and does nothing, and refuses the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.support.errors import WorkbenchError

INERT = {
    "builtins": ("getattr", "list", "dict", "int", "float"),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
    "mmengine.logging.message_hub": ("MessageHub",),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
}
"""What MMEngine, and MMCV before it, save beside the weights, by module: read as a stand-in."""
AVERAGED = ("ema_state_dict", "swa_state_dict")
AVERAGED_NAME = re.compile(r"(ema|swa)_(model\.)?(module\.)?")
"""Averaged weights: a state of their own beside the plain one, or names that start so within it."""
COUNTERS = ("steps", "n_averaged")
"""How many states an average is made of; no weights."""
TOLD = ("mmdet_version", "mmcv_version", "mmengine_version", "epoch", "iter", "time", "seed", "exp_name")
"""What is kept of the facts that a checkpoint states of itself."""


class Inert:
    """Stands in for whatever a checkpoint wants to make: takes everything, keeps nothing."""

    def __new__(cls, *_: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class EmptyDict(Inert):
    """The same for a kind of mapping, since the reader puts entries into plain ones only."""

    def __new__(cls, *_: Any) -> dict:
        return {}


def _stand_in(module: str, name: str, base: type = Inert) -> type:
    return type(name, (base,), {"__module__": module, "__qualname__": name})


STAND_INS = [
    *(_stand_in(module, name) for module, names in INERT.items() for name in names),
    _stand_in("collections", "defaultdict", EmptyDict),
]


@dataclass(frozen=True)
class Checkpoint:
    """What is used of a file: weights by MMDetection's names, and what it states of itself."""

    weights: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    facts: dict[str, Any]
    said: tuple[str, ...]
    """What was chosen and left out, a line each."""


def read_checkpoint(file: Path) -> Checkpoint:
    """The weights in a checkpoint of MMDetection: ``{"state_dict": …, "meta": …}`` or the bare state.

    Plain weights are taken, averaged ones only where there are no others.

    Raises:
        WorkbenchError: no such file, not a checkpoint, one that carries code, or without weights.
    """
    content = _load(file)
    if not isinstance(content, Mapping):
        raise WorkbenchError(f"{file}: a {type(content).__name__}, not a state of weights; give a checkpoint's file")
    key = next((key for key in ("state_dict", *AVERAGED) if isinstance(content.get(key), Mapping)), None)
    said = [f"{other}: left out, {key} is taken" for other in AVERAGED if other in content and other != key]
    if key in AVERAGED:
        said.append(f"{key}: taken, there are no plain weights")
    weights, more = _plain_names(content if key is None else content[key])
    odd = [name for name, value in weights.items() if not _is_plain_tensor(value)]
    if odd or not weights:
        found = f"'{odd[0]}' is a {type(weights[odd[0]]).__name__}" if odd else "no tensor in it"
        raise WorkbenchError(f"{file}: not a state of weights ({found}); give a checkpoint of MMDetection")
    meta = content.get("meta") if key else None
    meta = meta if isinstance(meta, Mapping) else {}
    facts = {name: meta[name] for name in TOLD if isinstance(meta.get(name), str | int)}
    return Checkpoint(weights, _class_names(meta), facts, (*said, *more))


def _load(file: Path) -> Any:
    if not file.is_file():
        raise WorkbenchError(f"{file}: no such file; fetch the checkpoint from its publishers first")
    try:
        with torch.serialization.safe_globals(STAND_INS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WorkbenchError(f"{file}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception as error:
        # Of a foreign object, under whatever message, the reader gives the full name.
        foreign = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if foreign:
            raise WorkbenchError(
                f"{file}: it asks for {foreign[1]}, which is neither weights nor what MMDetection saves beside "
                "them; nothing was executed, do not trust the file"
            ) from None
        raise WorkbenchError(
            f"{file}: not a checkpoint of PyTorch, or one cut short ({type(error).__name__}); fetch it again"
        ) from None


def _plain_names(state: Mapping) -> tuple[dict[str, Any], list[str]]:
    """Entries by the names that a detector itself gives them, plain ones where there are any; and what was done."""
    plain: dict[str, Any] = {}
    averaged: dict[str, Any] = {}
    for name, value in state.items():
        name = str(name).removeprefix("module.")
        if name not in COUNTERS:
            start = AVERAGED_NAME.match(name)
            (averaged if start else plain)[name[start.end() :] if start else name] = value
    if averaged and plain:
        return plain, [f"{len(averaged)} averaged tensors: left out, the plain weights are taken"]
    return (averaged, ["averaged weights: taken, there are no plain ones"]) if averaged else (plain, [])


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _class_names(meta: Mapping) -> tuple[str, ...] | None:
    """``CLASSES`` of version 2, ``dataset_meta`` of version 3."""
    of_data = meta.get("dataset_meta")
    found = meta.get("CLASSES") or (of_data.get("classes") if isinstance(of_data, Mapping) else None)
    if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return None
