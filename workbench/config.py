"""The pipeline's own settings, ``snakemake --config key=value``, and what the Snakefile asks of the machine."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from workbench.catalog import Rehearsal
from workbench.experiment import Settings
from workbench.yamlfile import validated


class PipelineConfig(Settings):
    """Defaults stand in ``experiments/config.yaml``."""

    scale: str = "mini"
    seeds: int = Field(1, ge=1, description="number of trainings of each run")
    data_root: Path | None = None
    limit_steps: int | None = Field(None, ge=1)
    limit_images: int | None = Field(None, ge=1)
    gpus: int = Field(1, ge=1)
    micro_batch: int | None = Field(None, ge=1)

    @property
    def rehearsal(self) -> Rehearsal:
        """What is cut short, if anything."""
        return Rehearsal(self.limit_steps, self.limit_images)

    @property
    def options(self) -> str:
        """The same settings as options of ``workbench table`` and ``workbench figure``."""
        named = {
            "scale": self.scale,
            "seeds": self.seeds,
            "data-root": self.data_root,
            "limit-steps": self.limit_steps,
            "limit-images": self.limit_images,
        }
        return " ".join(f"--{key} '{value}'" for key, value in named.items() if value is not None)


def read_config(config: dict) -> PipelineConfig:
    """Snakemake's ``config``, checked: an unknown key or a value of the wrong type is an error of one line."""
    return validated(PipelineConfig, dict(config), "--config")
