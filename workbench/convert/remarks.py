"""Faults and notes about the files of a data set, counted by kind, so that one line reports each kind."""

from __future__ import annotations

from pathlib import Path

from workbench.data.findings import Findings


class Remarks:
    """Faults, which end a conversion, and notes, which are printed after it. Both name the first place of a kind."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._faults: dict[str, tuple[str, int]] = {}
        self._notes: dict[str, tuple[str, int]] = {}

    def fault(self, place: str, problem: str, remedy: str) -> None:
        """Add a fault. Faults with the same remedy are of one kind.

        Args:
            place: file below the root, and the entry of the file.
        """
        first, count = self._faults.get(remedy, (f"{place}: {problem}", 0))
        self._faults[remedy] = first, count + 1

    def note(self, kind: str, place: str) -> None:
        """Add a case of a kind: a noun in the plural, such as "boxes without a size are left out"."""
        first, count = self._notes.get(kind, (place, 0))
        self._notes[kind] = first, count + 1

    @property
    def notes(self) -> list[str]:
        """One line for each kind of note."""
        return [f"{count} {kind} (first: {first})" for kind, (first, count) in self._notes.items()]

    def raise_faults(self) -> None:
        """Raise a WorkbenchError that lists every kind of fault in one line; return if there is no fault."""
        findings = Findings(self._root)
        for remedy, (first, count) in self._faults.items():
            findings.fault(first, remedy, count)
        findings.raise_faults()
