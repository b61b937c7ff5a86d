"""Normalisation of images that a checkpoint of MMDetection states. All detectors here have the same one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.data.batch import MEAN, STD
from workbench.support.errors import WorkbenchError
from workbench.weights.mmdet_file import Checkpoint

VALUES = re.compile(r"\b(mean|std)['\"]?\s*[=:]\s*[\[(]([^\])]*)[\])]")
"""Values of three channels in the text of a configuration. Other values have other names, e.g. ``target_means``."""
ORDER = re.compile(r"\b(?:bgr_)?to_rgb['\"]?\s*[=:]\s*(True|False)")
"""Order of the channels: images are read as BGR, and are turned to RGB or not."""
BUFFERS = {"mean": "data_preprocessor.mean", "std": "data_preprocessor.std"}
"""Tensors with the values, which few files have."""
OWN = {"mean": MEAN, "std": STD}


def check_normalisation(checkpoint: Checkpoint, file: Path) -> list[str]:
    """Return a note if a checkpoint does not state how its images are normalised.

    Raises:
        WorkbenchError: the checkpoint states another normalisation than that of the detectors here.
    """
    stated = {key: list(_stated(checkpoint, key)) for key in OWN}
    others = [
        f"{key} {', '.join(f'{value:g}' for value in values[0])}"
        for key, values in stated.items()
        if values and not any(_equal(value, OWN[key]) for value in values)
    ]
    orders = ORDER.findall(checkpoint.config)
    if orders and "True" not in orders:
        others.append("channels in the order BGR")
    if others:
        own = "; ".join(f"{key} {', '.join(f'{value:g}' for value in values)}" for key, values in OWN.items())
        raise WorkbenchError(
            f"{file}: its backbone needs images with {'; '.join(others)}, but the detectors here have images with "
            f"{own}; RGB; choose a file with a backbone in the style of PyTorch"
        )
    return [] if all(stated.values()) else ["normalisation of images: not stated, taken as that of the detectors here"]


def _stated(checkpoint: Checkpoint, key: str) -> Iterator[Sequence[float]]:
    """Values of three channels that a checkpoint states for the mean or the deviation."""
    if (buffer := checkpoint.weights.get(BUFFERS[key])) is not None:
        yield buffer.flatten().tolist()
    for name, text in VALUES.findall(checkpoint.config):
        try:
            values = [float(number) for number in text.split(",") if number.strip()]
        except ValueError:
            continue
        if name == key and len(values) == len(OWN[key]):
            yield values


def _equal(values: Sequence[float], others: Sequence[float]) -> bool:
    return len(values) == len(others) and all(map(lambda a, b: math.isclose(a, b, rel_tol=1e-3), values, others))
