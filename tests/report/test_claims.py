"""Claims: compared rows, verdicts and files, from made-up evaluations."""

import csv
import io
import math

import numpy as np
import pytest

from workbench.evaluation.intervals import Bootstrap, write_bootstrap
from workbench.report.claims import (
    claimed_tables,
    judge,
    judge_table,
    published_ap,
    read_claims,
    write_claims,
    write_verdicts,
)
from workbench.runs.folders import scale_folder
from workbench.settings import files
from workbench.settings.catalog import find_row
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError


def training(ap, noise=0.001, digest="same"):
    """Return the resamples of one training, normally distributed around its AP."""
    samples = ap + noise * np.random.default_rng(0).standard_normal(200)
    return Bootstrap(ap, samples, images=100, digest=digest)


def evaluate(results, **rows):
    """Write evaluations of rows at scale mini, an AP for each seed."""
    for id_, aps in rows.items():
        for seed, ap in enumerate(aps):
            evaluation = scale_folder(results, "mini").evaluation(find_row(id_), seed)
            evaluation.folder.mkdir(parents=True)
            belongs = {"of": evaluation.identity(), "split": find_row(id_).split(seed).facts()}
            write_bootstrap(evaluation.bootstrap, training(ap), belongs)


def test_the_published_effect_of_every_claim_is_positive():
    published = published_ap()
    all_claims = read_claims()
    assert len(all_claims) >= 50
    assert all(published[claim.better] > published[claim.than] for claim in all_claims.values())
    pairs = [(claim.better, claim.than) for claim in all_claims.values()]
    assert len(set(pairs)) == len(pairs)
    assert claimed_tables() == ["table1", "table2", "table3", "table4", "table5"]


@pytest.mark.parametrize(
    ("better", "than", "verdict"),
    [
        ([0.40, 0.41], [0.36, 0.37], "reproduced"),
        ([0.36, 0.37], [0.40, 0.41], "contradicted"),
        ([0.36, 0.40], [0.37, 0.38], "undecided at this scale"),
        ([0.40], [0.30], "undecided at this scale"),  # one seed decides nothing, however large the effect
        ([0.40, 0.41, 0.40], [0.30], "undecided at this scale"),
        ([], [0.30], "not run"),
        ([0.30], [], "not run"),
    ],
)
def test_verdicts_follow_from_interval_and_seeds(better, than, verdict):
    effect, low, high, judged = judge([training(ap) for ap in better], [training(ap) for ap in than])
    assert judged == verdict
    if verdict == "not run":
        assert all(math.isnan(value) for value in (effect, low, high))
    else:
        assert low <= effect <= high
        assert effect == pytest.approx(100 * (np.mean(better) - np.mean(than)))
        assert (low > 0 or high < 0) == (verdict != "undecided at this scale" or len(than) == 1)


def test_an_interval_that_contains_zero_is_undecided():
    wide = [training(0.40, noise=0.05), training(0.40, noise=0.05)]
    narrow = Bootstrap(0.39, np.full(200, 0.39), images=100, digest="same")
    assert judge(wide, [narrow, narrow])[-1] == "undecided at this scale"


def test_claims_of_measured_rows_are_judged_and_all_others_are_not_run(tmp_path):
    """Two rows of Table 3 have two seeds each; all other rows are not run."""
    settings = PipelineConfig(seeds=2)
    evaluate(tmp_path, t3_raw_vfl=(0.400, 0.402), t3_raw_fl=(0.370, 0.372))
    text = write_claims(settings, tmp_path)
    assert (tmp_path / "mini" / "claims.md").read_text(encoding="utf-8") == text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "mini" / "claims.csv").read_text(encoding="utf-8"))))
    assert sorted(line["claim"] for line in lines) == sorted(read_claims())
    assert all(value != "" for line in lines for value in line.values())
    judged = {line["claim"]: line for line in lines if line["verdict"] != "not run"}
    assert list(judged) == ["component_vfl"]
    line = judged["component_vfl"]
    assert (line["verdict"], line["published"], line["effect"], line["seeds"]) == ("reproduced", "1.1", "3.00", "2")
    assert 0 < float(line["low"]) < 3 < float(line["high"])
    assert (
        f"{len(lines)} claims: 1 reproduced, 0 contradicted, 0 undecided at this scale, {len(lines) - 1} not run."
        in text
    )
    assert text.count(" not run ") == len(lines) - 1
    assert [path.name for path in (tmp_path / "mini" / "claims").glob("*.csv")] == ["table3.csv"]


def test_verdicts_of_a_table(tmp_path):
    settings = PipelineConfig(seeds=2)
    evaluate(tmp_path, t3_raw_vfl=(0.400, 0.402), t3_raw_fl=(0.370, 0.372))
    text = write_verdicts("table3", settings, tmp_path)
    folder = tmp_path / "mini" / "claims"
    assert sorted(path.name for path in folder.iterdir()) == ["table3.csv", "table3.html", "table3.md"]
    assert "5 claims: 1 reproduced, 0 contradicted, 0 undecided at this scale, 4 not run." in text
    assert not (tmp_path / "mini" / "claims.csv").exists()


def test_rows_of_the_same_trainings_are_compared_within_each_training(tmp_path):
    """Centerness gains 0.5 AP in each training. The trainings differ by 10 AP, so an unpaired comparison is undecided."""
    settings = PipelineConfig(seeds=2)
    evaluate(tmp_path, t1_base_ctr=(0.305, 0.406), t1_base_noctr=(0.300, 0.401))
    judged = {j.name: j for j in judge_table("table1", settings, tmp_path)}["oracle_centerness_helps"]
    assert (judged.verdict, judged.seeds) == ("reproduced", 2)
    assert judged.low == pytest.approx(0.5, abs=0.05)


def test_evaluations_on_different_images_are_not_compared():
    with pytest.raises(WorkbenchError, match="different images"):
        judge([training(0.4)], [training(0.3, digest="other")])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("better: t3_raw_vfl", "better: t3_rav_vfl", "component_vfl.better: unknown row 't3_rav_vfl'; did you mean"),
        ("than: t3_raw_fl", "than: t4_atss_r_101", "component_vfl.than: unknown row 't4_atss_r_101'"),
        ("than: t3_raw_fl", "then: t3_raw_fl", "component_vfl.then: unknown key; did you mean 'than'?"),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_place(experiments, old, new, message):
    file = experiments / "vfnet" / "claims.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        read_claims()
    assert str(error.value).startswith(f"experiments/vfnet/claims.yaml: {message}")
