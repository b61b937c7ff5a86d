"""Names of tensors in a file → names of a detector alone: wrappers are removed, and one set of weights is chosen.

Programs wrap a detector before they save it. They put ``module.`` before each name (several processes), ``_orig_mod.``
(a compiled model), ``model.`` (Lightning and others), or ``teacher.`` and ``student.`` (semi-supervised training).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.support.errors import WorkbenchError

COMPILED = "_orig_mod."
"""Part of the name of a compiled module, which may be any part of the detector."""
WRAPPERS = ("module.", "model.", "teacher.", "student.")
AVERAGED_NAME = re.compile(r"(ema|swa)_(model\.)?(module\.)?")
"""Start of the names of averaged weights next to plain weights."""
COUNTERS = ("steps", "n_averaged")
"""Names of counters in averaged states. Counters are not weights."""


def plain_names(state: Mapping, place: str) -> tuple[dict[str, Any], list[str]]:
    """Return the weights of one detector by their names without wrappers, and notes about each choice.

    The weights are the plain ones, or averaged ones if there are no plain weights. MMDetection detects with the teacher
    of a semi-supervised training, so a student next to a teacher is left out.

    Args:
        place: start of the message.

    Raises:
        WorkbenchError: two different tensors have the same name without wrappers.
    """
    sets: dict[str, dict[str, Any]] = {"plain": {}, "averaged": {}, "student": {}}
    removed: Counter[str] = Counter()
    for name, value in state.items():
        bare, wrappers = _unwrapped(str(name))
        if bare in COUNTERS:
            continue
        removed.update(wrappers)
        start = AVERAGED_NAME.match(bare)
        kind = "averaged" if start else "student" if "student." in wrappers else "plain"
        _put(sets[kind], bare[start.end() :] if start else bare, value, place)
    notes = [f"{wrapper}: removed from the names of {count} tensors" for wrapper, count in removed.items()]
    plain, averaged, student = sets["plain"], sets["averaged"], sets["student"]
    if student and "teacher." in removed:
        notes.append(f"{len(student)} tensors of student.: left out, the weights of teacher. are used")
    else:
        for name, value in student.items():
            _put(plain, name, value, place)
    if averaged and plain:
        notes.append(f"{len(averaged)} averaged tensors: left out, the plain weights are used")
    elif averaged:
        notes.append("averaged weights: used, the file has no plain weights")
    return plain or averaged, notes


def _unwrapped(name: str) -> tuple[str, list[str]]:
    """Name without wrappers, and the wrappers."""
    bare = name.replace(COMPILED, "")
    wrappers = [COMPILED] if bare != name else []
    while wrapper := next((wrapper for wrapper in WRAPPERS if bare.startswith(wrapper)), None):
        bare = bare.removeprefix(wrapper)
        wrappers.append(wrapper)
    return bare, wrappers


def _put(weights: dict[str, Any], name: str, value: Any, place: str) -> None:
    """Add a tensor, or raise a WorkbenchError if another tensor has its name."""
    if name in weights and not _equal(weights[name], value):
        raise WorkbenchError(
            f"{place}: two different tensors have the name {name} without their wrappers; save the state_dict of one "
            "detector alone"
        )
    weights[name] = value


def _equal(first: Any, second: Any) -> bool:
    tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    return tensors and first.layout == second.layout == torch.strided and torch.equal(first, second)
