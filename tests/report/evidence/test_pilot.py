"""The pilot: two rows before the registration, listed as registered trainings are, and the spread of their difference."""

import shutil

import pytest

from tests.evaluation.test_hypotheses import mde_factor
from tests.report.made_up import evaluate, register
from workbench import cli
from workbench.report.evidence.lines import evidence_file, pilot_file, read_lines
from workbench.report.evidence.pilot import measured_pilot, pilot_keys, pilot_lines
from workbench.runs.results import scale_folder
from workbench.settings import files
from workbench.settings.catalog import find_row
from workbench.settings.registration import FILE, Pilot, read_registration
from workbench.support.errors import WorkbenchError

ROWS = ("t3_fcos_atss", "t3_raw_fl")
APS = {"t3_fcos_atss": (0.31, 0.42, 0.54), "t3_raw_fl": (0.30, 0.40, 0.51)}
"""The differences are 1, 2 and 3 AP: their mean is 2, and their standard deviation 1."""
PILOT = Pilot(rows=ROWS, seeds=(110, 111, 112), spread=1.0)


@pytest.fixture
def pilot(tmp_path, monkeypatch, capsys):
    """Function that calls ``workbench evidence pilot`` and returns its lines."""

    def command(*rows, first_seed=110, seeds=3, scale="mini"):
        numbers = ["--first-seed", first_seed, "--seeds", seeds] if rows else []
        words = ["workbench", "evidence", "pilot", *rows, *numbers, "--scale", scale, "--results", tmp_path]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        cli.main()
        return capsys.readouterr().out.splitlines()

    return command


def evaluate_pilot(results, **rows):
    evaluate(results, first_seed=110, by_present_code=True, **(rows or APS))


def test_finished_evaluations_are_listed_and_the_spread_is_printed(tmp_path, pilot):
    evaluate_pilot(tmp_path)
    evaluate(tmp_path, first_seed=113, by_present_code=True, t3_raw_fl=(0.9,))
    listed, *shown = pilot(*ROWS)
    assert listed.endswith("pilot.csv: 6 lines added, 0 completed; 6 of 6 planned lines of scale mini")
    assert shown == [
        "t3_fcos_atss, 3 worlds: AP 42.3, AP50 42.3, AP75/AP50 1.00",
        "t3_raw_fl, 3 worlds: AP 40.3, AP50 40.3, AP75/AP50 1.00",
        "t3_fcos_atss minus t3_raw_fl, 3 worlds: mean +2.00 AP, standard deviation 1.00 AP",
        f"MDE with 10 worlds and 6 claims: {mde_factor(10, 6):.2f} AP",
    ]
    assert measured_pilot(pilot_lines(pilot_file(tmp_path), "mini")) == PILOT
    assert not evidence_file(tmp_path).exists()


def test_the_spread_is_computed_from_the_list_alone(tmp_path, pilot):
    evaluate_pilot(tmp_path)
    _, *shown = pilot(*ROWS)
    shutil.rmtree(tmp_path / "mini")
    before = pilot_file(tmp_path).read_bytes()
    assert pilot() == shown
    assert "0 lines added" in pilot(*ROWS)[0]
    assert pilot_file(tmp_path).read_bytes() == before


def test_later_evaluations_are_appended_and_only_common_worlds_count(tmp_path, pilot):
    evaluate_pilot(tmp_path, t3_fcos_atss=(0.31, 0.42, 0.54))
    assert pilot(*ROWS)[-1] == "The spread needs two rows with two or more worlds in common."
    before = pilot_file(tmp_path).read_text()
    evaluate_pilot(tmp_path, t3_raw_fl=(0.30, 0.40))
    assert "2 worlds: mean +1.50 AP" in pilot(*ROWS)[3]
    assert pilot_file(tmp_path).read_text().startswith(before)
    assert measured_pilot(pilot_lines(pilot_file(tmp_path), "mini")).seeds == (110, 111)


def test_other_numbers_are_refused(tmp_path, pilot):
    evaluate_pilot(tmp_path)
    pilot(*ROWS)
    evaluate_pilot(tmp_path, t3_raw_fl=(0.33,))
    with pytest.raises(
        SystemExit, match=r"pilot\.csv, line 3: mini, t3_raw_fl, seed 110 has AP 0\.3, but .* has 0\.33"
    ):
        pilot(*ROWS)


