"""Target ``evidence``: it makes what the registered study still lacks, and nothing that is listed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.made_up import evaluate, study
from workbench.commands.registration import registered_row, study_text
from workbench.pipeline import evidence
from workbench.pipeline.evidence import missing_results
from workbench.pipeline.read import read_pipeline
from workbench.report.evidence.add import add_evidence
from workbench.report.evidence.lines import evidence_file, read_lines, write_lines
from workbench.runs.results import scale_folder
from workbench.settings.catalog import find_row
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError

ROWS = ("t3_raw_fl", "t3_fcos_atss", "t1_gt_ctr")
MINI = PipelineConfig()
RESULTS = Path("results")


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Function that registers a study of the present code in an empty folder, and returns the pipeline."""
    monkeypatch.chdir(tmp_path)

    def register(content, **settings):
        monkeypatch.setattr(evidence, "study_of", lambda _: content)
        return read_pipeline(settings)

    return register


def of_present_code(*rows, **content):
    """Study whose code is the present code."""
    made_up = study("t3_raw_fl", "t3_raw_vfl", *rows, **content)
    return made_up.model_copy(update={"rows": {id_: registered_row(find_row(id_)) for id_ in rows}})


def test_all_that_is_registered_is_missing_at_first(registered):
    plan = registered(of_present_code(*ROWS, seeds=(1001, 1000)))
    files = missing_results(plan)
    assert len(files) == 2 * (3 * 2 + 2)  # the oracle is of the trainings of FCOS+ATSS, whose ranking it shares
    assert all("/seed1001/" in file for file in files[:8])
    assert all("/seed1000/" in file for file in files[8:])
    row = next(row for row in plan.rows if row.id == "t1_gt_ctr")
    oracle = plan.folder.evaluation(row, 1000)
    assert {str(oracle.metrics), str(oracle.bootstrap)} < set(files)
    assert str(oracle.training.evaluation(row.ranking_folder(1000)).ranking_facts) in files


def test_what_is_listed_is_not_made_again(registered):
    """No results, and other code: neither matters for a training that is listed with the registered code."""
    content = study("t3_raw_fl", "t3_raw_vfl")
    evaluate(RESULTS, t3_raw_fl=(0.3, 0.4, 0.5), t3_raw_vfl=(0.3, 0.4, 0.5))
    add_evidence(content, MINI, RESULTS)
    (RESULTS / "mini").rename("elsewhere")
    assert missing_results(registered(content)) == []
    code = content.rows["t3_raw_fl"].code.model_copy(update={"evaluation": "shared:00000000"})
    other = content.rows["t3_raw_fl"].model_copy(update={"code": code})
    listed_with_other_code = content.model_copy(update={"rows": content.rows | {"t3_raw_fl": other}})
    with pytest.raises(
        WorkbenchError, match=r"^evidence: t3_raw_fl: code of the training is shared:\w{8} .*, but shared"
    ):
        missing_results(registered(listed_with_other_code))


def test_a_listed_training_is_ranked_if_its_weights_exist(registered):
    content = study("t3_raw_fl", "t3_raw_vfl", seeds=(0, 1))
    evaluate(RESULTS, t3_raw_fl=(0.3, 0.4), t3_raw_vfl=(0.3, 0.4))
    add_evidence(content, MINI, RESULTS)
    file = evidence_file(RESULTS)
    write_lines(file, [replace(line, spearman=None) for line in read_lines(file).values()])
    assert missing_results(registered(content)) == []
    ranking = scale_folder(RESULTS, "mini").ranking(find_row("t3_raw_fl"), 1)
    ranking.training.weights.touch()
    assert missing_results(registered(content)) == [str(ranking.ranking_facts)]


def test_a_row_that_is_another_run_now_is_refused_before_it_is_trained(registered):
    content = of_present_code("t3_raw_fl")
    row = content.rows["t3_raw_fl"].model_copy(update={"run": "vfnet_raw-focal-resnet50-00000000"})
    with pytest.raises(WorkbenchError, match=r"^evidence: t3_raw_fl: run is .*, but vfnet_raw-focal-resnet50-0000"):
        missing_results(registered(content.model_copy(update={"rows": {"t3_raw_fl": row}})))


def test_other_pretrained_weights_are_refused_before_a_training(registered):
    content = of_present_code("t3_raw_fl")
    row = content.rows["t3_raw_fl"].model_copy(update={"pretrained": "0" * 16})
    with pytest.raises(
        WorkbenchError, match=r"^evidence: t3_raw_fl: SHA-256 of the pretrained weights is \w{16}, but 0"
    ):
        missing_results(registered(content.model_copy(update={"rows": {"t3_raw_fl": row}})))


def test_a_rehearsal_is_not_evidence(registered):
    with pytest.raises(WorkbenchError, match=r"^evidence: a rehearsal is not evidence"):
        missing_results(registered(of_present_code("t3_raw_fl"), limit_steps=2))


def test_what_is_listed_needs_the_last_step_alone(tmp_path, copy, snakemake):
    folder, content = copy(tmp_path / "copy"), study("t3_raw_fl", "t3_raw_vfl", seeds=(0, 1))
    text = f'date: "2026-11-27"\nstudies:\n{study_text("mini", content)}'
    (folder / "experiments/vfnet/preregistration.yaml").write_text(text)
    evaluate(folder / "results", t3_raw_fl=(0.3, 0.4), t3_raw_vfl=(0.3, 0.4))
    add_evidence(content, MINI, folder / "results")
    file = evidence_file(folder / "results")
    before = file.read_text()
    (folder / "results/mini").rename(tmp_path / "elsewhere")
    code, screen = snakemake(folder, "evidence")
    assert code == 0, screen
    assert "0 lines added, 0 completed; 4 of 4 registered lines of scale mini" in screen
    assert [path.name for path in (folder / "results/mini").iterdir()] == ["evidence.log"]
    assert file.read_text() == before
    file.write_text(before[: before.rindex("\nmini,") + 1])
    code, screen = snakemake(folder, "-n", "evidence")
    assert code != 0
    assert screen.splitlines()[-1].startswith("workbench: evidence: t3_raw_vfl: code of the training is ")


def test_the_first_seeds_are_trained_first(tmp_path, copy, snakemake):
    """An interrupted call leaves complete worlds."""
    folder = copy(tmp_path / "copy")
    seeds = ("--config", "seeds=2", "first_seed=1000")
    _, screen = snakemake(folder, "-n", "--quiet", "host", "--cores", "2", "t3_raw_vfl", *seeds)
    jobs = re.findall(r"^rule (\w+):.*?priority: (-?\d+)$", screen, re.MULTILINE | re.DOTALL)
    rules = ("dataset", "train", "detect", "evaluate")
    assert sorted(jobs) == sorted((rule, priority) for rule in rules for priority in ("-1000", "-1001"))
