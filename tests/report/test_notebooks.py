"""The notebooks: clean as committed, running from the package alone, executed whole or not at all."""

from pathlib import Path

import nbformat
import pytest

from tests.trainings import train_experiment
from workbench.report import notebooks
from workbench.report.notebooks import execute_notebook, notebook_names, set_parameters
from workbench.report.outcomes import read_by_notebook
from workbench.settings.catalog import load_table
from workbench.support.errors import WorkbenchError

NAMES = ["assignment", "results", "star_points", "varifocal_loss"]


def committed(name):
    return nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def one_cell_notebooks(folder, **sources):
    folder.mkdir()
    for name, source in sources.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in ("a = 1", source)])
        (folder / f"{name}.ipynb").write_text(nbformat.writes(notebook))
    return folder


def test_four_are_committed_without_outputs():
    assert notebook_names() == NAMES
    for name in NAMES:
        notebook = committed(name)
        nbformat.validate(notebook)
        assert notebook.metadata.language_info.name == "python"  # else ruff passes it over
        for cell in code(notebook):
            assert cell.outputs == []
            assert cell.execution_count is None
        assert set().union(*(cell.metadata for cell in notebook.cells)) <= {"tags"}


@pytest.mark.parametrize("name", NAMES)
def test_cells_run_from_the_package_alone(name, tmp_path, monkeypatch, capsys):
    """In this process, without a kernel: whatever the package changes, no notebook is left behind."""
    monkeypatch.chdir(tmp_path)
    notebook = committed(name)
    set_parameters(notebook, {"RESULTS": "results/mini"})
    names = {}
    for cell in code(notebook):
        exec(cell.source, names)
    said = capsys.readouterr().out
    if name == "results":
        assert said.startswith("No tables at scale mini yet: run `snakemake")
    if name == "star_points":
        assert "the boxes are set by hand" in said
    assert list(tmp_path.iterdir()) == []


