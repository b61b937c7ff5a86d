"""Summaries show the evaluations that exist and belong, and never replace more by less."""

import hashlib
import json

import numpy as np
import pytest

from workbench import cli
from workbench.evaluation.coco_metrics import METRICS, STRICT_METRICS
from workbench.evaluation.intervals import Bootstrap, write_bootstrap
from workbench.report.claims.write import write_verdicts
from workbench.report.measured import (
    SPEARMAN,
    evaluations_on_disk,
    metrics_by_seed,
    ranking_text,
    read_metrics,
    read_ranking,
    read_resamples,
    read_spearman,
    resamples_by_seed,
    shown_trainings,
    values_by_seed,
)
from workbench.report.outcomes import draw_figure, make_table
from workbench.runs.results import scale_folder
from workbench.settings.catalog import find_row
from workbench.settings.config import read_config
from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

ROWS = ("t3_raw_fl", "t3_raw_vfl", "t3_full_vfl")
ONE_SEED = read_config({})


def evaluate(results, row, seed, ap=0.4):
    """Write made-up results of a row at scale mini."""
    evaluation = scale_folder(results, "mini").evaluation(find_row(row), seed)
    evaluation.training.run.write_experiment(find_row(row).experiment)
    of = {"of": evaluation.identity(), "split": find_row(row).split(seed).facts()}
    provenance = {"seed": seed, "code_digest": "12345678"}
    metrics = dict.fromkeys((*METRICS, *STRICT_METRICS), ap) | {"per_class": {"box": ap}, "images": 9, "detections": 9}
    write_json_atomically(evaluation.metrics, of | metrics | {"provenance": provenance})
    samples = ap + 0.01 * np.random.default_rng(0).standard_normal(20)
    write_bootstrap(evaluation.bootstrap, Bootstrap(ap, samples, 9, "same"), of)
    return evaluation


def ranked(results, row, seed):
    import pandas

    evaluation = scale_folder(results, "mini").ranking(find_row(row), seed)
    evaluation.folder.mkdir(parents=True, exist_ok=True)
    locations = pandas.DataFrame({"iou": [0.2, 0.9], "score": [0.1, 0.8]})
    evaluation.ranking.write_text(ranking_text(evaluation, locations))
    write_json_atomically(evaluation.ranking_facts, {"of": evaluation.identity(), SPEARMAN: 0.1 * seed, "locations": 2})
    return evaluation


@pytest.fixture
def results(tmp_path):
    """Results of three rows, one seed each."""
    for row in ROWS:
        evaluate(tmp_path / "results", row, 0)
    return tmp_path / "results"


