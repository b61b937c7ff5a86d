"""Trained detector from which a run starts: the weights that a row or the command line names, and their digest."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from workbench.settings.experiment import InitialWeights
from workbench.settings.released import read_released
from workbench.settings.specs import InitSpec
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import near_miss

PUBLISHED = "released"
"""Word for the published weights of a row's detector."""
COMMAND_LINE = "init"
"""Place of weights that ``--init`` or ``--config`` names."""
DIGITS = 8
"""Number of digits of a digest. Digests of published weights are listed with this number of digits."""


@dataclass(frozen=True)
class Start:
    """Weights from which a run starts.

    Attributes:
        weights: name of published weights, or path of a file.
        is_published: whether ``weights`` is a name.
        sha256: first eight digits of the SHA-256; None if there is a fault.
        fault: line about the reason why the run cannot start. Other rows of a call may start nevertheless.
    """

    weights: str
    is_published: bool
    sha256: str | None
    fault: str | None = None

    @property
    def settings(self) -> InitialWeights:
        """Part of the experiment."""
        return InitialWeights(sha256=self.sha256)


def stated_start(init: str) -> InitSpec:
    """Weights that the command line names, with the present digest of a file.

    Raises:
        WorkbenchError: the file cannot be read, or published weights of this name cannot be a start.
    """
    spec = InitSpec(weights=init)
    if init == PUBLISHED:
        return spec  # other weights for each row
    start = find_start(spec, COMMAND_LINE, list)
    if start.fault:
        raise WorkbenchError(start.fault)
    return InitSpec(weights=init, sha256=start.sha256)


def find_start(spec: InitSpec, place: str, of_row: Callable[[], Iterable[str]]) -> Start:
    """Find the weights that a row or the command line names.

    Args:
        place: start of the message about a fault.
        of_row: function that returns the names of the published weights of the row's detector.
    """
    released, name = read_released(), spec.weights
    if name == PUBLISHED:
        names = list(of_row())
        listed = next((name for name in names if released[name].sha256), None)
        if listed is None:
            problem = f"the digest of {' and '.join(names)} is not listed" if names else "none for this row"
            with_digest = [name for name, weights in released.items() if weights.sha256]
            known = f"published weights ({', '.join(with_digest)})"
            return Start(name, True, None, f"{place}: published weights: {problem}; name a file or other {known}")
        name = listed
    if name in released:
        weights = released[name]
        digest = spec.sha256 or weights.sha256
        if weights.geometry or not digest:
            problem = f"have the geometry of {weights.geometry}" if weights.geometry else "have no listed digest"
            return Start(name, True, None, f"{place}: the weights {name} {problem}; name a file or other weights")
        return Start(name, True, digest[:DIGITS])
    if spec.sha256:
        return Start(name, False, spec.sha256[:DIGITS])
    try:
        return Start(name, False, _digest(Path(name).absolute())[:DIGITS])
    except OSError as error:
        remedy = f"correct the path{near_miss(name, [PUBLISHED, *released])}"
        if Path(name).is_dir():
            remedy = "name a file in it"
        return Start(name, False, None, f"{place}: {name}: cannot be read ({error.strerror}); {remedy}")


def _digest(file: Path) -> str:
    """SHA-256 of a file, which is read once in a process as long as it does not change; raises OSError."""
    status = file.stat()
    if not file.is_file():  # to open a named pipe would wait for ever
        raise OSError(errno.EINVAL, "not a file")
    return _digest_of(file, (status.st_ino, status.st_size, status.st_mtime_ns))


@cache
def _digest_of(file: Path, state: tuple[int, ...]) -> str:
    """SHA-256 of a file in this state."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
