"""Finished evaluations of the registered study are listed once, whatever happens in between."""

import json
import os
import subprocess
import sys

import pytest

from tests.report.made_up import CODE, COMMIT, evaluate, study
from workbench.report.evidence import add
from workbench.report.evidence.add import add_evidence
from workbench.report.evidence.bootstraps import bootstrap_file, read_bootstrap
from workbench.report.evidence.lines import evidence_file, read_lines
from workbench.runs.results import scale_folder
from workbench.settings.catalog import find_row
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError

MINI = PipelineConfig()
ROWS = {"t3_raw_vfl": (0.33, 0.43), "t3_raw_fl": (0.30, 0.40)}


def lines(results):
    return [(line.row, line.seed) for line in read_lines(evidence_file(results)).values()]


def evaluation(results, row="t3_raw_vfl", seed=0, scale="mini", data_root=None):
    return scale_folder(results, scale).evaluation(find_row(row, scale, data_root), seed)


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_registered_evaluations_are_listed_seed_after_seed(tmp_path):
    evaluate(tmp_path, **ROWS, t3_full_vfl=(0.5,))
    evaluate(tmp_path, first_seed=7, t3_raw_vfl=(0.5,))
    text = add_evidence(study(*ROWS), MINI, tmp_path)
    assert text.endswith("4 lines added, 0 completed; 4 of 6 registered lines of scale mini")
    assert lines(tmp_path) == [("t3_raw_vfl", 0), ("t3_raw_fl", 0), ("t3_raw_vfl", 1), ("t3_raw_fl", 1)]
    line = list(read_lines(evidence_file(tmp_path)).values())[2]
    row = find_row("t3_raw_vfl")
    assert (line.world, line.run, line.evaluation) == (1, row.run, row.evaluation_folder(1))
    assert (line.metrics["AP"], line.metrics["AP80"], line.spearman) == (0.43, 0.43 / 2, 0.43 / 10)
    assert (line.seconds, line.code, line.split, line.commit) == (240.5, CODE, row.split(1).short, COMMIT)


def test_a_second_call_changes_nothing_and_later_evaluations_are_appended(tmp_path):
    evaluate(tmp_path, t3_raw_vfl=(0.33,))
    for _ in range(2):
        add_evidence(study(*ROWS), MINI, tmp_path)
    before = evidence_file(tmp_path).read_text()
    date = evidence_file(tmp_path).stat().st_mtime_ns
    assert add_evidence(study(*ROWS), MINI, tmp_path).endswith(
        "0 lines added, 0 completed; 1 of 6 registered lines of scale mini"
    )
    assert evidence_file(tmp_path).stat().st_mtime_ns == date
    evaluate(tmp_path, **ROWS)
    add_evidence(study(*ROWS), MINI, tmp_path)
    assert evidence_file(tmp_path).read_text().startswith(before)
    assert len(lines(tmp_path)) == 4


def test_the_correlation_follows_when_the_training_is_ranked(tmp_path):
    evaluate(tmp_path, t3_raw_vfl=(0.33,))
    ranking = evaluation(tmp_path).ranking_facts
    content = ranking.read_text()
    ranking.unlink()
    add_evidence(study(*ROWS), MINI, tmp_path)
    (line,) = read_lines(evidence_file(tmp_path)).values()
    assert line.spearman is None
    ranking.write_text(content)
    assert "0 lines added, 1 completed" in add_evidence(study(*ROWS), MINI, tmp_path)
    (line,) = read_lines(evidence_file(tmp_path)).values()
    assert line.spearman == pytest.approx(0.033)
    ranking.unlink()
    assert "0 lines added, 0 completed" in add_evidence(study(*ROWS), MINI, tmp_path)
    assert read_lines(evidence_file(tmp_path))[line.key] == line


def test_a_listed_training_needs_no_results(tmp_path):
    evaluate(tmp_path, **ROWS)
    add_evidence(study(*ROWS), MINI, tmp_path)
    (tmp_path / "mini").rename(tmp_path / "elsewhere")
    assert "0 lines added" in add_evidence(study(*ROWS), MINI, tmp_path)
    assert len(lines(tmp_path)) == 4


def test_other_numbers_of_a_listed_training_are_an_error_that_names_both(tmp_path):
    evaluate(tmp_path, **ROWS)
    add_evidence(study(*ROWS), MINI, tmp_path)
    before = evidence_file(tmp_path).read_text()
    evaluate(tmp_path, t3_raw_fl=(0.31,))
    with pytest.raises(WorkbenchError) as error:
        add_evidence(study(*ROWS), MINI, tmp_path)
    folder = evaluation(tmp_path, "t3_raw_fl").folder
    expected = f"{evidence_file(tmp_path)}, line 3: mini, t3_raw_fl, seed 0 has AP 0.3, but {folder} has 0.31, with"
    assert str(error.value).startswith(expected)
    assert evidence_file(tmp_path).read_text() == before


OTHER = "shared:00000000"


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"code_digest": OTHER}, "code of the training is shared:00000000, but shared:12345678 is registered; delete"),
        ({"evaluation": {"code_digest": OTHER}}, "code of the evaluation is shared:00000000, but"),
        ({"evaluation": None}, "code of the evaluation is None, but"),
        ({"training": {"git_commit": COMMIT}}, "seconds is '', not a number of seconds; delete this file"),
        ({"training": {"seconds": 1.0}}, "commit is '', not a commit; delete this file"),
    ],
)
def test_an_evaluation_of_other_code_or_without_facts_is_not_listed(tmp_path, provenance, message):
    evaluate(tmp_path, **ROWS)
    metrics = evaluation(tmp_path).metrics
    change(metrics, provenance=json.loads(metrics.read_text())["provenance"] | provenance)
    with pytest.raises(WorkbenchError) as error:
        add_evidence(study(*ROWS), MINI, tmp_path)
    assert str(error.value).startswith(f"{metrics}: {message}")
    assert not evidence_file(tmp_path).exists()