def tree(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def edited(**values):
    def edit(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def of_another(key, value):
    def edit(path):
        content = json.loads(path.read_text())
        content["of"][key] = value
        path.write_text(json.dumps(content))

    return edit


FOREIGN = {
    "run": of_another("run", "vfnet_raw-focal-resnet50-00000000"),
    "seed": of_another("seed", 1),
    "variant": of_another("evaluation", "nms0.5-128x96-00000000-00000000"),
    "split": of_another("evaluation", "nms0.6-128x96-890ca422-00000000"),
    "digests": edited(split={"annotations": "0" * 32, "images": "0" * 32}),
    "no digests": edited(split={}),
    "no owner": edited(of=None),
    "an earlier version": lambda path: path.write_text('{"AP": 0.9}'),
}
SENSELESS = {
    "NaN": edited(AP=float("nan")),
    "infinity": edited(AP=float("inf")),
    "percent": edited(AP=41.0),
    "a truth value": edited(AP=True),
    "negative": edited(AP=-0.1),
    "text": edited(AP="0.4"),
    "empty": lambda path: path.write_text(""),
    "letters": lambda path: path.write_text("abc"),
    "a list": lambda path: path.write_text("[]"),
    "an empty object": lambda path: path.write_text("{}"),
    "a number": lambda path: path.write_text("0.4"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}


DISAGREEING = {
    "seed of the provenance": edited(provenance={"seed": 1, "code_digest": "12345678"}),
    "text for the seed": edited(provenance={"seed": "0", "code_digest": "12345678"}),
    "no version of the code": edited(provenance={"seed": 0, "code_digest": None}),
    "AP of other resamples": edited(AP=0.9),
}


@pytest.mark.parametrize("fault", DISAGREEING)
def test_metrics_that_disagree_with_themselves_or_with_the_resamples_are_refused(results, fault):
    evaluation = scale_folder(results, "mini").evaluation(find_row("t3_raw_vfl"), 0)
    DISAGREEING[fault](evaluation.metrics)
    for summary in (make_table, write_verdicts):
        with pytest.raises(WorkbenchError, match=r"(metrics|bootstrap)\.json: .*; delete"):
            summary("table3", ONE_SEED, results)


@pytest.mark.parametrize("fault", FOREIGN | SENSELESS)
@pytest.mark.parametrize("file", ["metrics", "bootstrap"])
def test_a_result_that_does_not_belong_is_no_number_of_a_table_or_claim(results, fault, file):
    path = getattr(scale_folder(results, "mini").evaluation(find_row("t3_raw_vfl"), 0), file)
    (FOREIGN | SENSELESS)[fault](path)
    before = tree(results)
    summaries = [make_table] if file == "metrics" else [make_table, write_verdicts]
    for summary in summaries:
        with pytest.raises(WorkbenchError, match=rf"{path.name}: .*; .*") as error:
            summary("table3", ONE_SEED, results)
        assert "\n" not in str(error.value)
    assert tree(results) == before


def test_what_a_foreign_result_is_of_is_stated(results):
    evaluation = scale_folder(results, "mini").evaluation(find_row("t3_raw_vfl"), 0)
    other = scale_folder(results, "mini").evaluation(find_row("t3_raw_fl"), 0)
    evaluation.metrics.write_bytes(other.metrics.read_bytes())
    with pytest.raises(WorkbenchError) as error:
        read_metrics(evaluation)
    assert str(error.value).startswith(f"{evaluation.metrics}: not a result of vfnet_raw-varifocal-resnet50-")
    assert f"but of {other.training.run.name}, seed 0, {other.name}; delete this file, then evaluate again" in str(
        error.value
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"seed": 0', '"seed": 1'),
        lambda text: text.split("\n", 1)[1],
        lambda text: text.replace("0.9", "nan"),
        lambda text: text.replace("0.9", ""),
        lambda text: text.replace("0.9", "1.5"),
        lambda text: text.replace("0.9", "True"),
        lambda text: text.replace("iou", "abc"),
        lambda text: text + "a,b,c,d\n",
        lambda text: text.splitlines()[0],
        lambda _: "abc",
        lambda _: "",
        lambda _: "#[",
        lambda _: "\0",
    ],
)
def test_a_ranking_that_does_not_belong_is_refused(results, change):
    evaluation = ranked(results, "t3_raw_fl", 0)
    assert read_ranking(evaluation)["score"].tolist() == [0.1, 0.8]
    evaluation.ranking.write_text(change(evaluation.ranking.read_text()))
    with pytest.raises(WorkbenchError, match=r"ranking\.csv: .*; delete th") as error:
        draw_figure("table3", "ranking", ONE_SEED, results)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("summary", [make_table, write_verdicts])
def test_an_experiment_that_was_edited_is_no_row_of_a_table(results, summary):
    run = scale_folder(results, "mini").training(find_row("t3_raw_vfl"), 0).run
    content = json.loads(run.settings.read_text())
    content["training"]["learning_rate"] = 0.5
    run.settings.write_text(json.dumps(content))
    with pytest.raises(WorkbenchError, match=rf"experiment\.json: this is the experiment of .*, not of {run.name}"):
        summary("table3", ONE_SEED, results)


def test_fewer_seeds_replace_no_summary_of_more_seeds(results):
    for row in ROWS:
        for seed in (1, 2):
            evaluate(results, row, seed, 0.4 + 0.1 * seed)
            ranked(results, row, seed)
    three = [summary("table3", read_config({"seeds": 3}), results) for summary in (make_table, write_verdicts)]
    before = tree(results)
    assert [summary("table3", ONE_SEED, results) for summary in (make_table, write_verdicts)] == three
    assert tree(results) == before
    assert "means over 3 seeds;" in three[0]


def test_a_summary_without_results_replaces_no_summary_with_results(results, monkeypatch, capsys):
    """Other validation data, weights or limits have evaluations of their own, of which none may exist yet."""
    for command in (["table", "table3"], ["claims", "table3"], ["claims"]):
        monkeypatch.setattr("sys.argv", ["workbench", *command, "--results", str(results)])
        cli.main()
    for metrics in list(results.rglob("metrics.json")):  # the evaluations are of other data now
        metrics.parent.rename(metrics.parent.with_name("other"))
    before = tree(results)
    for command in (["table", "table3"], ["claims", "table3"], ["claims"]):
        monkeypatch.setattr("sys.argv", ["workbench", *command, "--results", str(results)])
        with pytest.raises(SystemExit) as error:
            cli.main()
        assert "shows more trainings of " in str(error.value)
        assert "; evaluate first (snakemake with the same target), name the data set, weights" in str(error.value)
    assert tree(results) == before


def test_rows_with_different_numbers_of_seeds_have_a_note(results):
    evaluate(results, "t3_full_vfl", 1)
    text = make_table("table3", ONE_SEED, results)
    note = "**The rows have different numbers of seeds.** 2: `t3_full_vfl`; 1: `t3_raw_fl`, `t3_raw_vfl`."
    assert note in text
    assert "different numbers" in scale_folder(results, "mini").table("table3").with_suffix(".html").read_text()


@pytest.mark.parametrize("command", [("table", "table3"), ("claims",), ("claims", "table3"), ("figure", "table3")])
def test_a_summary_elsewhere_or_without_its_data_writes_nothing(results, tmp_path, monkeypatch, capsys, command):
    make_table("table3", ONE_SEED, results)
    own = results / "bccd" / "tables" / "table3.csv"
    own.parent.mkdir(parents=True)
    own.write_text("finished\n")
    (tmp_path / "elsewhere").mkdir()
    before = tree(tmp_path)
    for folder, options, message in [
        (tmp_path / "elsewhere", (), "workbench: results: no such folder; go to the workbench's folder, or add"),
        (tmp_path, ("--scale", "bccd"), "workbench: scale bccd needs a data set: add data_root=FOLDER"),
    ]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["workbench", *command, *options])
        with pytest.raises(SystemExit) as error:
            cli.main()
        assert str(error.value).startswith(message)
    assert tree(tmp_path) == before
    assert not list((tmp_path / "elsewhere").iterdir())


def test_measurements_are_known_by_seed(results):
    """Each seed is evaluated on its own world; the order of folders (1000 before 3) does not matter."""
    row, folder = find_row("t3_raw_fl"), scale_folder(results, "mini")
    aps = {0: 0.4, 3: 0.3, 1000: 0.5}
    for seed in (1000, 3):
        evaluate(results, row.id, seed, aps[seed])
    of_row = folder, row, ONE_SEED
    assert {seed: m["AP"] for seed, m in metrics_by_seed(*of_row).items()} == aps
    assert values_by_seed(*of_row, "AP90") == aps
    assert {seed: r.ap for seed, r in resamples_by_seed(*of_row).items()} == aps
    assert len({evaluation.name for evaluation in evaluations_on_disk(*of_row).values()}) == 3
    assert values_by_seed(folder, find_row("t3_star_vfl"), ONE_SEED, "AP") == {}


def test_some_seeds_alone_are_shown(results):
    row, folder = find_row("t3_raw_fl"), scale_folder(results, "mini")
    evaluate(results, row.id, 1000)
    of_row, registered = (folder, row, ONE_SEED), range(1000, 1010)
    assert [training.seed for training in shown_trainings(*of_row, registered)] == ["1000"]
    for read in (evaluations_on_disk, metrics_by_seed, resamples_by_seed):
        assert list(read(*of_row, registered)) == list(read(*of_row, seeds={1000})) == [1000]
        assert list(read(*of_row)) == [0, 1000]
    assert values_by_seed(*of_row, "AP", registered) == {1000: 0.4}
    ranked(results, row.id, 0)
    assert values_by_seed(*of_row, SPEARMAN, registered) == {}


def test_an_evaluation_on_the_world_of_another_seed_is_not_shown(results):
    row, folder = find_row("t3_raw_fl"), scale_folder(results, "mini")
    evaluation = evaluate(results, row.id, 1)
    evaluation.folder.rename(evaluation.folder.with_name(row.evaluation_folder(0)))
    assert list(metrics_by_seed(folder, row, ONE_SEED)) == [0]


def test_metrics_of_an_earlier_version_are_shown_in_tables_and_refused_by_name(results):
    row, folder = find_row("t3_raw_fl"), scale_folder(results, "mini")
    file = folder.evaluation(row, 0).metrics
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key not in STRICT_METRICS}))
    assert "t3_raw_fl" in make_table("table3", ONE_SEED, results)
    assert values_by_seed(folder, row, ONE_SEED, "AP75") == {0: 0.4}
    with pytest.raises(WorkbenchError) as error:
        values_by_seed(folder, row, ONE_SEED, "AP80")
    assert str(error.value) == (
        f"{file}: no AP80, because an earlier version wrote it; delete this file, then evaluate again (snakemake with "
        "the same target)"
    )
    file.write_text(json.dumps(content | {"AP90": 40.0}))
    with pytest.raises(WorkbenchError, match=r"metrics\.json: AP90 is 40\.0, not a fraction; delete"):
        read_metrics(folder.evaluation(row, 0))


