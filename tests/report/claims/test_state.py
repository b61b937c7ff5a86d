"""States of a page of claims: confirmation, interim, or a user's own trainings. The content of the results decides."""

import csv
import io
import re

import pytest

from tests.report.made_up import evaluate, register
from workbench.report.claims.judge import measured_on_disk
from workbench.report.claims.state import page_state
from workbench.report.claims.write import write_claims, write_verdicts
from workbench.runs.results import scale_folder
from workbench.settings import files
from workbench.settings.catalog import find_row
from workbench.settings.config import PipelineConfig
from workbench.settings.registration import Code, judged_digest
from workbench.support.files import read_json, write_json_atomically

MINI = PipelineConfig()
SEEDS = (1000, 1001, 1002)
TABLE3 = {
    "t3_raw_fl": (0.300, 0.400, 0.500),
    "t3_raw_vfl": (0.330, 0.431, 0.529),
    "t3_star_vfl": (0.335, 0.438, 0.532),
    "t3_full_vfl": (0.350, 0.449, 0.551),
    "t3_fcos_atss": (0.320, 0.425, 0.515),
}
CHANGED_CODE = {"code_digest": "shared:1", "evaluation": {"code_digest": "shared:2"}}


@pytest.fixture
def results(tmp_path):
    """Folder with the evaluations of Table 3 for the registered seeds, made by the present code."""
    folder = tmp_path / "results"
    evaluate(folder, first_seed=SEEDS[0], by_present_code=True, **TABLE3)
    return folder


def state_of(results, *tables, settings=MINI):
    return page_state(tables or ("table3",), measured_on_disk(settings, results))


def rewrite(file, **provenance):
    """Edit the provenance of ``metrics.json``."""
    content = read_json(file, "metrics")
    write_json_atomically(file, content | {"provenance": content["provenance"] | provenance})


def metrics_file(results, row, seed):
    return scale_folder(results, "mini").evaluation(find_row(row), seed).metrics


def lines(file):
    return {line["claim"]: line for line in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))}


def test_without_a_registration_a_page_is_of_your_trainings(unregistered, results):
    state = state_of(results)
    assert (state.kind, state.heading, state.explanation) == ("own", "your 15 trainings", "")
    assert state_of(results, "table4").heading == "no trainings yet"
    evaluate(results / "other", t3_raw_fl=(0.3,))
    assert state_of(results / "other").heading == "your 1 training"


def test_all_registered_trainings_are_a_confirmation(experiments, results):
    register(experiments, "table3", seeds=SEEDS)
    text = write_verdicts("table3", MINI, results)
    assert text.splitlines()[:5] == [
        "## Claims of table3, scale mini: confirmation",
        "",
        "9 registered claims of the papers: 5 supported, 0 opposite, 4 inconclusive.",
        "",
        "Confirmation: all 15 trainings that were registered on 2026-11-27 are evaluated.",
    ]
    assert "No deviations from the registration." in text
    written = lines(results / "mini/claims/table3.csv")
    assert written["component_vfl"]["state"] == "confirmation"
    assert written["component_all"]["state"] == "not registered"
    page = (results / "mini/claims/table3.html").read_text(encoding="utf-8")
    assert "<h1>Claims of table3, scale mini: confirmation</h1>" in page


@pytest.mark.parametrize("lacking", ["metrics.json", "bootstrap.json", "ranking.json"])
def test_missing_trainings_make_it_interim(experiments, results, lacking):
    register(experiments, "table3", seeds=(*SEEDS, 1003))
    (file,) = metrics_file(results, "t3_raw_vfl", 1001).parents[1].glob(f"*/{lacking}")
    file.unlink()
    state = state_of(results)
    assert (state.kind, state.heading) == ("interim", "interim, 2 of 4 registered worlds")
    assert state.missing["t3_raw_vfl"] == 2
    assert (sum(state.missing.values()), state.registered, state.complete) == (6, 20, 2)
    assert state.explanation == (
        "Interim: 6 of 20 trainings that were registered on 2026-11-27 are missing (`t3_raw_fl` 1, `t3_raw_vfl` 2, "
        "`t3_star_vfl` 1, `t3_full_vfl` 1, `t3_fcos_atss` 1). Nothing is confirmed before all of them are evaluated."
    )


def test_nothing_on_disk_is_interim(experiments, tmp_path):
    register(experiments, "table3", seeds=SEEDS)
    assert state_of(tmp_path).heading == "interim, 0 of 3 registered worlds"
    assert state_of(tmp_path, "table4").heading == "no trainings yet"  # not a table of the study


