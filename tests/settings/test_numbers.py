"""Every number in the settings is finite, of its own type and within bounds, wherever it is written."""

import json
import time
from pathlib import Path
from typing import Annotated, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from workbench.losses.classification import ClassificationLoss
from workbench.settings import claims, files, released
from workbench.settings.base import Settings
from workbench.settings.catalog import load_row, load_table
from workbench.settings.config import read_config
from workbench.settings.variant import Variant
from workbench.support.errors import WorkbenchError
from workbench.support.files import read_json
from workbench.support.strict_yaml import validated

LABEL = {("RowSpec", "labels"), ("DataSpec", "classes")}
"""Fields for any text, number or truth value."""


def models(base: type[BaseModel]) -> list[type[BaseModel]]:
    return [model for child in base.__subclasses__() for model in (child, *models(child))]


def leaves(annotation: object) -> set[type]:
    """Types at the ends of an annotation such as ``tuple[int, int] | None``."""
    if get_origin(annotation) is Annotated:
        return leaves(get_args(annotation)[0])
    parts = get_args(annotation)
    return {annotation} if not parts else {leaf for part in parts if part is not ... for leaf in leaves(part)}


FIELDS = [
    (model, name, leaves(field.annotation) & {int, float})
    for model in (*models(Settings), *models(ClassificationLoss))
    for name, field in model.model_fields.items()
    if leaves(field.annotation) & {int, float} and (model.__name__, name) not in LABEL
]
NUMBERS = {"inf": float("inf"), "-inf": -float("inf"), "nan": float("nan"), "true": True, "text": "5", "huge": 10**30}


def wrapped(value: object) -> list[object]:
    """The value as it may be written in the field: alone, in lists of the right lengths, in a group."""
    return [value, [value], [value] * 2, [value] * 4, {"AP": value}, {"t3_raw_fl": value}]


def test_the_settings_have_many_numbers():
    assert len(FIELDS) > 40
    assert set(models(Settings)) >= {claims.Claim, released.Released}
    assert {"learning_rate", "gamma", "seeds", "published", "layers", "short", "candidates"} <= {
        f for _, f, _ in FIELDS
    }


@pytest.mark.parametrize("kind", NUMBERS)
def test_no_field_takes_a_number_of_the_wrong_kind(kind):
    accepted = []
    for model, field, types in FIELDS:
        if kind == "huge" and types == {float}:
            continue  # finite; the loss becomes infinite, which ends a training with one line
        for value in wrapped(NUMBERS[kind]):
            try:
                model.model_validate({field: value})
                accepted.append((model.__name__, field, value))
            except ValidationError as error:
                if field not in {problem["loc"][0] for problem in error.errors() if problem["loc"]}:
                    accepted.append((model.__name__, field, value))
    assert not accepted


YAML_VALUES = (
    ".inf",
    "-.inf",
    ".nan",
    "1e400",
    "true",
    "yes",
    '"5"',
    "010",
    "1_000",
    "1:30",
    "9" * 5000,
    "[1]",
    "2024-01-01",
)


@pytest.mark.parametrize("value", YAML_VALUES)
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("scales/mini.yaml", " 1x: {", " 1x: {epochs: %s} #{"),
        ("scales/mini.yaml", "flip: 0.5", "flip: %s"),
        ("recipes.yaml", "warmup_ratio: 0.1", "warmup_ratio: %s"),
        ("vfnet/table3.yaml", "{name: focal}", "{name: focal, gamma: %s}"),
        ("config.yaml", "seeds: 1", "seeds: %s"),
    ],
)
def test_a_wrong_number_in_a_file_is_one_line(experiments, file, old, new, value):
    path = experiments / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new % value))
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        load_table("table3", read_config({}).scale)
    message = str(error.value)
    assert message.startswith((f"experiments/{file}: ", f"{path}, line "))
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(
    "layers", ["0", "[0, 0, 0, 0]", "[3, 4, 6]", "[1, 1, 1, 1, 1]", "[1, 1, 1, true]", "[]", "text"]
)
def test_layers_that_are_none_are_one_line(experiments, layers):
    path = experiments / "scales" / "mini.yaml"
    text = path.read_text()
    assert "layers: [1, 1, 1, 1]" in text
    path.write_text(text.replace("layers: [1, 1, 1, 1]", f"layers: {layers}", 1))
    files.forget()
    with pytest.raises(WorkbenchError, match=r"^experiments/scales/mini\.yaml: backbones\.resnet50\.layers") as error:
        load_row("table3", "t3_raw_fl")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["NaN", "1e400", "true", '"0.6"', "[]", "null", "9" * 5000, "-1"])
def test_a_wrong_number_in_a_variant_is_one_line(tmp_path, value):
    path = tmp_path / "variant.json"
    image = json.dumps({"long": 128, "short": 96})
    path.write_text(f'{{"image": {image}, "nms_iou": {value}}}')
    with pytest.raises(WorkbenchError, match=r"variant\.json: ") as error:
        validated(Variant, read_json(path, "settings of an evaluation"), str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seeds", [10**9, 1001, 10**30, 0, -1, 1.5, True, "3"])
def test_an_impossible_number_of_seeds_is_refused_at_once(seeds):
    start = time.monotonic()
    with pytest.raises(WorkbenchError, match=r"^--config: seeds: input should be ") as error:
        read_config({"seeds": seeds})
    assert time.monotonic() - start < 1
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["[vfnet]", "{a: b}", "5", '"a\\nb"', "true"])
@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("recipes.yaml", "family: vfnet", "family: %s"),
        ("recipes.yaml", "name: varifocal", "name: %s"),
        ("recipes.yaml", "name: resnet50", "name: %s"),
        ("recipes.yaml", "schedule: 1x", "schedule: %s"),
        ("vfnet/table3.yaml", "base: vfnet_raw", "base: %s"),
        ("vfnet/table3.yaml", "compared_with: t3_raw_fl", "compared_with: %s"),
        ("scales/mini.yaml", "kind: embedded", "kind: %s"),
        ("config.yaml", "paper: vfnet", "paper: %s"),
        ("config.yaml", "scale: mini", "scale: %s"),
    ],
)
def test_a_name_of_the_wrong_type_is_one_line(experiments, file, old, new, value):
    path = Path(experiments / file)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new % value))
    files.forget()
    with pytest.raises(WorkbenchError, match=r"^experiments") as error:
        load_table("table3", read_config({}).scale)
    assert "\n" not in str(error.value)
