"""Where a number comes from: the commit, a digest of the code that trains, versions and the device."""

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

PACKAGE = Path(__file__).resolve().parent
DECIDES_NO_NUMBER = {
    "bench",
    "catalog.py",
    "checkpoint_file.py",
    "checkpoints.py",
    "cli.py",
    "confidence.py",
    "config.py",
    "costs.py",
    "devices.py",
    "errors.py",
    "files.py",
    "interrupts.py",
    "mmdet_names.py",
    "pipeline.py",
    "plan.py",
    "predict.py",
    "progress.py",
    "provenance.py",
    "released.py",
    "resampling.py",
    "report",
    "specs.py",
    "study.py",
    "yamlfile.py",
}
"""Parts of the package that neither train, nor detect, nor evaluate."""


@cache
def code_digest() -> str:
    """Eight hex digits of the code that makes the numbers; comments, blank lines and docstrings change nothing."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if name.parts[0] in DECIDES_NO_NUMBER:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if (
                isinstance(body, list)
                and body
                and isinstance(body[0], ast.Expr)
                and isinstance(body[0].value, ast.Constant)
            ):
                body[0].value.value = ""
        digest.update(f"{name.as_posix()}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()[:8]


def git_commit() -> str:
    """The commit that is checked out, with ``+`` where the tree differs from it; ``unknown`` outside git."""
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
    """Versions of Python and of the packages that take part in the numbers."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "timm", "pycocotools", "numpy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def device_name() -> str:
    """The GPU's name, or the processor's with the number of threads."""
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
    """The most memory that this process has held so far, in MiB: tensors on its GPU, or all that it has on a CPU."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    units = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units)


def provenance() -> dict:
    """All of it, for a JSON file."""
    return {
        "git_commit": git_commit(),
        "code_digest": code_digest(),
        "versions": versions(),
        "device": device_name(),
        "peak_memory_mb": peak_memory_mb(),
    }
