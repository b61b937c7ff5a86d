"""Published weights: whose they are, which rows they stand for and what their publishers report. Nothing heavy here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from workbench.catalog import FOLDER
from workbench.families import Settings
from workbench.yamlfile import read_yaml, validated


class Released(Settings):
    """A checkpoint that somebody published. What is not known is None."""

    publisher: Literal["authors", "mmdetection"]
    """The authors of the paper, or MMDetection, which trained the detectors again by its own configuration."""
    config: str | None = None
    """Of MMDetection 3.3.0, without ``.py``: the same detector, by its own training settings."""
    rows: dict[str, float | None] = Field(min_length=1)
    """Rows of tables that the weights stand for; AP in percent on val2017 that the publisher reports, at that row."""
    file: str | None = None
    url: str | None = Field(None, pattern=r"^https://")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")


class _File(Settings):
    checkpoints: dict[str, Released]


def read_released() -> dict[str, Released]:
    """All published weights by name.

    Raises:
        WorkbenchError: a mistake in the file, with its place.
    """
    path = FOLDER / "released.yaml"
    return validated(_File, read_yaml(path), "experiments/released.yaml").checkpoints
