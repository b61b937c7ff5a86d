"""Fit of a file's tensors to a detector: every name and shape is checked, differences are summarised in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.weights.mmdet_names import CONSTANTS, Place

CLASSIFIER = ("head.cls_out.weight", "head.cls_out.bias")
"""Our names of the last layer of the classification branch, the same in every family."""
NAMED = 3
"""Number of tensors that a summary names."""


@dataclass(frozen=True)
class Fit:
    """Weights under our names of a detector, and the differences of the weights from the detector's state.

    Attributes:
        state: our name → tensor; zeros where the weights have no tensor for a name.
        missing: our names without a tensor.
        unexpected: their names that the detector does not have.
        other: their names of tensors of another shape or kind, not finite, or duplicate → line about the difference.
        outputs: number of outputs of the file's classifier; None if the file has no classifier of this family.
        notes: lines about what was left out or converted.
    """

    state: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    other: dict[str, str]
    outputs: int | None
    notes: list[str]

    @property
    def differences(self) -> str:
        """Line about all differences with the first names of each kind; "" if the weights fit the detector."""
        kinds = {
            "missing": (self.missing, self.missing),
            "unexpected": (self.unexpected, self.unexpected),
            "different": (self.other, list(self.other.values())),
        }
        return "; ".join(_summary(kind, names, lines) for kind, (names, lines) in kinds.items() if names)

    @property
    def has_other_classes(self) -> bool:
        """Whether the number of classes is the only difference."""
        expected = len(self.state[CLASSIFIER[1]])
        return (
            self.outputs not in (None, expected)
            and not self.missing
            and not self.unexpected
            and all(line.startswith("shape: ") for line in self.other.values())
            and len(self.other) <= len(CLASSIFIER)
        )


def fit_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], place: Callable[[str], Place | None]
) -> Fit:
    """Copy every tensor to its place in a detector's state, in single precision, and check names and shapes.

    Args:
        weights: their name → tensor.
        expected: state of the detector; it is not changed.
        place: their name → our name, or our name and an element; None for a name that the detector does not have.
    """
    state = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    source: dict[Place, str] = {}
    unexpected, other, outputs, notes = [], {}, None, []
    for name, tensor in weights.items():
        if name in CONSTANTS:
            notes.append(f"{name}: left out, not a weight")
            continue
        at = place(name)
        ours, element = at if isinstance(at, tuple) else (at, None)
        if ours not in state or (element is not None and element >= len(state[ours])):
            unexpected.append(name)
            continue
        if ours == CLASSIFIER[1] and tensor.ndim == 1:
            outputs = len(tensor)
        slot = state[ours] if element is None else state[ours][element]
        if problem := _problem(name, tensor, slot, source.get(at)):
            other[name] = problem
        else:
            slot.copy_(tensor)
        source.setdefault(at, name)
    half = sum(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in weights.values())
    notes += [f"{half} tensors of half precision: converted to single"] if half else []
    return Fit(state, list(_places_without(source, expected)), unexpected, other, outputs, notes)


def _problem(name: str, tensor: Tensor, slot: Tensor, first: str | None) -> str | None:
    """Line about a tensor that does not fit a slot, or None; ``first`` is the name of a tensor already in this slot."""
    if first is not None:
        return f"duplicate: {name} and {first}"
    if tensor.shape != slot.shape:
        return f"shape: {name} is {list(tensor.shape)}, not {list(slot.shape)}"
    if tensor.is_floating_point() != slot.is_floating_point():
        return f"kind: {name} is {tensor.dtype}, not {slot.dtype}"
    if not torch.isfinite(tensor.to(slot.dtype)).all():
        return f"not finite: {name}"
    return None


def _places_without(source: Mapping[Place, str], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """Our names without a tensor. The counter of BatchNorm may be absent because nothing reads it."""
    for name, tensor in expected.items():
        if name in source or name.endswith("num_batches_tracked"):
            continue
        rows = len(tensor) if tensor.ndim else 1
        without = [i for i in range(rows) if (name, i) not in source]
        yield from [name] if len(without) == rows else [f"{name}[{i}]" for i in without]


def _summary(kind: str, names: Collection[str], lines: list[str]) -> str:
    """Number of tensors of a kind, their numbers by part of the detector, and the first lines."""
    parts = Counter(map(part_of, names))
    counted = ", ".join(f"{parts[part]} {part}" for part in ("backbone", "neck", "head", "other") if parts[part])
    more = ", …" if len(lines) > NAMED else ""
    return f"{len(names)} {kind} ({counted}): {', '.join(lines[:NAMED])}{more}"


def part_of(name: str) -> str:
    """Part of a detector that a tensor belongs to, by our name or by MMDetection's."""
    part = name.split(".")[0].removeprefix("bbox_")
    return part if part in ("backbone", "neck", "head") else "other"