@pytest.mark.parametrize("code", [OTHER, None])
def test_a_ranking_by_other_code_is_not_listed(tmp_path, code):
    evaluate(tmp_path, **ROWS)
    ranking = evaluation(tmp_path).ranking_facts
    change(ranking, code_digest=code)
    with pytest.raises(WorkbenchError) as error:
        add_evidence(study(*ROWS), MINI, tmp_path)
    assert str(error.value) == (
        f"{ranking}: code of the evaluation is {code}, but {CODE} is registered; delete this file, and run snakemake "
        "again, with the same target and the registered code"
    )
    assert not evidence_file(tmp_path).exists()


def test_a_training_from_other_pretrained_weights_is_not_listed(tmp_path):
    """The run covers how the weights were made, but another processor makes other ones."""
    evaluate(tmp_path, **ROWS)
    of_rows = {id_: row.model_copy(update={"pretrained": "0" * 16}) for id_, row in study(*ROWS).rows.items()}
    with pytest.raises(
        WorkbenchError, match=r"weights with the SHA-256 \w{16}, but 0{16} is registered; delete .*seed0"
    ):
        add_evidence(study(*ROWS).model_copy(update={"rows": of_rows}), MINI, tmp_path)
    assert not evidence_file(tmp_path).exists()


def test_a_row_whose_settings_changed_is_refused(tmp_path):
    registered = study(*ROWS)
    row = registered.rows["t3_raw_fl"].model_copy(update={"run": "vfnet_raw-focal-resnet50-00000000"})
    changed = registered.model_copy(update={"rows": registered.rows | {"t3_raw_fl": row}})
    with pytest.raises(
        WorkbenchError, match=r"^t3_raw_fl: this row is the run .* but vfnet_raw-focal-resnet50-00000000"
    ):
        add_evidence(changed, MINI, tmp_path)


@pytest.fixture
def bccd(tmp_path, tiny_data):
    """Study on fixed images, its settings, and its results."""
    evaluate(tmp_path, "bccd", tiny_data, **ROWS)
    settings = PipelineConfig(scale="bccd", data_root=tiny_data)
    return study(*ROWS, scale="bccd", data_root=tiny_data), settings, tmp_path


def test_resamples_on_fixed_images_are_kept(bccd, tiny_data):
    add_evidence(*bccd)
    results = bccd[2]
    for line in read_lines(evidence_file(results)).values():
        source = evaluation(results, line.row, line.seed, "bccd", tiny_data).bootstrap
        assert line.world is None
        assert bootstrap_file(results, line).read_bytes() == source.read_bytes()
        assert read_bootstrap(results, line).ap == line.metrics["AP"]
    assert len(list((results / "reference/bootstraps/bccd").iterdir())) == 4
    bootstrap_file(results, line).unlink()
    with pytest.raises(WorkbenchError, match=r"json: missing, but bccd, t3_raw_fl, seed 1 is listed; restore"):
        read_bootstrap(results, line)
    assert "0 lines added" in add_evidence(*bccd)
    assert bootstrap_file(results, line).is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"AP": 0.5}, "AP 0.5, but bccd, t3_raw_fl, seed 1 is listed with 0.4"),
        ({"of": {}}, "not the resamples of bccd, t3_raw_fl, seed 1"),
        ({"resamples": [2]}, "not an AP on resampled images"),
    ],
)
def test_resamples_of_another_line_are_refused(bccd, values, message):
    add_evidence(*bccd)
    *_, line = read_lines(evidence_file(bccd[2])).values()
    file = bootstrap_file(bccd[2], line)
    change(file, **values)
    with pytest.raises(WorkbenchError, match=rf"^{file}: {message}"):
        read_bootstrap(bccd[2], line)
    with pytest.raises(WorkbenchError, match=rf"^{file}: other numbers than .*bootstrap\.json, although"):
        add_evidence(*bccd)


def test_an_evaluation_without_resamples_is_not_finished_on_fixed_images(bccd, tiny_data):
    evaluation(bccd[2], scale="bccd", data_root=tiny_data).bootstrap.unlink()
    add_evidence(*bccd)
    assert ("t3_raw_vfl", 0) not in lines(bccd[2])


def test_a_kill_before_the_list_is_written_loses_nothing(bccd, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(add, "write_lines", killed)
        with pytest.raises(KeyboardInterrupt):
            add_evidence(*bccd)
    assert not evidence_file(bccd[2]).exists()
    left = next((bccd[2] / "reference/bootstraps/bccd").iterdir())
    left.write_text("of an earlier call")
    add_evidence(*bccd)
    for line in read_lines(evidence_file(bccd[2])).values():
        read_bootstrap(bccd[2], line)


PROCESS = """
import sys, time
from pathlib import Path
from tests.report.made_up import study
from workbench.report.evidence import add
from workbench.settings.config import PipelineConfig
before = add.read_lines
def slow(file):
    lines = before(file)
    time.sleep(0.3)
    return lines
add.read_lines = slow
seeds = int(sys.argv[2]), 9
add.add_evidence(study("t3_raw_vfl", "t3_raw_fl", seeds=seeds), PipelineConfig(), Path(sys.argv[1]))
"""


def test_two_processes_at_once_lose_no_line(tmp_path):
    evaluate(tmp_path, **ROWS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, tmp_path, seed], env=environment) for seed in "01"]
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(lines(tmp_path)) == sorted((row, seed) for row in ROWS for seed in (0, 1))
