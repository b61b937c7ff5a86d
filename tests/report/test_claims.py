"""Claims: what they compare, the verdicts, and the files, from made-up evaluations."""

import csv
import io
import math

import numpy as np
import pytest

from workbench.evaluation.intervals import Bootstrap, write_bootstrap
from workbench.report import claims
from workbench.report.claims import claimed_rows, judge, published_ap, read_claims, write_claims
from workbench.runs.folders import bootstrap_file, metrics_file
from workbench.settings import files
from workbench.settings.config import PipelineConfig
from workbench.support.errors import WorkbenchError


def training(ap, noise=0.001, digest="same"):
    """Evaluations of one training, resamples scattered around its AP."""
    samples = ap + noise * np.random.default_rng(0).standard_normal(200)
    return Bootstrap(ap, samples, images=100, digest=digest)


def evaluate(results, settings, **rows):
    """Write evaluations of rows at scale mini, an AP for each seed."""
    known = {row.id: row for row in claimed_rows(settings)}
    for id_, aps in rows.items():
        for seed, ap in enumerate(aps):
            file = bootstrap_file(metrics_file(results / "mini", known[id_], seed))
            file.parent.mkdir(parents=True)
            write_bootstrap(file, training(ap))


def test_every_claim_is_the_papers_its_published_effect_in_its_direction():
    published = published_ap()
    stated = read_claims()
    assert len(stated) >= 50
    assert all(published[claim.better] > published[claim.than] for claim in stated.values())
    pairs = [(claim.better, claim.than) for claim in stated.values()]
    assert len(set(pairs)) == len(pairs)
    tables = {row.table for row in claimed_rows(PipelineConfig())}
    assert tables == {"table1", "table2", "table3", "table4", "table5"}


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
def test_verdicts(better, than, verdict):
    effect, low, high, said = judge([training(ap) for ap in better], [training(ap) for ap in than])
    assert said == verdict
    if verdict == "not run":
        assert all(math.isnan(value) for value in (effect, low, high))
    else:
        assert low <= effect <= high
        assert effect == pytest.approx(100 * (np.mean(better) - np.mean(than)))
        assert (low > 0 or high < 0) == (verdict != "undecided at this scale" or len(than) == 1)


def test_an_interval_that_touches_zero_decides_nothing():
    wide = [training(0.40, noise=0.05), training(0.40, noise=0.05)]
    still = Bootstrap(0.39, np.full(200, 0.39), images=100, digest="same")
    assert judge(wide, [still, still])[-1] == "undecided at this scale"


def test_files_of_claims(tmp_path):
    """Of what has been run: here two rows of Table 3 with two seeds each, everything else is not run."""
    settings = PipelineConfig(seeds=2)
    evaluate(tmp_path, settings, t3_raw_vfl=(0.400, 0.402), t3_raw_fl=(0.370, 0.372))
    text = write_claims(settings, tmp_path)
    assert (tmp_path / "mini" / "claims.md").read_text(encoding="utf-8") == text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "mini" / "claims.csv").read_text(encoding="utf-8"))))
    assert [line["claim"] for line in lines] == list(read_claims())
    assert all(value != "" for line in lines for value in line.values())
    run = {line["claim"]: line for line in lines if line["verdict"] != "not run"}
    assert list(run) == ["component_vfl"]
    line = run["component_vfl"]
    assert (line["verdict"], line["published"], line["effect"], line["seeds"]) == ("reproduced", "1.1", "3.00", "2")
    assert 0 < float(line["low"]) < 3 < float(line["high"])
    assert (
        f"{len(lines)} claims: 1 reproduced, 0 contradicted, 0 undecided at this scale, {len(lines) - 1} not run."
        in text
    )
    assert text.count(" not run ") == len(lines) - 1


def test_oracles_of_one_training_are_compared_training_by_training(tmp_path):
    """Centerness gains 0.5 in trainings that lie 10 apart, and in other two trainings nobody could tell."""
    settings = PipelineConfig(seeds=2)
    evaluate(tmp_path, settings, t1_base_ctr=(0.305, 0.406), t1_base_noctr=(0.300, 0.401))
    judged = {j.name: j for j in claims.judge_claims(settings, tmp_path)}["oracle_centerness_helps"]
    assert (judged.verdict, judged.seeds) == ("reproduced", 2)
    assert judged.low == pytest.approx(0.5, abs=0.05)


def test_evaluations_of_other_images_are_not_compared():
    with pytest.raises(WorkbenchError, match="different images"):
        judge([training(0.4)], [training(0.3, digest="other")])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("better: t3_raw_vfl", "better: t3_rav_vfl", "component_vfl.better: unknown row 't3_rav_vfl'; did you mean"),
        ("than: t3_raw_fl", "than: t4_atss_r_101", "component_vfl.than: unknown row 't4_atss_r_101'"),
        ("than: t3_raw_fl", "then: t3_raw_fl", "component_vfl.then: unknown key; did you mean 'than'?"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(experiments, old, new, said):
    file = experiments / "vfnet" / "claims.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        read_claims()
    assert str(error.value).startswith(f"experiments/vfnet/claims.yaml: {said}")