def test_a_missing_row_that_no_claim_compares_is_missing(experiments, results):
    """The rows of the tables are registered, whether the claims compare them or not."""
    study = register(experiments, "table3", seeds=SEEDS)
    claims = {name: claim for name, claim in study.claims.items() if "t3_full_vfl" not in (claim.row, claim.than)}
    register(experiments, "table3", seeds=SEEDS, claims=claims)
    assert state_of(results).kind == "confirmation"
    metrics_file(results, "t3_full_vfl", 1000).with_name("bootstrap.json").unlink()
    assert state_of(results).missing == {"t3_full_vfl": 1}


FOREIGN = {
    "of other seeds": lambda results: evaluate(results, by_present_code=True, t3_raw_fl=(0.3,)),
    "of other code": lambda results: rewrite(metrics_file(results, "t3_raw_fl", 1000), **CHANGED_CODE),
}


@pytest.mark.parametrize("reason", FOREIGN)
def test_one_other_evaluation_makes_the_page_your_own(experiments, results, reason):
    register(experiments, "table3", seeds=SEEDS)
    FOREIGN[reason](results)
    state = state_of(results)
    assert (state.kind, dict(state.foreign)) == ("own", {reason: 1})
    assert state.heading == f"your {16 if reason == 'of other seeds' else 15} trainings"
    text = write_verdicts("table3", MINI, results)
    assert f"These are not the trainings of the registered study (1 evaluation {reason}). The same rules apply." in text
    assert "registered claims" not in text
    assert {line["state"] for line in lines(results / "mini/claims/table3.csv").values()} == {"own"}


@pytest.mark.parametrize(
    "stated",
    [{"code_digest": "shared:1"}, {"evaluation": {"code_digest": "shared:2"}}, {"evaluation": {}}, {"evaluation": 3}],
)
def test_both_digests_of_the_code_count(experiments, results, stated):
    register(experiments, "table3", seeds=SEEDS)
    rewrite(metrics_file(results, "t3_raw_fl", 1000), **stated)
    assert dict(state_of(results).foreign) == {"of other code": 1}


@pytest.mark.parametrize("code", ["shared:2", None])
@pytest.mark.parametrize(("row", "foreign"), [("t3_raw_fl", {"of other code": 1}), ("t3_full_vfl", {})])
def test_a_ranking_by_other_code_counts_if_it_is_judged(experiments, results, row, foreign, code):
    """No claim compares the ranking of the full VFNet."""
    register(experiments, "table3", seeds=SEEDS)
    (file,) = metrics_file(results, row, 1000).parents[1].glob("*/ranking.json")
    write_json_atomically(file, read_json(file, "ranking") | {"code_digest": code})
    assert dict(state_of(results).foreign) == foreign


@pytest.mark.parametrize("key", ["run", "variant"])
def test_other_settings_than_the_registered_ones(experiments, results, key):
    study = register(experiments, "table3", seeds=SEEDS)
    rows = study.rows | {"t3_raw_fl": study.rows["t3_raw_fl"].model_copy(update={key: "another-12345678"})}
    register(experiments, "table3", seeds=SEEDS, rows=rows)
    assert dict(state_of(results).foreign) == {"of other settings or data": 3}


def test_fixed_images_are_registered_too(experiments, tmp_path, tiny_data):
    settings = PipelineConfig(scale="bccd", data_root=tiny_data)
    data = {"scale": "bccd", "data_root": tiny_data}
    evaluate(tmp_path, **data, by_present_code=True, **TABLE3)
    register(experiments, "table3", seeds=(0, 1, 2), **data)
    assert state_of(tmp_path, settings=settings).kind == "confirmation"
    register(experiments, "table3", seeds=(0, 1, 2, 3), **data)
    assert state_of(tmp_path, settings=settings).heading == "interim, 3 of 4 registered seeds"
    register(experiments, "table3", seeds=(0, 1, 2), **data, split="val2017:12345678")
    assert dict(state_of(tmp_path, settings=settings).foreign) == {"of other settings or data": 15}


def test_a_rehearsal_is_never_registered(experiments, tmp_path):
    register(experiments, "table3", seeds=SEEDS)
    assert state_of(tmp_path, settings=PipelineConfig(limit_steps=2)).kind == "own"


