"""The checkout of the repository: the folder with ``experiments/`` and ``notebooks/``."""

from __future__ import annotations

from pathlib import Path

from workbench.support.errors import WorkbenchError

MARK = Path("experiments/config.yaml")
"""A file that every checkout has."""


def find_checkout() -> Path:
    """Return the folder of the checkout.

    It is the checkout around this package. If the package is installed elsewhere (``pip install .``), it is the current
    folder or the nearest folder above that is a checkout.

    Raises:
        WorkbenchError: no checkout is found.
    """
    package, here = Path(__file__).resolve().parents[2], Path.cwd()
    for folder in (package, here, *here.parents):
        if (folder / MARK).is_file():
            return folder
    raise WorkbenchError(
        f"{here}: not in a checkout of the VFNet workbench (no {MARK} here or in a folder above); "
        "clone its repository and run workbench there, or install it from there with pip install -e ."
    )
