"""The pipeline's own settings, ``snakemake --config key=value``, and what the Snakefile asks of the machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field

from workbench.settings.catalog import Rehearsal
from workbench.settings.experiment import Settings
from workbench.settings.files import FOLDER, scale_names
from workbench.support.strict_yaml import Origins, choose, merge, read_yaml, validated


class PipelineConfig(Settings):
    """Defaults stand in ``experiments/config.yaml``."""

    scale: str = "mini"
    seeds: int = Field(1, ge=1, description="number of trainings of each run")
    weights: Literal["trained", "released"] = "trained"
    data_root: Path | None = None
    limit_steps: int | None = Field(None, ge=1)
    limit_images: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=1, description="of one training; None: one where this machine has any")
    micro_batch: int | None = Field(None, ge=1)

    @property
    def rehearsal(self) -> Rehearsal:
        """What is cut short, if anything."""
        return Rehearsal(self.limit_steps, self.limit_images)

    @property
    def world_options(self) -> str:
        """Scale, data set and rehearsal, as options of the commands, quoted for a rule's shell command."""
        return _as_options(self, "scale", "data_root", "limit_steps", "limit_images")

    @property
    def options(self) -> str:
        """The world's options, seeds and weights, as options of the commands about tables."""
        return f"{self.world_options} {_as_options(self, 'seeds', 'weights')}"


def _as_options(settings: PipelineConfig, *names: str) -> str:
    """Settings as options of a command. Braces are doubled, since Snakemake formats a rule's shell command."""
    values = {name: getattr(settings, name) for name in names}
    text = " ".join(f"--{n.replace('_', '-')} {shlex.quote(str(v))}" for n, v in values.items() if v is not None)
    return text.replace("{", "{{").replace("}", "}}")


def read_config(config: dict) -> PipelineConfig:
    """What the command line says (Snakemake's ``config``) over ``experiments/config.yaml``, checked.

    An unknown key or scale, or a value of the wrong type, is an error of one line that names the place.
    """
    content: dict = {}
    origins: Origins = {}
    merge(content, read_yaml(FOLDER / "config.yaml"), origins, "experiments/config.yaml: ")
    merge(content, config, origins, "--config: ")
    settings = validated(PipelineConfig, content, origins)
    choose(settings.scale, scale_names(), "scale", origins.get(("scale",), "scale"))
    return settings
