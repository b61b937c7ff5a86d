"""The command ``workbench data`` as tests call it."""

import sys

import pytest

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
