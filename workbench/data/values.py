"""Columns of values from the entries of an annotation file: numbers, flags, boxes, and ids with their references.

A whole column is converted at once if all its values have the usual types, and value by value otherwise. A number may
be given as text. Any other value is a fault, which is collected, so that the next columns are checked, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.data.findings import Findings, shown

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,19}(\.0*)?", re.ASCII)
_FLAGS = {None: False, 0: False, 1: True, "0": False, "1": True, "false": False, "true": True}
_ADD, _UNIQUE = "add it", "make the ids unique"


@dataclass(frozen=True)
class Entries:
    """One list of an annotation file.

    Attributes:
        kind: name of an entry in messages: image, annotation or category.
        items: entries of the list.
    """

    kind: str
    items: list[dict[str, Any]]
    findings: Findings

    def values(self, key: str) -> list:
        """Values of one key in the order of the file; None for a missing value."""
        return [item.get(key) for item in self.items]

    def place(self, index: int) -> str:
        """Name of an entry in messages."""
        id_ = self.items[index].get("id")
        usable = type(id_) is int or (isinstance(id_, str) and 0 < len(id_) <= 40)
        return f"{self.kind} {shown(id_)}" if usable else f"{self.kind} number {index + 1} of the file"

    def fault(self, wrong: list[int] | NDArray[np.int64], problem: str, remedy: str) -> None:
        """Collect a fault of the entries with the indices ``wrong``; the message names the first of these entries."""
        if len(wrong):
            self.findings.fault(f"{self.place(int(wrong[0]))} {problem}", remedy, len(wrong))


def entries_of(values: list, kind: str, findings: Findings) -> Entries:
    """Entries of a list. An item that is not an object is a fault."""
    if set(map(type, values)) <= {dict}:
        return Entries(kind, values, findings)
    wrong = [i for i, value in enumerate(values) if not isinstance(value, dict)]
    problem = f"{kind} number {wrong[0] + 1} of the file is {shown(values[wrong[0]])}"
    findings.fault(problem, "use an object with keys", len(wrong))
    return Entries(kind, [value for value in values if isinstance(value, dict)], findings)


def numbers(entries: Entries, key: str) -> NDArray[np.float64]:
    """Numbers of one key ``[N]``; NaN for a missing number."""
    values = entries.values(key)
    if _types(values) <= {int, float, type(None)}:
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass
    return np.array(_each(entries, key, values, _number, "a number", needed=False), dtype=np.float64)


def whole_numbers(entries: Entries, key: str, missing: int | None = None) -> NDArray[np.int64]:
    """Whole numbers of one key ``[N]`` that fit into 64 bits; 640.0 and "640" are 640.

    Args:
        missing: number in place of a missing value; None if a missing value is a fault.
    """
    values = entries.values(key)
    if _types(values) <= {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    converted = _each(entries, key, values, as_whole, "a whole number of at most 64 bits", needed=missing is None)
    return np.array([(missing or 0) if value is None else value for value in converted], dtype=np.int64)


def flags(entries: Entries, key: str) -> NDArray[np.bool_]:
    """Flags of one key ``[N]``: 0, 1, false or true, also as text; a missing flag is false."""
    values = entries.values(key)
    if _types(values) <= {int, bool, type(None)} and set(values) <= {0, 1, None}:
        return np.array(values, dtype=bool)
    return np.array(_each(entries, key, values, _flag, "0 or 1", needed=False), dtype=bool)


def boxes(entries: Entries, key: str) -> NDArray[np.float64]:
    """Boxes of one key ``[N, 4]``; NaN where a fault was collected."""
    values = entries.values(key)
    if (
        _types(values) <= {list}
        and set(map(len, values)) <= {4}
        and _types(chain.from_iterable(values)) <= {int, float}
    ):
        try:
            return np.array(values, dtype=np.float64).reshape(-1, 4)
        except OverflowError:
            pass
    converted = _each(entries, key, values, as_box, "4 numbers", needed=True)
    return np.array([[math.nan] * 4 if value is None else value for value in converted]).reshape(-1, 4)


@dataclass(frozen=True)
class Ids:
    """Ids of a list, and the index of the entry to which a reference belongs.

    Attributes:
        numbers: ``[N]``; ids that are text are numbered from 1 in the order of the file.
        texts: text of an id → index of its entry; None if all ids are numbers.
    """

    numbers: NDArray[np.int64]
    texts: dict[str, int] | None

    def positions(self, entries: Entries, key: str) -> NDArray[np.int64]:
        """Index of the entry that each value of a key names; -1 if the list has no such entry."""
        if self.texts is not None:
            values = _each(entries, key, entries.values(key), _text_id, "an id", needed=True)
            return np.array([self.texts.get(value, -1) for value in values], dtype=np.int64)
        wanted = whole_numbers(entries, key)
        if not len(self.numbers):
            return np.full(len(wanted), -1)
        order = np.argsort(self.numbers)
        nearest = order[np.searchsorted(self.numbers, wanted, sorter=order).clip(max=len(order) - 1)]
        return np.where(self.numbers[nearest] == wanted, nearest, -1)


def ids(entries: Entries) -> Ids:
    """Ids of the entries; an id that occurs twice is a fault."""
    values = entries.values("id")
    text = [value.strip() for value in values if isinstance(value, str)]
    if all(map(_WHOLE.fullmatch, text)) and len({as_whole(value) for value in text}) == len(set(text)):
        result = whole_numbers(entries, "id")
        unique, first, counts = np.unique(result, return_index=True, return_counts=True)
        repeated = np.flatnonzero(counts > 1)
        twice = [i for i in repeated if as_whole(values[first[i]]) is not None]  # a wrong id is a fault of another kind
        if twice:
            problem = f"{entries.kind} id {unique[twice[0]]} occurs {counts[twice[0]]} times"
            entries.findings.fault(problem, _UNIQUE, len(twice))
        return Ids(result, None)
    converted = _each(entries, "id", values, _text_id, "a whole number or text", needed=True)
    texts: dict[str, int] = {}
    for index, value in enumerate(converted):
        if value is not None and texts.setdefault(value, index) != index:
            entries.findings.fault(f"{entries.kind} id {shown(value)} occurs more than once", _UNIQUE)
            break
    entries.findings.notes.append(f"ids of {entries.kind} entries are text; they are numbered from 1 in file order")
    return Ids(np.arange(1, len(values) + 1), texts)


def _types(values: Any) -> set[type]:
    return set(map(type, values))


def _each(entries: Entries, key: str, values: list, convert: Callable, expected: str, *, needed: bool) -> list:
    """Convert values one by one; None for a wrong or missing value."""
    converted = [None if value is None else convert(value) for value in values]
    wrong = [i for i, value in enumerate(values) if value is not None and converted[i] is None]
    missing = [i for i, value in enumerate(values) if value is None]
    if wrong:
        entries.fault(wrong, f"has the '{key}' {shown(values[wrong[0]])}", f"use {expected}")
    if needed:
        entries.fault(missing, f"has no '{key}'", _ADD)
    if convert is not _text_id and (count := sum(map(_contains_text, values))):
        entries.findings.notes.append(f"'{key}' of {count} {entries.kind} entries is text, read as numbers")
    return converted


def _contains_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and any(isinstance(part, str) for part in value))


def _number(value: Any) -> float | None:
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    try:
        return float(value) if type(value) in (int, float, str) else None
    except OverflowError:
        return math.inf


def as_whole(value: Any) -> int | None:
    """Whole number of at most 64 bits in a value of the file; None for any other value."""
    if isinstance(value, str):
        value = int(value.strip().partition(".")[0]) if _WHOLE.fullmatch(value.strip()) else None
    if type(value) not in (int, float) or value % 1 != 0 or not -(2**63) <= value < 2**63:
        return None
    return int(value)


def _flag(value: Any) -> bool | None:
    value = value.strip().lower() if isinstance(value, str) else value
    return _FLAGS.get(value) if isinstance(value, int | float | str) else None


def as_box(value: Any) -> list[float] | None:
    """Four numbers, finite or not, in a value of the file; None for any other value."""
    parts = [_number(part) for part in value] if isinstance(value, list) and len(value) == 4 else [None]
    return None if None in parts else parts


def _text_id(value: Any) -> str | None:
    if isinstance(value, str):
        return value.strip() or None
    number = as_whole(value)
    return None if number is None else str(number)
