"""Imports run downwards only: a room of the package may import itself and the rooms of lower tiers."""

import ast
from pathlib import Path

import pytest

import workbench

PACKAGE = Path(workbench.__file__).parent
TIERS = (
    {"cli"},
    {"commands"},
    {"pipeline"},
    {"report", "training", "weights", "convert"},
    {"evaluation", "runs"},
    {"detectors"},
    {"data", "layers"},
    {"settings"},
    {"assigners", "losses"},
    {"boxes", "support"},
)
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}


def imports_of(source: str) -> set[str]:
    """Rooms that a module imports, in functions and under TYPE_CHECKING, too."""
    modules = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return {module.split(".")[1] for module in modules if module.startswith("workbench.")}


def files_of(room: str) -> list[Path]:
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).rglob("*.py"))


def upward(source: str, room: str) -> set[str]:
    """Rooms that a module of ``room`` must not import and does: of higher tiers, and its neighbours."""
    return {other for other in imports_of(source) if other != room and TIER[other] <= TIER[room]}


@pytest.mark.parametrize("room", sorted(TIER))
def test_imports_run_downwards(room):
    files = files_of(room)
    assert files, f"no room {room}"
    faults = {str(path.relative_to(PACKAGE)): upward(path.read_text(), room) for path in files}
    assert not {path: rooms for path, rooms in faults.items() if rooms}


def test_every_file_is_in_a_room():
    outside = {path.name for path in PACKAGE.glob("*.py")}
    assert outside == {"__init__.py", "cli.py", "boxes.py"}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders == TIER.keys() - {"cli", "boxes"}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("data", "from workbench.detectors import build_detector"),
        ("data", "from workbench.layers.necks import FPN"),
        ("settings", "def f():\n    import workbench.data.coco"),
        ("support", "if TYPE_CHECKING:\n    from workbench.settings.base import Settings"),
        ("boxes", "from workbench import cli"),
    ],
)
def test_an_upward_import_is_found(room, source):
    assert upward(source, room)


def test_a_downward_import_is_none():
    assert not upward("from workbench.boxes import area\nimport torch\nfrom workbench.data.coco import a", "data")
