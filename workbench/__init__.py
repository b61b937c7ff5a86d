"""The VFNet workbench: re-run, check and extend the experiments of VarifocalNet (CVPR 2021).

Public functions for notebooks and other code. Each is imported on first use, so torch is loaded only if needed.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "build_detector": "workbench.detectors",
    "load_experiment": "workbench.settings.catalog",
    "load_row": "workbench.settings.catalog",
    "load_run": "workbench.runs.load",
    "load_table": "workbench.settings.catalog",
    "scale_names": "workbench.settings.files",
    "table_names": "workbench.settings.files",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")
