"""Paths below ``results/``, which only one module builds and parses, and the values that ``--run`` accepts."""

import ast
import re
from pathlib import Path

import pytest

import workbench
from workbench.runs.find import data_folder, find_data, find_split, find_training, refuse_missing_world
from workbench.runs.folders import Run, drawn_data, scale_folder
from workbench.settings.catalog import Rehearsal, find_row, load_row
from workbench.settings.config import PipelineConfig
from workbench.settings.data import EmbeddedData
from workbench.support.errors import WorkbenchError

PACKAGE = Path(workbench.__file__).parent
LITERALS = re.compile(r"metrics\.json|bootstrap\.json|model\.safetensors|seed\{|/runs/|\"runs\"|experiment\.json")


def code(path):
    """Source of a module without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)


def test_only_one_module_names_the_files_of_a_run():
    owner = PACKAGE / "runs" / "folders.py"
    named = {str(path.relative_to(PACKAGE)): LITERALS.findall(code(path)) for path in PACKAGE.rglob("*.py")}
    assert {path for path, literals in named.items() if literals} == {str(owner.relative_to(PACKAGE))}
    assert not LITERALS.search((PACKAGE.parent / "Snakefile").read_text())
    assert set(named["runs/folders.py"]) >= {"metrics.json", "seed{", "model.safetensors", "experiment.json"}


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


def test_scales_with_the_same_drawing_share_its_worlds(tmp_path):
    own = EmbeddedData(world="seed")
    assert drawn_data(tmp_path, own, 3) == drawn_data(tmp_path, EmbeddedData(world=3), 3)
    assert drawn_data(tmp_path, own, 3) != drawn_data(tmp_path, EmbeddedData(world="seed", val_images=9), 3)


def test_the_content_of_an_experiment_must_match_its_folder(tmp_path, new_run):
    run = new_run(load_row("table3", "t3_full_vfl").experiment)
    other = load_row("table3", "t3_raw_fl").experiment
    with pytest.raises(WorkbenchError, match="this is the experiment of vfnet-varifocal"):
        Run(run.folder.rename(run.folder.with_name("vfnet_raw-focal-resnet50-12345678"))).read_experiment()
    again = new_run(load_row("table3", "t3_full_vfl").experiment)
    again.settings.write_text(other.model_dump_json())
    with pytest.raises(WorkbenchError, match="this is the experiment of vfnet_raw-focal"):
        again.write_experiment(load_row("table3", "t3_full_vfl").experiment)
    assert again.settings.read_text() == other.model_dump_json()


def test_trainings_in_order_of_their_seeds(tmp_path):
    run = scale_folder(tmp_path, "mini").run("x")
    for name in ("seed10", "seed9", "seed1", "seedling", "released", "seed2"):
        (run.folder / name).mkdir(parents=True)
        for file in run.training(name.removeprefix("seed")).results if name not in ("seed1", "seedling") else ():
            file.touch()
    assert [training.seed for training in run.trainings()] == ["1", "2", "9", "10"]
    assert [training.seed for training in run.finished_trainings()] == ["2", "9", "10", "released"]


def test_a_rehearsal_has_its_own_folder(tmp_path):
    assert scale_folder(tmp_path, "mini", Rehearsal(steps=2)).path == tmp_path / "mini-rehearsal"
    assert scale_folder(tmp_path, "mini", Rehearsal()).path == tmp_path / "mini"
    assert {scale_folder(tmp_path, "mini", limits).run("x").scale for limits in (None, Rehearsal(images=2))} == {"mini"}


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