def test_the_fastest_one_is_executed(tmp_path):
    out = execute_notebook("results", tmp_path / "mini", "mini")
    assert out == tmp_path / "mini" / "notebooks" / "results.ipynb"
    text = out.read_text()
    cells = code(nbformat.reads(text, as_version=4))
    assert 'SCALE = "mini"  # a scale' in cells[0].source
    assert 'RESULTS = ".."  # where' in cells[0].source
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert cells[1].outputs[0].text.startswith("No tables at scale mini yet")
    assert str(tmp_path) not in text
    assert set().union(*(cell.metadata for cell in cells)) == {"tags"}  # no dates
    assert [path.name for path in out.parent.iterdir()] == ["results.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "results"])
def test_the_others_are_executed_and_repeat_their_bytes(name, tmp_path):
    first, again = (execute_notebook(name, tmp_path / place, "mini").read_bytes() for place in ("a", "b"))
    assert first == again
    outputs = [output for cell in code(nbformat.reads(first.decode(), as_version=4)) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert str(tmp_path) not in first.decode()
    assert str(notebooks.FOLDER) not in first.decode()


@pytest.mark.slow
def test_a_trained_run_is_shown(tmp_path, tiny_data, tiny_experiment):
    from workbench.support.files import write_json_atomically

    run = tmp_path / "mini" / "runs" / "vfnet-tiny"
    write_json_atomically(run / "experiment.json", tiny_experiment.model_dump(mode="json"))
    train_experiment(tiny_experiment, run / "seed1", tiny_data, 1)
    said = code(nbformat.read(execute_notebook("star_points", tmp_path / "mini", "mini"), as_version=4))[1].outputs[0]
    assert said.text == "Weights of vfnet-tiny, seed1.\n"


def test_a_failing_cell_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    broken = "raise ValueError('no such thing\\nsecond line')"
    monkeypatch.setattr(notebooks, "FOLDER", one_cell_notebooks(tmp_path / "notebooks", broken=broken))
    with pytest.raises(WorkbenchError) as error:
        execute_notebook("broken", tmp_path / "mini", "mini")
    assert str(error.value) == f"notebooks/broken.ipynb, code cell 2 ('{broken}'): ValueError: no such thing"
    assert list((tmp_path / "mini" / "notebooks").iterdir()) == []


@pytest.mark.slow
def test_users_mistakes_and_a_killed_python_are_one_line(tmp_path, monkeypatch):
    mistake = "from workbench.support.errors import WorkbenchError; raise WorkbenchError('scale x: do y')"
    folder = one_cell_notebooks(tmp_path / "notebooks", killed="import os; os._exit(1)", mistake=mistake)
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    with pytest.raises(WorkbenchError, match=r"notebooks/killed.ipynb: its Python ended early \(Kernel died\); was it"):
        execute_notebook("killed", tmp_path / "mini", "mini")
    with pytest.raises(WorkbenchError, match=r"notebooks/mistake.ipynb, code cell 2 \('from .*'\): scale x: do y$"):
        execute_notebook("mistake", tmp_path / "mini", "mini")


def test_mistakes_before_anything_runs(tmp_path, monkeypatch):
    with pytest.raises(WorkbenchError, match="unknown notebook 'star_point'; did you mean 'star_points'"):
        execute_notebook("star_point", tmp_path, "mini")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="file/notebooks: Not a directory"):
        execute_notebook("results", tmp_path / "file", "mini")
    folder = one_cell_notebooks(tmp_path / "notebooks", torn="")
    (folder / "torn.ipynb").write_text('{"cells": [')
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    with pytest.raises(WorkbenchError, match=r"notebooks/torn.ipynb: cannot be read \(.*\); check it out again"):
        execute_notebook("torn", tmp_path / "mini", "mini")


def test_parameters_are_replaced_and_comments_stay():
    source = 'SCALE = "mini"  # a scale\nRESULTS = f"../results/{SCALE}"\nDATA = None  # SCALE = x\nSCALED = 1'
    tagged = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    other = nbformat.v4.new_code_cell('SCALE = "mini"')
    set_parameters(
        nbformat.v4.new_notebook(cells=[tagged, other]), {"SCALE": "coco", "RESULTS": "a\\b", "DATA": "/d", "X": None}
    )
    assert tagged.source == 'SCALE = "coco"  # a scale\nRESULTS = "a\\\\b"\nDATA = "/d"  # SCALE = x\nSCALED = 1'
    assert other.source == 'SCALE = "mini"'


def test_what_a_notebook_reads_is_waited_for_or_taken_as_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = {name: load_table(name)[1] for name in ("table3", "table5")}
    trainings = {row.run: [0] for rows in tables.values() for row in rows}

    def read_by(name, *targets):
        return read_by_notebook(name, Path("mini"), tables, trainings, targets)

    run = next(row.run for row in tables["table3"] if row.id == "t3_full_vfl")
    for targets in (("all",), ("tables",), ("figures",), ("table3", "table5", "notebooks")):
        assert read_by("results", *targets) == ["mini/tables/table3.csv", "mini/tables/table5.csv"]
    for target in ("all", "table3", "t3_full_vfl", "table5", "t5_vfnet_vfl", "figures"):
        assert read_by("star_points", target) == [f"mini/runs/{run}/seed0/model.safetensors"]
    assert read_by("results", "table3") == read_by("results", "mini/tables/table3.csv") == ["mini/tables/table3.csv"]
    for name in ("results", "star_points", "assignment"):
        assert read_by(name, "notebooks") == []
    assert read_by("star_points", "t3_raw_fl") == read_by("assignment", "all") == []

    Path("mini/tables").mkdir(parents=True)
    Path("mini/tables/table3.csv").touch()
    assert read_by("results", "notebooks") == [f"{tmp_path}/mini/tables/table3.csv"]
    assert read_by("results", "table5") == [f"{tmp_path}/mini/tables/table3.csv", "mini/tables/table5.csv"]
