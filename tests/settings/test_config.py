"""Names on the command line of Snakemake reach the commands as they are, or one line states the spelling that does."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_config

from workbench.settings import files
from workbench.settings.catalog import DATA_PARTS
from workbench.settings.config import PipelineConfig, read_config
from workbench.support.errors import WorkbenchError

ROOT = Path(__file__).resolve().parents[2]
STRANGE = [
    "user's data",
    "my data",
    'the "best" one',
    "$(touch hacked)",
    "`touch hacked`",
    "$HOME",
    "data {v1}",
    "{",
    "}}{{",
    "{wildcards.run}",
    "-rf",
    "--help",
    "*",
    "?[a]",
    "a\\b",
    "a\\",
    "a&b;c|d>e",
    "!x",
    "~",
    "%s",
    "données ☃ 日本",
    "a" * 300,
]
IN_FILE = "set data_root in experiments/config.yaml, where the name may be in quotes"
READ_OTHERWISE = {
    "2024_05_01": ("20240501", "write data_root=./2024_05_01"),
    "007": ("7", "write data_root=./007"),
    "1e5": ("100000.0", "write data_root=./1e5"),
    "inf": ("inf", "write data_root=./inf"),
    "True": ("True", "write data_root=./True"),
    "[a]": ("['a']", "write data_root='./[a]'"),
    "{v1}": ("{'v1': ''}", "write data_root='./{v1}'"),
    "!x y": ("'y'", "write data_root='./!x y'"),
    "a: b": ("{'a': 'b'}", IN_FILE),
    "my #1": ("'my'", IN_FILE),
    "it's #1": ('"it\'s"', IN_FILE),
    "a\nb": ("'a b'", IN_FILE),
}


def own_data(folder: Path) -> Path:
    """Data set in COCO's layout without images."""
    for part in DATA_PARTS:
        path = folder / part
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        else:
            path.mkdir(parents=True)
    return folder


def typed(monkeypatch, *words: str) -> dict:
    """Config of a call of Snakemake with these words behind ``--config``."""
    monkeypatch.setattr(sys, "argv", ["snakemake", "table3", "--config", *words])
    return parse_config(list(words))


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_name_is_one_word_of_a_command(name):
    options = PipelineConfig(scale="bccd", data_root=Path(name), limit_steps=3).options
    as_run = options.format()  # as Snakemake formats a rule's shell command
    expected = ["--scale=bccd", f"--data-root={name}", "--limit-steps=3", "--seeds=1", "--weights=trained"]
    assert shlex.split(as_run) == expected