def test_an_evaluation_of_other_code_is_refused(tmp_path, pilot):
    evaluate(tmp_path, first_seed=110, t3_raw_fl=(0.3,))
    metrics = scale_folder(tmp_path, "mini").evaluation(find_row("t3_raw_fl"), 110).metrics
    with pytest.raises(SystemExit) as error:
        pilot(*ROWS)
    assert str(error.value).startswith(f"workbench: {metrics}: code of the training is shared:12345678, but ")
    assert " is planned; delete " in str(error.value)


@pytest.mark.parametrize("other", [{"rows": ("t3_raw_fl", "t3_raw_vfl")}, {"first_seed": 111}, {"seeds": 2}])
def test_a_scale_has_one_pilot(tmp_path, pilot, other):
    evaluate_pilot(tmp_path)
    pilot(*ROWS)
    rows = other.pop("rows", ROWS)
    with pytest.raises(SystemExit, match=r"pilot\.csv: mini, .* is of other rows, seeds, settings or code; remove"):
        pilot(*rows, **other)
    pilot(*ROWS, seeds=4)


def test_a_list_of_several_pilots_is_refused(tmp_path, pilot):
    evaluate_pilot(tmp_path)
    pilot(*ROWS)
    file = pilot_file(tmp_path)
    *_, last = file.read_text().splitlines()
    for edited in (
        last.replace("t3_raw_fl", "t3_raw_vfl"),
        last.replace(",112,112,", ",113,113,").replace(" focal:", " other:"),
    ):
        assert edited != last
        file.write_text(file.read_text() + edited + "\n")
        with pytest.raises(WorkbenchError, match="has more than two rows, or a row with several runs or codes"):
            pilot_lines(file, "mini")
        file.write_text(file.read_text().removesuffix(edited + "\n"))
    assert pilot_lines(file, "bccd") == {}


@pytest.mark.parametrize(
    ("rows", "scale", "message"),
    [
        (("t3_raw_fl",), "mini", "t3_raw_fl: not two rows"),
        (("t3_raw_fl", "t3_raw_fl"), "mini", "t3_raw_fl t3_raw_fl: not two rows"),
        (("t3_raw_fl", "t3_raw_lf"), "mini", "rows of the pilot: unknown row 't3_raw_lf'"),
        (ROWS, "bccd", "scale bccd: the seeds share a data set"),
        ((), "mini", r"pilot\.csv: no training of scale mini is listed"),
        (ROWS, "mini", r"pilot\.csv: no training of scale mini is listed"),
    ],
)
def test_mistakes(pilot, rows, scale, message):
    with pytest.raises(SystemExit, match=message):
        pilot(*rows, scale=scale)


def test_rows_without_seeds_are_a_mistake(monkeypatch):
    monkeypatch.setattr("sys.argv", ["workbench", "evidence", "pilot", *ROWS])
    with pytest.raises(SystemExit, match="rows or seeds are missing"):
        cli.main()


def printed_study(experiments, monkeypatch, capsys, results, *tables, first_seed=1000):
    """Study that ``workbench registration`` prints, read as a registration, and its messages."""
    words = ["registration", *tables, "--first-seed", first_seed, "--seeds", 2, "--results", results]
    monkeypatch.setattr("sys.argv", ["workbench", *map(str, words)])
    cli.main()
    printed = capsys.readouterr()
    (experiments / "vfnet" / FILE).write_text(f'date: "2026-11-27"\nstudies:\n{printed.out}')
    files.forget()
    return read_registration().studies["mini"], printed.err


def test_a_printed_study_has_the_listed_pilot(tmp_path, pilot, experiments, monkeypatch, capsys):
    evaluate_pilot(tmp_path)
    pilot(*ROWS)
    study, messages = printed_study(experiments, monkeypatch, capsys, tmp_path, "table3")
    assert (study.pilot, messages) == (PILOT, "")
    assert pilot_keys(study.pilot, study.rows, "mini") == read_lines(pilot_file(tmp_path)).keys()
    study, messages = printed_study(experiments, monkeypatch, capsys, tmp_path, "table2")
    assert study.pilot is None
    assert "the pilot has other rows, settings or code than the study, and is left out" in messages
    with pytest.raises(WorkbenchError, match="a seed of the pilot is listed; register seeds that were not trained"):
        printed_study(experiments, monkeypatch, capsys, tmp_path, "table3", first_seed=112)


def test_a_pilot_of_other_rows_than_the_study_is_a_mistake(experiments):
    other = PILOT.model_copy(update={"rows": ("t3_raw_fl", "t1_gt_ctr")})
    register(experiments, "table3", seeds=(1000, 1001), pilot=other)
    with pytest.raises(WorkbenchError, match=r"studies\.mini\.pilot\.rows: unknown row of this study 't1_gt_ctr'"):
        read_registration()
