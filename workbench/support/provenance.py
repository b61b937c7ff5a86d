"""Provenance of a number: the commit, a digest of the training code, versions and the device."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel

from workbench.support.code_digest import PACKAGE, code_digest


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


PACKAGES = ("torch", "torchvision", "timm", "pycocotools", "numpy", "pillow", "mmcv")
"""Packages that influence the numbers."""
OPTIONAL = ("mmcv",)
"""Packages that are stated only if they are installed."""
EVALUATOR_PACKAGES = ("pycocotools", "numpy")
"""Packages that the evaluation of detections uses: pycocotools for the IoU, NumPy for the rest."""


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of packages."""
    packages = {"python": platform.python_version()}
    for name in names:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            if name not in OPTIONAL:
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


def provenance(experiment: BaseModel) -> dict:
    """Return the provenance of a number that this process computes for an experiment, for a JSON file."""
    return {
        "git_commit": git_commit(),
        "code_digest": code_digest(experiment),
        "versions": versions(),
        "device": device_name(),
        "peak_memory_mb": peak_memory_mb(),
    }
