"""The geometry that docs/miniature.md shows is that of the scale mini."""

import re

import pytest

from tests.docs.pages import ROOT
from workbench.commands.data import describe_data


def numbers(table):
    """Numbers of this data set in each line of a table, by the line's name."""
    lines = [re.split(r"  +", line.strip()) for line in table.strip().splitlines()[1:]]
    return {name: [float(n) for n in re.findall(r"[\d.]+", cells[0])] for name, *cells in lines}


def test_the_geometry_of_the_miniature_is_shown():
    """Small changes of the drawing may stay; after others, copy the output of ``workbench data`` again."""
    text = (ROOT / "docs" / "miniature.md").read_text()
    (shown,) = re.findall(r"^```\n( +this data set.*?)^```$", text, re.DOTALL | re.MULTILINE)
    shown, measured = numbers(shown), numbers(*describe_data("mini", None, 150, ROOT))
    assert shown.keys() == measured.keys()
    for name, values in measured.items():
        assert shown[name] == pytest.approx(
            values, rel=0.15, abs=4 if name.startswith("objects with") else 1.5 if "distances" in name else 0.1
        ), name
