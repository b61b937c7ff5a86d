"""Files of claims: of one table and of all, and what replaces them."""

import csv
import io

import pytest

from tests.report.made_up import evaluate
from workbench.report.claims.write import write_claims, write_verdicts
from workbench.settings.claims import read_claims, read_observations
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError

FORMS = (".csv", ".html", ".md", ".pdf", ".png")
MINI = PipelineConfig()


@pytest.fixture
def results(tmp_path, unregistered):
    evaluate(tmp_path, t3_raw_vfl=(0.330, 0.431, 0.529), t3_raw_fl=(0.300, 0.400, 0.500))
    return tmp_path


def test_claims_of_measured_rows_are_judged_and_all_others_are_not_run(results):
    text = write_claims(MINI, results)
    folder = results / "mini"
    assert (folder / "claims.md").read_text(encoding="utf-8") == text
    lines = list(csv.DictReader(io.StringIO((folder / "claims.csv").read_text(encoding="utf-8"))))
    assert [line["claim"] for line in lines] == [e.name for e in (*read_claims(), *read_observations())]
    tested = {line["claim"]: line["verdict"] for line in lines if line["effect"] != "-"}
    assert tested["component_vfl"] == "same direction, larger"
    assert len(tested) == 4
    assert "38 claims not run: " in text
    assert "1 claim not testable at this scale: `gfl_insensitive_to_n`." in text
    assert {path.name for path in folder.glob("claims*.*")} == {f"claims{form}" for form in FORMS}
    assert {path.name for path in (folder / "claims").iterdir()} == {f"table3{form}" for form in FORMS}


def test_verdicts_of_a_table(results):
    text = write_verdicts("table3", MINI, results)
    folder = results / "mini" / "claims"
    assert {path.name for path in folder.iterdir()} == {f"table3{form}" for form in FORMS}
    assert "9 claims of the papers: 4 supported, 0 opposite, 0 inconclusive, 5 not run." in text
    assert not (results / "mini" / "claims.csv").exists()


def test_nothing_is_judged_before_the_first_run(unregistered, tmp_path):
    text = write_claims(MINI, tmp_path)
    assert "40 claims of the papers: 0 supported, 0 opposite, 0 inconclusive, 1 not testable here, 39 not run." in text
    assert {path.name for path in (tmp_path / "mini").iterdir()} == {f"claims{form}" for form in FORMS}


def test_verdicts_on_fewer_seeds_replace_nothing(results):
    write_claims(MINI, results)
    for file in results.rglob("seed2/*/bootstrap.json"):
        file.unlink()
    for write in (lambda: write_claims(MINI, results), lambda: write_verdicts("table3", MINI, results)):
        with pytest.raises(WorkbenchError, match=r"shows more trainings of component_vfl \(3\) than these options"):
            write()
