"""Copies of the scale mini with few images to draw, so that tests of the pipeline are fast."""

import re
from pathlib import Path

from workbench.settings.catalog import embedded_settings

MINI = embedded_settings("mini").drawn_for(0)
"""Settings of the data set that the scale mini draws, in world 0."""
CLASSES = MINI.classes
"""Number of categories at the scale mini."""


def draw_few(experiments: Path, train: int, val: int) -> Path:
    """Change the file of the scale mini in a copy of ``experiments/``, and return it.

    Args:
        train, val: numbers of images of the two splits.
    """
    file = experiments / "scales" / "mini.yaml"
    data = f"data: {{kind: embedded, world: seed, train_images: {train}, val_images: {val}}}"
    text, replaced = re.subn(r"(?m)^data: \{.*\}$", data, file.read_text())
    assert replaced == 1, f"{file} has no data in one line"
    file.write_text(text)
    return file
