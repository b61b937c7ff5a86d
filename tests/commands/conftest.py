"""The command ``workbench data`` as tests call it, and a data set to describe."""

import sys

import pytest

from tests.commands.made_data import DataSet
from workbench import cli


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Function that runs ``workbench data``: exit code, output and errors, with results in a folder of the test."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["workbench", "data", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def data_set(tmp_path):
    """Data set of three training images and a test image, without any fault; call ``write`` after a change."""
    data = DataSet(tmp_path / "pets")
    data.add("train2017", (3, 10, 10, 40, 30), (7, 50, 20, 20, 20))
    data.add("train2017", (7, 0, 0, 60, 60))
    data.add("train2017")
    data.add("val2017", (3, 10, 10, 40, 30), (7, 50, 20, 20, 20))
    data.write()
    return data
