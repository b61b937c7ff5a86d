"""Settings of the pipeline, ``snakemake --config key=value``."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from workbench.settings.base import Settings
from workbench.settings.catalog import DATA_PARTS, Rehearsal
from workbench.settings.experiment import MOST_IMAGES, MOST_STEPS
from workbench.settings.files import OWN, catalogue, is_own, is_scale_file, read_scale, scale_names
from workbench.settings.initial import PUBLISHED
from workbench.settings.layers import Layers
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place, choose


class PipelineConfig(Settings):
    """Settings of the pipeline. ``experiments/config.yaml`` states the values that are not on the command line."""

    scale: str = "mini"
    seeds: int = Field(1, ge=1, le=1000, description="number of trainings per run; each seed is a training")
    first_seed: int = Field(0, ge=0, le=999_999_000, description="first seed; the others follow it")
    weights: Literal["trained", "released"] = "trained"
    data_root: Path | None = Field(None, strict=False)
    init: str | None = Field(None, min_length=1, description="trained detector from which all trainings start")
    split: Literal["val", "test"] = "val"
    limit_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    limit_images: int | None = Field(None, ge=1, le=MOST_STEPS)
    gpus: int | None = Field(None, ge=1, le=1000, description="most GPUs of a training; None: one if there are any")
    micro_batch: int | None = Field(None, ge=1, le=MOST_IMAGES)

    @property
    def requested_seeds(self) -> range:
        """Seeds of the trainings that are asked for."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def rehearsal(self) -> Rehearsal:
        """Rehearsal with the limits; its truth value is false if there are no limits."""
        return Rehearsal(self.limit_steps, self.limit_images)

    @property
    def world_options(self) -> str:
        """Scale, data set, start and rehearsal, as options of the commands, quoted for a rule's shell command."""
        return _as_options(self, "scale", "data_root", "init", "limit_steps", "limit_images")

    @property
    def options(self) -> str:
        """World options, seeds and weights, as options of the commands about tables."""
        return f"{self.world_options} {_as_options(self, 'seeds', 'weights')}"

    @property
    def table_options(self) -> str:
        """Options of the command that writes a table, which alone shows the test split."""
        return f"{self.options} {_as_options(self, 'split')}"


def _as_options(settings: PipelineConfig, *names: str) -> str:
    """Settings as options of a command. Braces are doubled, since Snakemake formats a rule's shell command.

    An option and its value are one word, because a value may begin with a dash.
    """
    values = {name: getattr(settings, name) for name in names}
    words = (f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None)
    return shlex.join(words).replace("{", "{{").replace("}", "}}")


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
    for key in NAMES:
        _check_spelling(layers.content.get(key), key, layers.place((key,)))
    settings = layers.validated(PipelineConfig)
    if not is_scale_file(settings.scale) and not is_own(settings.scale):
        choose(settings.scale, scale_names(), "scale", layers.place(("scale",)))
    if "scale" not in config and settings.data_root and read_scale(settings.scale).data.get("kind") == "embedded":
        settings = settings.model_copy(update={"scale": OWN})
    if settings.init is not None and CONTROL.search(settings.init):
        place = layers.place(("init",))
        raise WorkbenchError(f"{place}: {settings.init!r} has a line break or another control character; rename it")
    if settings.init is not None and settings.weights == PUBLISHED:
        raise WorkbenchError(
            f"{layers.place(('init',))}: weights={PUBLISHED} trains nothing where there are published weights; leave "
            "out init or weights"
        )
    root, place = settings.data_root, layers.place(("data_root",))
    if root is None and (stated := read_scale(settings.scale).root) is not None:
        root, place = Path(stated), catalogue().scale(settings.scale).layers.place(("root",))
    if root is not None:
        _check_folder(root, place)
    return settings


NAMES = ("scale", "data_root", "init")
"""Settings whose values are names of files and folders."""
CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and halves of surrogate pairs, Python's form of the bytes of a name that is not UTF-8."""
LONGEST_NAME = 200
"""Largest number of characters of a path in a message."""


def _check_spelling(value: object, key: str, place: Place) -> None:
    """Raise if Snakemake, which reads values as YAML, changed a name on its command line."""
    typed = next((word.removeprefix(f"{key}=") for word in reversed(_config()) if word.startswith(f"{key}=")), None)
    if typed is None or value is None or (isinstance(value, str | Path) and str(value) == typed.strip("'\"")):
        return
    relative = f"./{typed}"
    if key == "scale":
        remedy = "rename the scale's file, so that its name begins with a letter"
    elif _as_yaml(relative) == relative.rstrip("'\""):
        remedy = f"write {key}={shlex.quote(relative)}"
    else:
        remedy = f"set {key} in experiments/config.yaml, where the name may be in quotes"
    raise WorkbenchError(f"{place}: Snakemake reads {typed!r} as {value!r}; {remedy}")


def _config() -> list[str]:
    """Words of the command line that Snakemake takes for settings; `scale=coco` elsewhere is a target or a file."""
    words: list[str] = []
    is_setting = False
    for word in sys.argv[1:]:
        if word.startswith("-"):
            is_setting = word in ("--config", "-C")
        elif is_setting:
            words.append(word)
    return words


def _as_yaml(text: str) -> object:
    try:
        return yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError:
        return text


def _check_folder(root: Path, place: Place) -> None:
    """Raise if a data set's folder cannot be a word of a command, or if it cannot be searched."""
    if CONTROL.search(str(root)):
        raise WorkbenchError(f"{place}: {str(root)!r} has a line break or another control character; rename the folder")
    for path in (root, *(root / part for part in DATA_PARTS)):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            name = str(path) if len(str(path)) < LONGEST_NAME else f"{str(path)[:LONGEST_NAME]}…"
            raise WorkbenchError(f"{name}: {error.strerror}; check {place} and its permissions") from None
