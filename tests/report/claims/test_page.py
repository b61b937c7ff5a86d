"""Page of claims: groups, colours and symbols of verdicts, what was not run, and the CSV."""

import csv
import io
import re

import pytest

from tests.report.made_up import judged
from workbench.evaluation.effects import effect_over_worlds
from workbench.evaluation.hypotheses import Word
from workbench.report.claims.judge import Observed
from workbench.report.claims.page import claims_csv, claims_html, claims_markdown
from workbench.report.claims.state import State
from workbench.report.claims.words import AGAINST, AS_STATED, COLOURS, NOTHING, OPEN, expected, signed, summary, symbol
from workbench.settings.claims import read_observations

JUDGED = judged(
    component_vfl=[[1.0, 1.2, 1.1, 0.9]],
    component_star=[[-2.0, -2.1, -1.9, -2.0]],
    component_refinement=[[0.5, -0.4, 0.1, -0.2]],
    raw_vfl_over_fcos_atss=None,
    vfl_is_robust=[[0.1, 0.2, 0.0]] * 4,
    oracle_true_centerness=[[1.9, 2.0, 1.8]],
    control_star_points=[[1.0, 1.1, 1.0]],
)
OWN = State("own", 12)
OBSERVED = [
    Observed(observation, effect_over_worlds([2.5, 2.7]) if observation.name == "component_all" else None)
    for observation in read_observations()
]


def lines():
    return {line["claim"]: line for line in csv.DictReader(io.StringIO(claims_csv(JUDGED, OBSERVED, OWN)))}


def test_every_verdict_has_a_symbol():
    marks = {word: symbol(word) for word in Word.__args__}
    assert marks["opposite"] == symbol("significant") == AGAINST
    assert marks["inconclusive"] == OPEN
    assert {marks[word] for word in ("one seed", "not run", "not testable here")} == {NOTHING}
    supported = [word for word in marks if word.startswith("same")] + ["equivalent", "below the bound"]
    assert {marks[word] for word in supported} == {symbol("not significant")} == {AS_STATED}
    assert set(COLOURS) == {AS_STATED, AGAINST, OPEN}


def test_claims_are_grouped_by_table_with_their_numbers():
    text = claims_markdown("Claims", JUDGED, OBSERVED, OWN)
    headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert [heading.partition(":")[0] for heading in headings] == [
        "Table 3",
        "Table 2",
        "Table 1",
        "Controls",
        "Observations",
    ]
    row = next(line for line in text.splitlines() if "focal loss raises raw VFNet" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:8] == ["section 5.1", "above 0", "+1.1", "+1.1", "[+0.8, +1.3]", "4", "0.004"]
    assert cells[-1] == f"{AS_STATED} same direction, size agrees"
    assert f"{AGAINST} opposite" in text
    assert f"{OPEN} inconclusive" in text


def test_a_rounded_zero_has_no_sign_of_its_own():
    assert [signed(value) for value in (-0.04, 0.0, 0.04, -0.06)] == ["+0.0", "+0.0", "+0.0", "−0.1"]


def test_limits_are_shown():
    assert [expected(j.claim.content) for j in JUDGED] == ["above 0"] * 4 + ["within ±1", "below 3", "above 0"]


def test_what_was_not_run_is_one_line():
    text = claims_markdown("Claims", JUDGED, OBSERVED, OWN)
    assert text.splitlines()[-1] == "1 claim not run: `raw_vfl_over_fcos_atss`."
    page = claims_html("Claims", JUDGED, OBSERVED, OWN)
    before, folded = page.split("<details><summary>1 claim not run</summary>")
    assert "raw VFNet with the varifocal loss" in folded
    assert "raw VFNet with the varifocal loss" not in before
    untestable = judged(gfl_insensitive_to_n=None)
    assert "1 claim not testable at this scale: `gfl_insensitive_to_n`." in claims_markdown("", untestable, [], OWN)
    assert "mini: no side is farther than 12 strides from a location" in claims_html("", untestable, [], OWN)


def test_verdicts_have_colours_in_html():
    page = claims_html("Claims", JUDGED, OBSERVED, OWN)
    for mark, word in ((AS_STATED, "equivalent"), (AGAINST, "opposite"), (OPEN, "inconclusive")):
        cell = re.search(rf"<td[^>]*>{re.escape(mark)} {word}</td>", page.replace("<p>", "").replace("</p>", ""))
        assert cell, word
        assert COLOURS[mark].lower() in cell[0].lower()
    assert page == claims_html("Claims", JUDGED, OBSERVED, OWN)
    assert "http" not in page.replace("http://www.w3.org", "")  # it loads no other file


def test_no_cell_is_a_block_of_markdown():
    """A cell that begins with > would be a quotation."""
    page = claims_html("Claims", JUDGED, OBSERVED, OWN)
    assert "<blockquote" not in page
    assert page.count(">above 0</td>") == 5  # one of them is folded
    assert page.index("6 claims of the papers") < page.index("<table")


def test_observations_have_no_verdict():
    text = claims_markdown("Claims", JUDGED, OBSERVED, OWN)
    observations = text[text.index("### Observations") :].split("\n\n")[1]
    assert "all components together" in observations
    assert len(observations.splitlines()) == 3
    assert not any(mark in observations for mark in (AS_STATED, AGAINST, OPEN))
    line = lines()["component_all"]
    assert (line["kind"], line["effect"], line["published"], line["verdict"]) == ("observation", "2.60", "2.6", "-")


def test_the_csv_has_every_claim_and_no_empty_cell():
    assert list(lines()) == [j.claim.name for j in JUDGED] + [o.observation.name for o in OBSERVED]
    assert all(value for line in lines().values() for value in line.values())
    line = lines()["component_vfl"]
    assert (line["table"], line["row"], line["than"], line["metric"]) == ("table3", "t3_raw_vfl", "t3_raw_fl", "AP")
    assert (line["published"], line["effect"], line["seeds"]) == ("1.1", "1.05", "4")
    assert 0 < float(line["p"]) < 0.05
    assert float(line["mde"]) > 0
    assert (lines()["raw_vfl_over_fcos_atss"]["effect"], lines()["raw_vfl_over_fcos_atss"]["seeds"]) == ("-", "0")
    assert lines()["control_star_points"]["source"] == "control"
    assert {line["state"] for line in lines().values()} == {"own"}


def test_the_summary_counts_statements_of_papers_and_controls_apart():
    assert summary(JUDGED, OWN) == (
        "6 claims of the papers: 3 supported (size agrees: 1), 1 opposite, 1 inconclusive, 1 not run. "
        "Controls: 1 supported, 0 opposite, 0 inconclusive."
    )


@pytest.mark.parametrize("text", ["<b>bold</b>", "a | b", "*star*"])
def test_text_of_users_is_shown_as_written(text):
    claim = JUDGED[0].claim
    content = claim.content.model_copy(update={"statement": text})
    judgement = type(JUDGED[0])(type(claim)(claim.name, claim.table, content, ()), JUDGED[0].verdict, "opposite")
    assert "<b>" not in claims_html("Claims", [judgement], [], OWN)
    assert f"| {text} |" not in claims_markdown("Claims", [judgement], [], OWN)
