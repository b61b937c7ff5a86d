"""The checkout is found around the package, or around the current folder; else one line says what is missing."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from workbench.support.checkout import find_checkout

ROOT = Path(__file__).resolve().parents[2]
MAIN = "from workbench.cli import main; main()"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package alone, as ``pip install .`` leaves it."""
    folder = tmp_path_factory.mktemp("installed") / "site-packages"
    shutil.copytree(ROOT / "workbench", folder / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def installed(site, cwd, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-P", "-c", MAIN, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_a_checkout_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkout() == ROOT


@pytest.mark.parametrize("arguments", [("plan", "table3"), ("notebook", "results")])
def test_an_installed_package_outside_a_checkout_says_so_in_one_line(site, tmp_path, arguments):
    result = installed(site, tmp_path, *arguments)
    assert result.returncode == 1
    assert result.stderr == (
        f"workbench: {tmp_path}: not in a checkout of the VFNet workbench (no experiments/config.yaml here or in a "
        "folder above); clone its repository and run workbench there, or install it from there with pip install -e .\n"
    )


def test_an_installed_package_uses_the_checkout_around_the_current_folder(site, tmp_path):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    table = tmp_path / "experiments" / "vfnet" / "table3.yaml"
    table.write_text(table.read_text().replace('title: "Table 3:', 'title: "My Table 3:'))
    (tmp_path / "inner").mkdir()
    result = installed(site, tmp_path / "inner", "plan", "table3")
    assert result.stdout.startswith("My Table 3: "), result.stderr


def test_every_file_of_the_package_is_installed():
    """Setuptools installs Python files of packages, and other files that a pattern of pyproject.toml names."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = {
        file
        for package, globs in patterns.items()
        for pattern in globs
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = {file for file in (ROOT / "workbench").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    others = {file for file in others if file.suffix != ".py"}
    assert len(others) >= 6
    assert others == named
    folders = {file.parent for file in (ROOT / "workbench").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
