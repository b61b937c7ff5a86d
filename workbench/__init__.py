"""The VFNet workbench: re-run, check and extend the experiments of VarifocalNet (CVPR 2021).

The front door for notebooks and other people's code; torch is loaded on first use of what needs it.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "build_detector": "workbench.detectors",
    "load_experiment": "workbench.settings.catalog",
    "load_row": "workbench.settings.catalog",
    "load_run": "workbench.runs.load",
}

__all__ = ["build_detector", "load_experiment", "load_row", "load_run"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")
