"""Folders of runs and trainings. Only two modules build and parse the paths below ``results/``."""

import ast
import re
from pathlib import Path

import pytest

import workbench
from workbench.runs.folders import Run
from workbench.runs.results import scale_folder
from workbench.settings.catalog import load_row
from workbench.support.errors import WorkbenchError

PACKAGE = Path(workbench.__file__).parent
LITERALS = re.compile(r"metrics\.json|bootstrap\.json|model\.safetensors|seed\{|/runs/|['\"]runs['\"]|experiment\.json")


def code(path):
    """Source of a module without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
    return ast.unparse(tree)


def test_only_two_modules_name_the_paths_of_runs():
    named = {str(path.relative_to(PACKAGE)): LITERALS.findall(code(path)) for path in PACKAGE.rglob("*.py")}
    named = {path: set(literals) for path, literals in named.items() if literals}
    assert named.keys() == {"runs/folders.py", "runs/results.py"}
    assert named["runs/folders.py"] >= {"metrics.json", "seed{", "model.safetensors", "experiment.json"}
    assert named["runs/results.py"] == {"'runs'"}
    assert not LITERALS.search((PACKAGE.parent / "Snakefile").read_text())


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
