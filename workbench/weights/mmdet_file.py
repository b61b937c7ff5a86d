"""Reader of files with weights of MMDetection 2 or 3. Nothing that a file contains is executed.

Checkpoints contain more than tensors: histories of the losses, NumPy's numbers, settings. PyTorch's restricted reader
accepts the classes that are listed here and refuses all others. In place of a listed class, the reader uses a
stand-in that stores nothing and does nothing. Files with the suffix ``.safetensors`` contain tensors only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workbench.support.errors import WorkbenchError, one_line
from workbench.weights.state_names import plain_names

INERT = {
    "argparse": ("Namespace",),
    "builtins": ("getattr", "list", "dict", "int", "float"),
    "mmengine.logging.history_buffer": ("HistoryBuffer",),
    "mmengine.logging.message_hub": ("MessageHub",),
    "numpy": ("ndarray", "dtype"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
}
"""Classes and functions that MMEngine, MMCV before it, and other programs save next to the weights, by module."""
STATES = ("state_dict", "model", "model_state_dict")
"""Keys of the weights in a checkpoint."""
AVERAGED = ("ema_state_dict", "swa_state_dict")
"""Keys of averaged weights next to the weights or in their place."""
FACTS = ("mmdet_version", "mmcv_version", "mmengine_version", "epoch", "iter", "time", "seed", "exp_name")
"""Facts about the training that are kept from a checkpoint."""


CONFIGS = ("config", "cfg")
"""Keys of the text of the configuration, in versions 2 and 3."""


class Inert:
    """Stand-in for an object of a checkpoint; accepts all arguments and stores nothing."""

    def __new__(cls, *_: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class EmptyDict(Inert):
    """Stand-in for a kind of mapping: a plain dictionary, because the reader can fill no other mapping."""

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
    """Parts of a checkpoint that the import uses.

    Attributes:
        weights: tensors by MMDetection's names, without wrappers such as ``module.``.
        class_names: names of the classes, if the file states them.
        facts: facts about the training.
        config: text of the configuration; "" if the file has none.
        notes: one line per choice and per part that was left out.
    """

    weights: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    facts: dict[str, Any]
    config: str
    notes: tuple[str, ...]


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint: ``{"state_dict": …, "meta": …}``, ``{"model": …}``, the bare state, or ``.safetensors``.

    Averaged weights are used only if the file has no plain weights.

    Raises:
        WorkbenchError: the file is missing, is not a checkpoint, contains code, or has no weights.
    """
    content = _load(file)
    if not isinstance(content, Mapping):
        raise WorkbenchError(
            f"{file}: contains a {type(content).__name__}, not weights; name a checkpoint of MMDetection"
        )
    key = next((key for key in (*STATES, *AVERAGED) if isinstance(content.get(key), Mapping)), None)
    notes = [f"{other}: left out, {key} is used" for other in AVERAGED if other in content and other != key]
    if key in AVERAGED:
        notes.append(f"{key}: used, the file has no plain weights")
    weights, name_notes = plain_names(content if key is None else content[key], str(file))
    others = [name for name, value in weights.items() if not _is_plain_tensor(value)]
    if others or not weights:
        fault = f"'{others[0]}' is a {type(weights[others[0]]).__name__}" if others else "it has no tensor"
        raise WorkbenchError(f"{file}: contains no weights ({fault}); name a checkpoint of MMDetection")
    meta = content.get("meta") if key else None
    meta = meta if isinstance(meta, Mapping) else {}
    facts = {name: meta[name] for name in FACTS if isinstance(meta.get(name), str | int)}
    config = next((meta[key] for key in CONFIGS if isinstance(meta.get(key), str)), "")
    return Checkpoint(weights, _class_names(meta), facts, config, (*notes, *name_notes))


def _load(file: Path) -> Any:
    if not file.is_file():
        raise WorkbenchError(f"{file}: no such file; download the checkpoint from its publishers first")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals(STAND_INS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WorkbenchError(
            f"{file}: not a complete safetensors file ({one_line(error)}); download it again, or correct its suffix"
        ) from None
    except OSError as error:
        raise WorkbenchError(
            f"{file}: cannot read it ({error.strerror or error}); check the path and its permissions"
        ) from None
    except Exception as error:
        # The reader's message varies, but it always contains the full name of a class that is not listed.
        foreign = re.search(r"\bGLOBAL ([\w.]+)", str(error))
        if foreign:
            raise WorkbenchError(
                f"{file}: contains {foreign[1]}, which is not part of a checkpoint of MMDetection; "
                "nothing was executed; do not trust this file, use another one, or a file with the state_dict alone"
            ) from None
        raise WorkbenchError(
            f"{file}: not a complete checkpoint of PyTorch ({type(error).__name__}); download it again, or correct its "
            "suffix"
        ) from None


def _is_plain_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and value.device.type == "cpu"


def _class_names(meta: Mapping) -> tuple[str, ...] | None:
    """Names of the classes: in ``CLASSES`` of version 2 or ``dataset_meta`` of version 3."""
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None
