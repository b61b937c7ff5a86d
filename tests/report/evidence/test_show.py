"""Claims, tables and orders are computed from the list alone, and equal the pages of the results."""

import csv
import shutil

import pytest

from tests.report.made_up import evaluate, study
from workbench.report.claims.judge import judge_tables, measured_on_disk
from workbench.report.claims.page import claims_csv
from workbench.report.claims.state import State
from workbench.report.evidence.add import add_evidence
from workbench.report.evidence.lines import evidence_file, read_lines
from workbench.report.evidence.show import evidence_of, write_evidence
from workbench.report.outcomes import make_table
from workbench.settings.config import PipelineConfig
from workbench.settings.registration import Registration

MINI = PipelineConfig()
ROWS = {
    "t3_raw_fl": (0.300, 0.400, 0.500),
    "t3_raw_vfl": (0.330, 0.431, 0.529),
    "t3_star_vfl": (0.340, 0.442, 0.535),
    "t3_full_vfl": (0.350, 0.452, 0.540),
    "t3_fcos_atss": (0.310, 0.420, 0.530),
}


def show(registered, results, scale="mini"):
    registration = Registration(date="2026-11-27", studies={scale: registered})
    evidence = evidence_of(scale, registration, read_lines(evidence_file(results)), results)
    return write_evidence(evidence, results / "reference")


def table(file):
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def by_claim(text, names):
    return {line["claim"]: line for line in csv.DictReader(text.splitlines()) if line["claim"] in names}


@pytest.mark.parametrize("scale", ["mini", "bccd"])
def test_pages_of_the_list_equal_pages_of_the_results(tmp_path, tiny_data, scale):
    """One registered claim after another has the verdict and the interval that the results give."""
    data_root = tiny_data if scale == "bccd" else None
    settings = PipelineConfig(scale=scale, data_root=data_root, seeds=3)
    evaluate(tmp_path, scale, data_root, **ROWS)
    registered = study(*ROWS, scale=scale, data_root=data_root)
    make_table("table3", settings, tmp_path)
    judged = judge_tables(["table3"], measured_on_disk(settings, tmp_path))
    of_results = claims_csv(*judged, State("own", 15))
    add_evidence(registered, settings, tmp_path)
    expected = table(tmp_path / scale / "tables/table3.csv")
    shutil.rmtree(tmp_path / scale)
    show(registered, tmp_path, scale)
    reference = tmp_path / "reference"
    shown = table(reference / f"{scale}_table3.csv")
    assert [line | {"code_digest": ""} for line in shown] == [line | {"code_digest": ""} for line in expected]
    effects = ("effect", "low", "high", "seeds", "published", "statement")
    claims = (reference / f"{scale}_claims.csv").read_text()
    for name, line in by_claim(claims, registered.claims).items():
        other = by_claim(of_results, [name])[name]
        assert [line[key] for key in effects] == [other[key] for key in effects]
        assert line["effect"] != "-"
    for suffix in (".md", ".html", ".png", ".pdf"):
        assert (reference / f"{scale}_claims{suffix}").stat().st_size > 500
    assert len(by_claim(claims, registered.claims)) == len(registered.claims) > 4


def test_only_registered_lines_count(tmp_path):
    """A seed, a row or a code that is not registered changes no page."""
    evaluate(tmp_path, **ROWS)
    add_evidence(study(*ROWS), MINI, tmp_path)
    registered = study("t3_raw_fl", "t3_raw_vfl", seeds=(0, 1))
    show(registered, tmp_path)
    lines = {line["row"]: line for line in table(tmp_path / "reference/mini_table3.csv")}
    assert (lines["t3_raw_vfl"]["seeds"], lines["t3_full_vfl"]["seeds"]) == ("0 1", "not run")
    row = registered.rows["t3_raw_vfl"]
    code = row.code.model_copy(update={"evaluation": "shared:00000000"})
    rows = registered.rows | {"t3_raw_vfl": row.model_copy(update={"code": code})}
    show(registered.model_copy(update={"rows": rows}), tmp_path)
    lines = {line["row"]: line for line in table(tmp_path / "reference/mini_table3.csv")}
    assert (lines["t3_raw_fl"]["seeds"], lines["t3_raw_vfl"]["seeds"]) == ("0 1", "not run")


def test_pages_are_interim_until_all_trainings_are_listed(tmp_path):
    evaluate(tmp_path, t3_raw_fl=(0.3, 0.4), t3_raw_vfl=(0.3,))
    registered = study("t3_raw_fl", "t3_raw_vfl", seeds=(0, 1))
    add_evidence(registered, MINI, tmp_path)
    assert "interim, 1 of 2 registered worlds" in show(registered, tmp_path)
    evaluate(tmp_path, t3_raw_vfl=(0.3, 0.5))
    add_evidence(registered, MINI, tmp_path)
    text = show(registered, tmp_path)
    assert "interim" not in text
    assert "Confirmation: all 4 trainings" in text
    assert "scale mini: confirmation" in (tmp_path / "reference/mini_table3.md").read_text()


def test_the_order_of_each_world_is_compared_with_the_published_order(tmp_path):
    """Published: raw FL 39.0, FCOS+ATSS 39.2, raw VFL 40.1, full 41.6."""
    aps = {
        "t3_raw_fl": (0.1, 0.4, 0.1),
        "t3_fcos_atss": (0.2, 0.3, 0.1),
        "t3_raw_vfl": (0.3, 0.2),
        "t3_full_vfl": (0.4, 0.1),
    }
    evaluate(tmp_path, **aps)
    add_evidence(study(*ROWS), MINI, tmp_path)
    show(study(*ROWS), tmp_path)
    orders = [tuple(line.values()) for line in table(tmp_path / "reference/mini_orders.csv")]
    assert orders == [("table3", "0", "4", "1.00"), ("table3", "1", "4", "-1.00")]


def test_the_same_list_gives_the_same_bytes(tmp_path):
    evaluate(tmp_path, **ROWS)
    add_evidence(study(*ROWS), MINI, tmp_path)
    pages = []
    for _ in range(2):
        show(study(*ROWS), tmp_path)
        files = sorted((tmp_path / "reference").iterdir())
        pages.append({file.name: file.read_bytes() for file in files if file.suffix != ".pdf"})
    assert pages[0] == pages[1]
