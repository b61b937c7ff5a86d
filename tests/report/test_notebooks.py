"""Notebooks: committed without outputs, executed with the package alone, written completely or not at all."""

import nbformat
import pytest

from workbench.report import notebooks
from workbench.report.notebooks import execute_notebook, notebook_names, set_parameters
from workbench.support.errors import WorkbenchError

NAMES = ["assignment", "results", "star_points", "varifocal_loss"]


def committed(name):
    return nbformat.read(notebooks.notebooks_folder() / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def one_cell_notebooks(folder, **sources):
    folder.mkdir()
    for name, source in sources.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in ("a = 1", source)])
        (folder / f"{name}.ipynb").write_text(nbformat.writes(notebook))
    return folder


def test_four_notebooks_are_committed_without_outputs():
    assert notebook_names() == NAMES
    for name in NAMES:
        notebook = committed(name)
        nbformat.validate(notebook)
        assert notebook.metadata.language_info.name == "python"  # ruff skips a notebook without a language
        for cell in code(notebook):
            assert cell.outputs == []
            assert cell.execution_count is None
        assert set().union(*(cell.metadata for cell in notebook.cells)) <= {"tags"}


@pytest.mark.parametrize("name", NAMES)
def test_cells_run_with_the_package_alone(name, tmp_path, monkeypatch, capsys):
    """The cells run in this process, without a kernel, so that a change of the package cannot break a notebook unnoticed."""
    monkeypatch.chdir(tmp_path)
    notebook = committed(name)
    set_parameters(notebook, {"RESULTS": "results/mini"})
    names = {}
    for cell in code(notebook):
        exec(cell.source, names)
    output = capsys.readouterr().out
    if name == "results":
        assert output.startswith("No tables at scale mini yet: run `snakemake")
    if name == "star_points":
        assert (
            output == "No trained VFNet at scale mini: the boxes are examples; run snakemake --cores all t3_full_vfl.\n"
        )
    assert list(tmp_path.iterdir()) == []


def test_an_executed_notebook_has_outputs_and_parameters(tmp_path):
    out = execute_notebook("results", tmp_path / "mini", "mini")
    assert out == tmp_path / "mini" / "notebooks" / "results.ipynb"
    text = out.read_text()
    cells = code(nbformat.reads(text, as_version=4))
    assert 'SCALE = "mini"  # a scale' in cells[0].source
    assert 'RESULTS = ".."  # folder' in cells[0].source
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert cells[1].outputs[0].text.startswith("No tables at scale mini yet")
    assert str(tmp_path) not in text
    assert set().union(*(cell.metadata for cell in cells)) == {"tags"}  # no dates
    assert [path.name for path in out.parent.iterdir()] == ["results.ipynb"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "results"])
def test_a_second_execution_gives_the_same_bytes(name, tmp_path):
    first, again = (execute_notebook(name, tmp_path / place, "mini").read_bytes() for place in ("a", "b"))
    assert first == again
    outputs = [output for cell in code(nbformat.reads(first.decode(), as_version=4)) for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert str(tmp_path) not in first.decode()
    assert str(notebooks.notebooks_folder()) not in first.decode()


@pytest.mark.slow
def test_the_stars_are_those_of_a_trained_run(tmp_path, untrained_run, tiny_experiment):
    run = untrained_run(tiny_experiment).run
    output = code(nbformat.read(execute_notebook("star_points", tmp_path / "mini", "mini"), as_version=4))[1].outputs[0]
    assert output.text == f"Weights of {run.name}, seed0.\n"


def test_a_failing_cell_is_one_line_and_writes_nothing(tmp_path, monkeypatch):
    broken = "raise ValueError('no such thing\\nsecond line')"
    folder = one_cell_notebooks(tmp_path / "notebooks", broken=broken)
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: folder)
    with pytest.raises(WorkbenchError) as error:
        execute_notebook("broken", tmp_path / "mini", "mini")
    assert str(error.value) == f"notebooks/broken.ipynb, code cell 2 ('{broken}'): ValueError: no such thing"
    assert list((tmp_path / "mini" / "notebooks").iterdir()) == []


@pytest.mark.slow
def test_users_mistakes_and_a_killed_kernel_are_one_line(tmp_path, monkeypatch):
    mistake = "from workbench.support.errors import WorkbenchError; raise WorkbenchError('scale x: do y')"
    folder = one_cell_notebooks(tmp_path / "notebooks", killed="import os; os._exit(1)", mistake=mistake)
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: folder)
    with pytest.raises(WorkbenchError, match=r"notebooks/killed.ipynb: the kernel ended early \(Kernel died\); check"):
        execute_notebook("killed", tmp_path / "mini", "mini")
    with pytest.raises(WorkbenchError, match=r"notebooks/mistake.ipynb, code cell 2 \('from .*'\): scale x: do y$"):
        execute_notebook("mistake", tmp_path / "mini", "mini")


def test_mistakes_are_reported_before_a_cell_runs(tmp_path, monkeypatch):
    with pytest.raises(WorkbenchError, match="unknown notebook 'star_point'; did you mean 'star_points'"):
        execute_notebook("star_point", tmp_path, "mini")
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="file/notebooks: Not a directory"):
        execute_notebook("results", tmp_path / "file", "mini")
    folder = one_cell_notebooks(tmp_path / "notebooks", torn="")
    (folder / "torn.ipynb").write_text('{"cells": [')
    monkeypatch.setattr(notebooks, "notebooks_folder", lambda: folder)
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
