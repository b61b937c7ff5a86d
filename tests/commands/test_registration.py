"""A study for preregistration.yaml, printed from the present state."""

import pytest

from tests.evaluation.test_hypotheses import mde_factor
from workbench import cli
from workbench.commands.registration import present_study
from workbench.evaluation.effects import Effect
from workbench.evaluation.hypotheses import smallest_detectable
from workbench.settings import files
from workbench.settings.registration import FILE, read_registration


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Function that returns a printed study. The folder of the results has no pilot."""

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["workbench", "registration", *map(str, arguments), "--results", str(tmp_path)])
        cli.main()
        return capsys.readouterr().out

    return command


def test_printed_studies_are_a_registration(experiments, run, tiny_data):
    """Studies are pasted one below the other."""
    mini = run("table1", "table3", "controls", "--first-seed", 1000, "--seeds", 10)
    bccd = run("table3", "--scale", "bccd", "--data-root", tiny_data, "--first-seed", 0, "--seeds", 5)
    (experiments / "vfnet" / FILE).write_text(f'date: "2026-11-27"\nstudies:\n{mini}{bccd}')
    files.forget()
    studies = read_registration().studies
    assert list(studies) == ["mini", "bccd"]
    assert studies["mini"].seeds == tuple(range(1000, 1010))
    assert studies["mini"].tables == ("table1", "table3", "controls")
    assert studies["mini"] == present_study(["table1", "table3", "controls"], "mini", range(1000, 1010))
    assert studies["bccd"] == present_study(["table3"], "bccd", range(5), tiny_data)
    assert (studies["mini"].split, studies["bccd"].split is None) == (None, False)


def test_the_mde_is_that_of_the_largest_family():
    """Table 1 has six claims, Table 3 five. The spread of a difference is 1; on fixed images it has two equal parts."""
    study = present_study(["table1", "table3"], "mini", range(10))
    assert study.mde_factor == pytest.approx(mde_factor(10, 6), abs=0.005)
    assert present_study(["table3"], "mini", range(10)).mde_factor == pytest.approx(mde_factor(10, 5), abs=0.005)
    on_images = smallest_detectable(Effect(0.0, 5, "images", seed_parts=((0.1, 4), (0.1, 4))), 5)
    assert present_study(["table3"], "bccd", range(5)).mde_factor == pytest.approx(on_images, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table33",), "experiments: unknown table 'table33'; did you mean 'table3'?"),
        (("table3", "--scale", "bccd"), "scale bccd needs a data set: add data_root=FOLDER"),
    ],
)
def test_mistakes(run, arguments, message):
    with pytest.raises(SystemExit) as error:
        run(*arguments, "--first-seed", 0, "--seeds", 2)
    assert str(error.value).startswith(f"workbench: {message}")


def test_tables_without_claims_have_nothing_to_register(experiments, run):
    text = (experiments / "vfnet/claims.yaml").read_text()
    start, end = text.index("table4:"), text.index("table5:")
    (experiments / "vfnet/claims.yaml").write_text(text[:start] + text[end:])
    files.forget()
    with pytest.raises(SystemExit, match=r"^workbench: table4: no claims to register; name a table with claims"):
        run("table4", "--first-seed", 0, "--seeds", 2)