def test_frozen_claims_are_judged(experiments, results):
    """A later edit of claims.yaml changes no verdict, and is listed as a deviation."""
    study = register(experiments, "table3", seeds=SEEDS, deviations=[{"date": "2026-12-01", "text": "a *power* cut"}])
    before = write_verdicts("table3", MINI, results)
    assert "- 2026-12-01: a \\*power\\* cut" in before
    file = experiments / "vfnet/claims.yaml"
    text = file.read_text().replace("row: t3_raw_vfl\n    than: t3_raw_fl\n", "row: t3_raw_fl\n    than: t3_raw_vfl\n")
    added = "  added_later: {statement: a, source: section 5, kind: better, row: t3_full_vfl, than: t3_raw_fl}\n"
    file.write_text(re.sub(r"(?m)^table3:.*\n", lambda match: match[0] + added, text))
    files.forget()
    after = write_verdicts("table3", MINI, results)
    assert "- component_vfl.row: registered as t3_raw_vfl, now t3_raw_fl" in after
    assert "- added_later: claim was added after the registration, and is not judged" in after
    tables = [[line for line in page.splitlines() if line.startswith("|")] for page in (before, after)]
    assert tables[0] == tables[1]
    assert len([name for name in study.claims if name in lines(results / "mini/claims/table3.csv")]) == 9


def test_the_registered_family_decides_the_level(experiments, results):
    study = register(experiments, "table3", seeds=SEEDS)
    all_claims = lines_of(results)
    few = {name: study.claims[name] for name in ("component_vfl", "component_star")}
    register(experiments, "table3", seeds=SEEDS, claims=few)
    assert len(lines_of(results)) == 2 + 2  # with the observations
    assert float(lines_of(results)["component_vfl"]["mde"]) < float(all_claims["component_vfl"]["mde"])


def lines_of(results):
    write_verdicts("table3", MINI, results)
    return lines(results / "mini/claims/table3.csv")


def test_each_page_has_its_own_state(experiments, results):
    """Own trainings of Table 1 make the page of all claims their own, and leave Table 3 confirmed."""
    register(experiments, "table3", seeds=SEEDS)
    text = write_claims(MINI, results)
    assert text.startswith("## Claims, scale mini: confirmation\n\n9 registered claims of the papers: 5 supported")
    state = lines(results / "mini/claims.csv")
    assert state["component_vfl"]["state"] == "confirmation"
    assert state["vfl_is_robust"]["state"] == "not registered"
    evaluate(results, t1_gt_ctr=(0.4, 0.5), t1_base_ctr=(0.38, 0.47))
    # row t1_base_ctr has the evaluations of t3_fcos_atss
    assert write_claims(MINI, results).startswith(
        "## Claims, scale mini: your 17 trainings\n\n40 claims of the papers:"
    )
    assert "your 17 trainings" in (results / "mini/claims/table3.md").read_text(encoding="utf-8")


def test_claims_outside_the_study_are_marked(experiments, results):
    """Claims of Table 1 on the registered evaluations are judged, but they are no part of the study."""
    study = register(experiments, "table1", "table3", seeds=SEEDS)
    claims = {name: claim for name, claim in study.claims.items() if claim.table == "table3"}
    register(experiments, "table3", seeds=SEEDS, rows=study.rows, claims=claims)
    evaluate(results, first_seed=1000, by_present_code=True, t1_gt_ctr=(0.4, 0.5, 0.6))
    text = write_claims(MINI, results)
    assert "9 registered claims of the papers" in text
    assert "### Table 1: ground truth in place of predictions at foreground cells (FCOS+ATSS, ResNet-50, 1x) (not registered)" in text  # fmt: skip
    assert lines(results / "mini/claims.csv")["oracle_true_centerness"]["state"] == "not registered"


def test_registered_code_is_compared_with_the_rows_own(experiments, results):
    study = register(experiments, "table3", seeds=SEEDS)
    other = study.rows["t3_raw_fl"].model_copy(update={"code": Code(training="shared:1", evaluation="shared:2")})
    register(experiments, "table3", seeds=SEEDS, rows=study.rows | {"t3_raw_fl": other})
    assert dict(state_of(results).foreign) == {"of other code": 3}


def test_verdicts_are_made_again_after_a_registration(unregistered):
    before = {scale: judged_digest("table3", scale) for scale in ("mini", "bccd")}
    register(unregistered, "table3", seeds=SEEDS)
    registered = {scale: judged_digest("table3", scale) for scale in ("mini", "bccd")}
    assert registered["mini"] != before["mini"]
    assert registered["bccd"] == before["bccd"]
    register(unregistered, "table3", seeds=SEEDS, deviations=[{"date": "2026-12-01", "text": "a"}])
    assert judged_digest("table3", "mini") not in (before["mini"], registered["mini"])