@pytest.mark.parametrize("name", ["true", "null", "0x10", "y", "a:b", "1:30", *STRANGE])
def test_a_strange_name_is_read_or_refused_with_its_spelling(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = typed(monkeypatch, f"data_root={name}")
    try:
        assert str(read_config(config | {"scale": "bccd"}).data_root) == name
    except WorkbenchError as error:
        message = str(error)
    else:
        return
    if len(name) > 255:
        assert message == f"{name[:200]}…: File name too long; check --config: data_root and its permissions"
        return
    assert "; write data_root=" in message
    word = shlex.split(message.rsplit("; write ", 1)[1])[0]
    assert read_config(typed(monkeypatch, "scale=bccd", word)).data_root == Path(name)


@pytest.mark.parametrize("name", READ_OTHERWISE)
def test_a_name_that_snakemake_reads_otherwise_is_refused_with_its_spelling(name, monkeypatch):
    read, remedy = READ_OTHERWISE[name]
    with pytest.raises(WorkbenchError) as error:
        read_config(typed(monkeypatch, "scale=bccd", f"data_root={name}"))
    message = str(error.value)
    assert message == f"--config: data_root: Snakemake reads {name!r} as {read}; {remedy}"
    if remedy != IN_FILE:
        word = shlex.split(remedy.removeprefix("write "))[0]
        assert read_config(typed(monkeypatch, "scale=bccd", word)).data_root == Path(name)


@pytest.mark.parametrize("name", [name for name in READ_OTHERWISE if "\n" not in name])
def test_a_file_states_any_name(name, experiments):
    path = experiments / "config.yaml"
    path.write_text(path.read_text().replace("data_root: null", f"data_root: {yaml.dump(name, default_style=chr(34))}"))
    files.forget()
    assert read_config({"scale": "bccd"}).data_root == Path(name)


def test_the_last_of_two_names_counts(monkeypatch):
    settings = read_config(typed(monkeypatch, "scale=bccd", "data_root=2024_05_01", "data_root=b"))
    assert settings.data_root == Path("b")


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0b", "caf\udce9", "a\tb", "\x1b[2J"])
@pytest.mark.parametrize("source", ["command line", "scale"])
def test_control_characters_in_a_folder_s_name_are_refused(name, source, experiments):
    if source == "command line":
        settings = {"scale": "bccd", "data_root": Path(name)}
    else:
        settings = {"scale": "farm"}
        text = f"extends: bccd\ntitle: own\nroot: {yaml.dump(name, default_style=chr(34))}"
        (experiments / "scales/farm.yaml").write_text(text)
        files.forget()
    with pytest.raises(WorkbenchError) as error:
        read_config(settings)
    message = str(error.value)
    assert "\n" not in message
    assert any(part in message for part in ("rename the folder", "; remove it", "not valid YAML"))


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    root = own_data(tmp_path / "data")
    stat = Path.stat

    def no_permission(self, **options):
        if root in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", no_permission)
    with pytest.raises(WorkbenchError) as error:
        read_config({"scale": "bccd", "data_root": root})
    expected = "annotations/instances_train2017.json: Permission denied; check --config: data_root and its permissions"
    assert str(error.value) == f"{root}/{expected}"


@pytest.mark.parametrize("scale", ["user's", "my scale", "$(x)", "{v1}", "a:b", "*", "-x", "ä", "a\nb", "..x"])
def test_a_scale_whose_name_cannot_be_a_folder_is_refused(scale, experiments):
    shutil.copy(experiments / "scales/bccd.yaml", experiments / "scales" / f"{scale}.yaml")
    files.forget()
    assert read_config({"scale": "bccd"}).scale == "bccd"  # the file of another scale disturbs nobody
    with pytest.raises(WorkbenchError) as error:
        read_config({"scale": scale})
    message = str(error.value)
    assert message.endswith("cannot be a folder of results; use letters, digits, _ . and - only")
    assert "\n" not in message


@pytest.mark.parametrize("scale", ["weights", "dataset-1", "mini-rehearsal"])
def test_a_scale_whose_folder_belongs_to_something_else_is_refused(scale, experiments):
    shutil.copy(experiments / "scales/bccd.yaml", experiments / "scales" / f"{scale}.yaml")
    files.forget()
    message = f"experiments/scales/{scale}.yaml: results/{scale} is the folder of something else; rename the file"
    with pytest.raises(WorkbenchError, match=f"^{message}$"):
        read_config({"scale": scale})


def test_a_scale_that_is_a_number_is_refused(experiments, monkeypatch):
    shutil.copy(experiments / "scales/bccd.yaml", experiments / "scales/2024.yaml")
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        read_config(typed(monkeypatch, "scale=2024"))
    remedy = "rename the scale's file, so that its name begins with a letter"
    assert str(error.value) == f"--config: scale: Snakemake reads '2024' as 2024; {remedy}"


def test_other_tables_and_scales_beside_the_own_ones(experiments):
    """A copied table beside the table, and a table of any name, are refused with one line or work."""
    shutil.copy(experiments / "vfnet/table3.yaml", experiments / "vfnet/table3_copy.yaml")
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        files.table_names()
    assert str(error.value) == (
        "experiments/vfnet/table3_copy.yaml: rows.t3_raw_fl: duplicate row id, also in experiments/vfnet/table3.yaml; "
        "rename one"
    )
    (experiments / "vfnet/table3_copy.yaml").rename(experiments / "vfnet/ablation.yaml")
    text = (experiments / "vfnet/ablation.yaml").read_text().replace("t3_", "ablation_")
    (experiments / "vfnet/ablation.yaml").write_text(text)
    files.forget()
    assert "ablation" in files.table_names()
    assert os.path.isfile(experiments / "vfnet/ablation.yaml")


@pytest.mark.parametrize("words", [["snakemake", "table3", "scale=coco"], ["workbench", "predict", "scale=a.jpg"]])
def test_a_target_or_a_picture_is_no_setting(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    assert read_config({}).scale == "mini"
