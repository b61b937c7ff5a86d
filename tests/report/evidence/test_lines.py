"""Reading of the list of trainings is strict: each mistake is one line with file and line number."""

import pytest

from workbench.report.evidence.lines import COLUMNS, METRICS, Line, read_lines, study_of, write_lines
from workbench.support.errors import WorkbenchError

LINE = Line(
    scale="mini",
    row="t3_raw_vfl",
    seed=1003,
    world=1003,
    run="vfnet_raw-varifocal-resnet50-12345678",
    evaluation="nms0.6-267x160-12345678-90abcdef",
    metrics=dict.fromkeys(METRICS, 1 / 3) | {"APS": None},
    spearman=None,
    seconds=240.5,
    code="shared:12345678 varifocal:90abcdef",
    split="90abcdef",
    commit="0123456789abcdef0123456789abcdef01234567+",
)


@pytest.fixture
def file(tmp_path):
    write_lines(tmp_path / "trainings.csv", [LINE])
    return tmp_path / "trainings.csv"


def test_a_list_is_read_as_it_was_written(file):
    assert read_lines(file) == {LINE.key: LINE}
    before = file.read_bytes()
    write_lines(file, read_lines(file).values())
    assert file.read_bytes() == before
    assert b"0.3333333333333333" in before


def test_no_list_is_an_empty_list(tmp_path):
    assert read_lines(tmp_path / "trainings.csv") == {}


VALUES = {
    "scale": ("mimi", "unknown scale 'mimi'; did you mean 'mini'?"),
    "row": ("t3_raw_vfll", "unknown row 't3_raw_vfll'; did you mean 't3_raw_vfl'?"),
    "seed": ("-1", "seed is '-1', not a seed"),
    "world": ("100000", "world is '100000', not the number of a world"),
    "run": ("vfnet", "run is 'vfnet', not the name of a run"),
    "evaluation": ("nms0.6-12345678", "nms0.6-12345678 is not an evaluation of 90abcdef"),
    "AP": ("1.5", "AP is '1.5', not a fraction"),
    "AP50": ("nan", "AP50 is 'nan', not a fraction"),
    "APL": ("x", "APL is 'x', not a fraction"),
    "Spearman": ("-1.1", "Spearman is '-1.1', not a correlation"),
    "seconds": ("", "seconds is '', not a number of seconds"),
    "code": ("12345678", "code is '12345678', not a digest of code"),
    "split": ("90abcde", "split is '90abcde', not a digest"),
    "commit": ("0123", "commit is '0123', not a commit"),
}


@pytest.mark.parametrize("column", VALUES)
def test_a_value_out_of_range_is_named_with_its_line(file, column):
    value, problem = VALUES[column]
    cells = LINE.cells()
    cells[COLUMNS.index(column)] = value
    header, first = file.read_text().splitlines()
    file.write_text("\n".join([header, first.replace("1003", "1004"), ",".join(cells), ""]))
    with pytest.raises(WorkbenchError) as error:
        read_lines(file)
    assert str(error.value).startswith(f"{file}, line 3: {problem}")
    assert "\n" not in str(error.value)


FILES = {
    "a line twice": (
        lambda text: text + text.splitlines()[1] + "\n",
        "line 3: mini, t3_raw_vfl, seed 1003 is in line 2",
    ),
    "a missing column": (lambda text: text.replace(",commit", "", 1), "line 1: not the columns scale, row, "),
    "a line that is cut off": (lambda text: text[:-60], "line 2: "),
    "an empty line": (lambda text: text + "\n", "line 3: 0 values, not 19"),
    "an empty file": (lambda _: "", "line 1: not the columns"),
    "no CSV": (lambda text: text + '"a"b\n', "line 3: not CSV"),
    "a merge that was not ended": (lambda text: text + "<<<<<<< HEAD\n", "line 3: 1 values, not 19"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_damaged_list_is_refused(file, fault):
    change, problem = FILES[fault]
    file.write_text(change(file.read_text()))
    with pytest.raises(WorkbenchError) as error:
        read_lines(file)
    assert str(error.value).startswith(f"{file}, {problem}")
    assert "\n" not in str(error.value)


def test_a_scale_without_a_study_is_an_error(unregistered):
    with pytest.raises(WorkbenchError, match=r"^scale mini: no study is registered; choose the scale of a study in "):
        study_of("mini")
