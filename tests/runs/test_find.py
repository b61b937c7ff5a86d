"""Values that ``--run`` accepts, and the data set of a training."""

import re
from pathlib import Path

import pytest

from workbench.runs.find import data_folder, find_data, find_split, find_training, refuse_missing_world
from workbench.runs.results import drawn_data
from workbench.settings.catalog import find_row, load_row
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError


@pytest.fixture
def settings():
    return PipelineConfig()


def test_a_row_names_its_training(tmp_path, settings):
    row = load_row("table3", "t3_full_vfl")
    training, named_row = find_training("t3_full_vfl", None, settings, tmp_path)
    assert named_row == row
    assert training.folder == tmp_path / "mini" / "runs" / row.run / "seed0"
    training, _ = find_training("t3_full_vfl", "released", settings, tmp_path)
    assert training.weights == tmp_path / "mini" / "runs" / row.run / "released" / "model.safetensors"


def test_absolute_and_relative_folders_name_a_training(tmp_path, settings, new_run, monkeypatch):
    run = new_run(load_row("table3", "t3_full_vfl").experiment)
    (run.folder / "seed3").mkdir()
    monkeypatch.chdir(tmp_path)
    for folder in (run.folder, run.folder.relative_to(tmp_path)):
        training, row = find_training(str(folder), "3", settings, tmp_path)
        assert (training.seed, row) == ("3", None)
        assert training.run.read_experiment() == run.read_experiment()
        assert find_training(str(folder / "seed3"), None, settings, tmp_path)[0] == training
        assert find_training(f"{folder}/seed3/", "3", settings, tmp_path)[0] == training
    monkeypatch.chdir(run.folder)
    assert find_training("seed3", None, settings, tmp_path)[0].run.name == run.name
    monkeypatch.chdir(run.folder / "seed3")
    assert find_training(".", None, settings, tmp_path)[0].folder == run.folder / "seed3"


@pytest.mark.parametrize(
    ("run", "seed", "message"),
    [
        ("t3_full_vlf", None, "--run: unknown row 't3_full_vlf'; did you mean 't3_full_vfl'?"),
        ("results/mini/runs/x", None, "results/mini/runs/x: no such folder; name a row, a run's folder or a"),
    ],
)
def test_mistakes_in_run(tmp_path, settings, run, seed, message):
    with pytest.raises(WorkbenchError, match=re.escape(message)):
        find_training(run, seed, settings, tmp_path)


def test_a_training_and_another_seed_contradict_each_other(tmp_path, settings, new_run):
    run = new_run(load_row("table3", "t3_full_vfl").experiment)
    (run.folder / "seed3").mkdir()
    with pytest.raises(WorkbenchError, match="this is the training of seed 3, not of 0; leave --seed out"):
        find_training(str(run.folder / "seed3"), "0", settings, tmp_path)


def test_the_drawn_data_set_of_a_training_is_found(tmp_path, new_run):
    row = load_row("table3", "t3_full_vfl")
    experiment, run = row.experiment, new_run(row.experiment)
    for seed, world in ((0, 0), (3, 3), (100_003, 3), ("released", 0)):
        training, folder = run.training(seed), drawn_data(tmp_path, experiment.data, world)
        assert folder.name == f"world{world}"
        assert find_data(experiment, training, None) == data_folder("mini", tmp_path, seed=seed) == folder
        assert find_split(experiment, training, None) == row.split(seed)
        assert find_data(experiment, training, Path("other")) == Path("other")
    coco = load_row("table3", "t3_full_vfl", "coco").experiment
    with pytest.raises(WorkbenchError, match="add --data-root FOLDER"):
        find_data(coco, new_run(coco).training(0), None)


def test_a_world_that_is_not_drawn_is_refused_with_the_command_that_draws_it(tmp_path):
    root = tmp_path / "my results" / "world3"
    with pytest.raises(WorkbenchError) as error:
        refuse_missing_world(root, 3, "mini")
    command = f"workbench dataset '{root}' --scale=mini --world=3"
    assert str(error.value) == f"{root}: this world is not drawn yet; draw it ({command})"
    root.mkdir(parents=True)
    refuse_missing_world(root, 3, "mini")


def test_a_row_is_found_in_any_table():
    assert find_row("gfl3_qfl_dfl") == load_row("gfl_table3", "gfl3_qfl_dfl")


def test_a_row_without_its_data_set_is_refused(tmp_path):
    """The digest of the annotations is part of the run's name, so the name is unknown without them."""
    with pytest.raises(WorkbenchError, match="scale coco needs a data set"):
        find_training("t3_full_vfl", None, PipelineConfig(scale="coco"), tmp_path)
