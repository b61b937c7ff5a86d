"""Provenance of a number: the commit, a digest of the training code, versions and the device."""

from __future__ import annotations

import ast
import hashlib
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
TRAINING = ("boxes.py", "losses", "assigners", "settings", "layers", "data", "detectors", "training")
"""Rooms whose code decides what is learnt."""
EVALUATION = (*TRAINING, "evaluation")
"""Rooms whose code decides metrics and the conclusions from metrics, such as intervals."""


@cache
def code_digest(rooms: tuple[str, ...] = TRAINING) -> str:
    """Digest (eight hex digits) of the code in some rooms of the package, equal on every version of Python.

    The digest covers definitions and constants. Comments, docstrings, imports, file names and the order of definitions
    do not change it. A function can therefore move to another file of these rooms.
    """
    statements = []
    for room in rooms:
        for path in sorted((PACKAGE / room).rglob("*.py")) or [PACKAGE / room]:
            statements += _statements(ast.parse(path.read_text(encoding="utf-8")))
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()[:8]


def _statements(module: ast.Module) -> list[str]:
    """Top-level statements of a module as text, without docstrings, imports and blocks of ``if TYPE_CHECKING``."""
    type_checking = (
        isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" for node in module.body
    )
    return [
        _text(node) for node, skip in zip(module.body, type_checking, strict=True) if not (skip or _has_no_effect(node))
    ]


def _text(node: object) -> str:
    """Text of a syntax tree. The text of ``ast.dump`` depends on the version of Python; this text does not.

    Empty fields are left out, since newer versions of Python add fields.
    """
    if isinstance(node, list):
        return "[" + ",".join(_text(item) for item in node if not _has_no_effect(item)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    named = ((name, value) for name, value in ast.iter_fields(node) if name not in ("ctx", "kind", "type_comment"))
    fields = (f"{name}={_text(value)}" for name, value in named if value is not None and value != [])
    return f"{type(node).__name__}({','.join(fields)})"


def _has_no_effect(node: object) -> bool:
    """Whether a statement decides no number: an import, or a docstring (of a constant, too)."""
    return isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def git_commit() -> str:
    """Hash of the commit that is checked out, with ``+`` if files differ from that commit; ``unknown`` outside git."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *args], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
            ).stdout.strip()
            for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that influence the numbers."""
    packages = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "pycocotools", "numpy", "pillow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "unknown"
    return packages


def device_name() -> str:
    """Name of the GPU; without a GPU, name of the processor and number of threads."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {torch.get_num_threads()} thread(s)"


def peak_memory_mb() -> int:
    """Peak memory of this process so far, in MiB: of the tensors on its GPU, or, without a GPU, of the process."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    units = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux counts KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units)


def provenance() -> dict:
    """Return the provenance of a number that this process computes, for a JSON file."""
    return {
        "git_commit": git_commit(),
        "code_digest": code_digest(),
        "versions": versions(),
        "device": device_name(),
        "peak_memory_mb": peak_memory_mb(),
    }
