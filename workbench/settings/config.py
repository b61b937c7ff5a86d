"""Settings of the pipeline, ``snakemake --config key=value``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from pydantic import Field

from workbench.settings.base import Settings
from workbench.settings.catalog import Rehearsal
from workbench.settings.files import catalogue, scale_names
from workbench.settings.layers import Layers
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place, choose


class PipelineConfig(Settings):
    """Settings of the pipeline. ``experiments/config.yaml`` states the values that are not on the command line."""

    scale: str = "mini"
    seeds: int = Field(1, ge=1, description="number of trainings per run")
    weights: Literal["trained", "released"] = "trained"
    data_root: Path | None = None
    limit_steps: int | None = Field(None, ge=1)
    limit_images: int | None = Field(None, ge=1)
    gpus: int | None = Field(None, ge=1, description="GPUs of one training; None: one if this machine has any")
    micro_batch: int | None = Field(None, ge=1)

    @property
    def rehearsal(self) -> Rehearsal:
        """Rehearsal with the limits; its truth value is false if there are no limits."""
        return Rehearsal(self.limit_steps, self.limit_images)

    @property
    def world_options(self) -> str:
        """Scale, data set and rehearsal, as options of the commands, quoted for a rule's shell command."""
        return _as_options(self, "scale", "data_root", "limit_steps", "limit_images")

    @property
    def options(self) -> str:
        """World options, seeds and weights, as options of the commands about tables."""
        return f"{self.world_options} {_as_options(self, 'seeds', 'weights')}"


def _as_options(settings: PipelineConfig, *names: str) -> str:
    """Settings as options of a command. Braces are doubled, since Snakemake formats a rule's shell command."""
    values = {name: getattr(settings, name) for name in names}
    text = " ".join(f"--{n.replace('_', '-')} {shlex.quote(str(v))}" for n, v in values.items() if v is not None)
    return text.replace("{", "{{").replace("}", "}}")


def read_config(config: dict) -> PipelineConfig:
    """Check the settings on the command line (Snakemake's ``config``), laid over ``experiments/config.yaml``.

    Raises:
        WorkbenchError: an unknown key or scale, or a value of the wrong type. The message names the place.
    """
    content, place = catalogue().read("config.yaml")
    command_line = Place("--config")
    if "paper" in config:
        raise WorkbenchError(f"{command_line.at('paper')}: the names of tables depend on this key; set it in {place}")
    layers = Layers({key: value for key, value in content.items() if key != "paper"}, place)
    layers.lay(Layers(config, command_line))
    settings = layers.validated(PipelineConfig)
    choose(settings.scale, scale_names(), "scale", layers.place(("scale",)))
    return settings