def test_a_metric_without_ground_truth_is_left_out(results):
    row, folder = find_row("t3_raw_fl"), scale_folder(results, "mini")
    edited(APL=None)(folder.evaluation(row, 0).metrics)
    assert values_by_seed(folder, row, ONE_SEED, "APL") == {}


def test_the_rank_correlation_is_read_by_seed(results):
    row, folder = find_row("t3_raw_fl"), scale_folder(results, "mini")
    for seed in (0, 3):
        ranked(results, row.id, seed)
    assert values_by_seed(folder, row, ONE_SEED, SPEARMAN) == {0: 0.0, 3: pytest.approx(0.3)}
    edited(Spearman=None)(folder.ranking(row, 0).ranking_facts)
    assert read_spearman(folder.ranking(row, 0)) is None
    assert list(values_by_seed(folder, row, ONE_SEED, SPEARMAN)) == [3]


@pytest.mark.parametrize(
    "fault",
    [
        of_another("seed", 1),
        edited(of=None),
        edited(Spearman=1.5),
        edited(Spearman="0.5"),
        edited(Spearman=True),
        edited(Spearman=float("nan")),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("abc"),
    ],
)
def test_a_rank_correlation_that_does_not_belong_is_refused(results, fault):
    evaluation = ranked(results, "t3_raw_fl", 0)
    fault(evaluation.ranking_facts)
    with pytest.raises(WorkbenchError, match=r"ranking\.json: .*;? ") as error:
        read_spearman(evaluation)
    assert "\n" not in str(error.value)


def test_resamples_and_metrics_are_read_as_they_were_written(results):
    evaluation = scale_folder(results, "mini").evaluation(find_row("t3_raw_vfl"), 0)
    assert read_metrics(evaluation)["AP75"] == 0.4
    assert read_resamples(evaluation).ap == 0.4
