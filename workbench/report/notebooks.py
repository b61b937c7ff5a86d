"""Execution of the notebooks in ``notebooks/``: with their outputs, they are results like tables and figures.

The pipeline reads the names at each start, so nbclient and nbformat are imported only where they are needed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from workbench.support.checkout import find_checkout
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_text_atomically
from workbench.support.strict_yaml import choose

if TYPE_CHECKING:
    from nbformat import NotebookNode

PACKAGE = Path(__file__).resolve().parents[1]
PARAMETERS = "parameters"  # tag of the cell whose values are replaced before the notebook is executed


def notebooks_folder() -> Path:
    """Return the folder of the notebooks in the checkout."""
    return find_checkout() / "notebooks"


def notebook_names() -> list[str]:
    """Return the names of all notebooks."""
    return sorted(path.stem for path in notebooks_folder().glob("*.ipynb"))


def execute_notebook(name: str, results: Path, scale: str, data: Path | None = None) -> Path:
    """Execute a notebook from top to bottom and write it with its outputs to ``<results>/notebooks/<name>.ipynb``.

    The notebook is executed in the folder to which it is written, so that it can be opened and executed again there.
    The same package, results and data give the same bytes.

    Args:
        name: name of the notebook, e.g. ``star_points``.
        results: ``results/<scale>``, the folder that the notebook reads.
        scale: scale whose settings and data the notebook shows.
        data: data set in COCO's layout, for a scale that does not draw its own images.

    Returns:
        Path of the executed notebook. Nothing is written if a cell fails.

    Raises:
        WorkbenchError: the notebook is unknown or cannot be read, or a cell fails.
    """
    choose(name, notebook_names(), "notebook", "notebooks")
    out = results / "notebooks" / f"{name}.ipynb"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkbenchError(
            f"{out.parent}: {error.strerror or error}; choose another folder for the results"
        ) from None
    values = {"SCALE": scale, "RESULTS": os.path.relpath(results, out.parent), "DATA": None}
    if data is not None:
        values["DATA"] = str(data) if data.is_absolute() else os.path.relpath(data, out.parent)
    notebook = _read(notebooks_folder() / f"{name}.ipynb")
    set_parameters(notebook, values)
    _run(notebook, f"notebooks/{name}.ipynb", out.parent)
    write_text_atomically(out, _text(notebook))
    return out


def set_parameters(notebook: NotebookNode, values: Mapping[str, str | None]) -> None:
    """Replace the values of assignments in the cells with the tag ``parameters``, one per line; comments stay."""
    for cell in notebook.cells:
        if PARAMETERS in cell.metadata.get("tags", ()):
            for key, value in values.items():
                # A value ends at the two blanks before a comment, or at the end of the line.
                line = re.compile(rf"^({key} = ).*?(?=  #|$)", re.MULTILINE)
                text = "None" if value is None else json.dumps(value)
                cell.source = line.sub(lambda match, text=text: match[1] + text, cell.source)


def _read(path: Path) -> NotebookNode:
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise WorkbenchError(f"notebooks/{path.name}: cannot be read ({reason}); check it out again") from None


def _text(notebook: NotebookNode) -> str:
    import nbformat

    return nbformat.writes(notebook) + "\n"


def _run(notebook: NotebookNode, place: str, folder: Path) -> None:
    """Execute all cells in place, in a kernel with the Python and the package of this process.

    Args:
        place: start of error messages.
        folder: working directory.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    with TemporaryDirectory(prefix="workbench-") as sockets:
        client = NotebookClient(
            notebook,
            kernel_manager_class=_kernels(Path(sockets)),
            timeout=None,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        try:
            client.execute(env=_environment())
        except CellExecutionError as error:
            if error.ename == KeyboardInterrupt.__name__:  # Ctrl-C, which nbclient passes on to the kernel
                raise KeyboardInterrupt from None
            # The message of a user's mistake explains by itself what to do.
            reason = error.evalue if error.ename == WorkbenchError.__name__ else f"{error.ename}: {error.evalue}"
            raise WorkbenchError(f"{place}, {_failed_cell(notebook)}: {reason.splitlines()[0]}") from None
        except (RuntimeError, AssertionError) as error:
            # nbclient raises these if the kernel died or was stopped by a signal.
            reason = str(error).split("\n")[0] or "stopped"
            raise WorkbenchError(
                f"{place}: the kernel ended early ({reason}); check whether it was stopped or ran out of memory"
            ) from None


def _kernels(sockets: Path) -> type:
    """Return a kernel manager that starts the Python of this process, not the Python of an installed kernel spec.

    The kernel is reached by sockets in a private folder, not by ports that every user of the machine can reach.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

        def __init__(self, **kwargs):
            super().__init__(transport="ipc", connection_file=str(sockets / "kernel.json"), **kwargs)

    return ThisPython


def _environment() -> dict[str, str]:
    """Return the environment of the kernel.

    One thread makes sums independent of the number of cores. This package comes before an installed one.
    """
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _failed_cell(notebook: NotebookNode) -> str:
    """Return number and first line of the cell that failed, for a message."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        if any(output.output_type == "error" for output in cell.outputs):
            return f"code cell {number} ('{cell.source.strip().splitlines()[0]}')"
    return "a cell"
