"""Faults and notes of one annotation file, collected so that one message reports all faults of the file."""

from __future__ import annotations

import reprlib
from pathlib import Path

from workbench.support.errors import WorkbenchError

KINDS = 8
"""Largest number of kinds of faults in one message."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 2, 50, 40


def shown(value: object) -> str:
    """Text of any value in a message: at most 100 characters, with escapes for unprintable characters."""
    return _SHORT.repr(value)[:100]


class Findings:
    """Faults and notes of one file.

    Attributes:
        notes: lines for the log about entries that are unusual, but not ambiguous.
    """

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path = path
        self._faults: list[tuple[str, str]] = []

    def fault(self, problem: str, remedy: str, count: int = 1) -> None:
        """Add one kind of fault.

        Args:
            problem: description of the first fault of this kind.
            count: number of faults of this kind.
        """
        others = f" (and {count - 1} more of this kind)" if count > 1 else ""
        self._faults.append((f"{problem}{others}", remedy))

    def raise_faults(self) -> None:
        """Raise a WorkbenchError that lists every kind of fault in one line; return if there is no fault."""
        if not self._faults:
            return
        texts = [f"{problem}; {remedy}" for problem, remedy in self._faults]
        if len(texts) == 1:
            raise WorkbenchError(f"{self._path}: {texts[0]}")
        listed = " ".join(f"({number}) {text}." for number, text in enumerate(texts[:KINDS], 1))
        rest = f" {len(texts) - KINDS} more kinds are not listed." if len(texts) > KINDS else ""
        raise WorkbenchError(f"{self._path}: {len(texts)} kinds of faults: {listed}{rest}")
