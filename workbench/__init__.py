"""The VFNet workbench: re-run, check and extend the experiments of VarifocalNet (CVPR 2021).

The front door for notebooks and other people's code; torch is loaded on first use of what needs it.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "build_detector": "workbench.detectors",
    "data_folder": "workbench.settings.catalog",
    "embedded_settings": "workbench.settings.catalog",
    "load_experiment": "workbench.settings.catalog",
    "load_row": "workbench.settings.catalog",
    "load_run": "workbench.runs.load",
    "load_table": "workbench.settings.catalog",
    "read_config": "workbench.settings.config",
    "read_released": "workbench.settings.released",
    "read_scale": "workbench.settings.files",
    "read_table": "workbench.settings.files",
    "released_runs": "workbench.settings.released",
    "scale_names": "workbench.settings.files",
    "table_names": "workbench.settings.files",
    "trainings_of": "workbench.settings.released",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")
