"""The test split of a data set: evaluated on request, beside val, and never mixed with it."""

import hashlib
import json
import shutil

import pytest

ROW = "t3_raw_fl"


@pytest.fixture
def tested(repository):
    """Repository whose data set has a test split with the files of val: the digests of both are equal."""
    annotations = repository / "data/annotations"
    shutil.copytree(repository / "data/val2017", repository / "data/test2017")
    shutil.copy(annotations / "instances_val2017.json", annotations / "instances_test2017.json")
    return repository


def tree(folder):
    """Digest and date of each result."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".snakemake" not in path.parts)
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def test_the_test_split_is_evaluated_in_a_folder_of_its_own(tested, run, planned):
    before = tree(tested / "results")
    assert planned(tested, ROW) == {}
    assert planned(tested, ROW, split="test") == {"detect": 1, "evaluate": 1, ROW: 1, "total": 3}
    run(tested, ROW, split="test")
    after = tree(tested / "results")
    assert {path: after[path] for path in before} == before
    of_test, of_val = sorted({path.parent for path in after if path.name == "metrics.json"}, key=lambda f: -len(f.name))
    assert of_test.name == f"{of_val.name.rpartition('-')[0]}-test-{of_val.name.rpartition('-')[2]}"
    assert {path.parent for path in after.keys() - before.keys()} == {of_test}
    for folder in (of_val, of_test):
        for file in ("metrics.json", "bootstrap.json", "detection.json"):
            assert json.loads((folder / file).read_text())["of"]["evaluation"] == folder.name
    assert planned(tested, ROW, split="test") == planned(tested, ROW) == {}


def test_a_table_has_the_test_split_on_request_and_claims_have_val_alone(tested, planned):
    of_val = planned(tested, "table3")
    assert of_val["evaluate"] == of_val["detect"] == of_val["train"] == 4
    of_both = planned(tested, "table3", split="test")
    assert of_both == of_val | {"detect": 9, "evaluate": 9, "total": of_val["total"] + 10}
    claims = planned(tested, "results/farm-rehearsal/claims/table3.csv", split="test")
    assert claims == planned(tested, "results/farm-rehearsal/claims/table3.csv")


def test_a_data_set_without_a_test_split_is_one_line(repository, run):
    line = run(repository, ROW, split="test", code=1).strip().splitlines()[-1]
    assert line == (
        "workbench: data: no test split (its splits are train and val); add annotations and images of test, or leave "
        "split=test out"
    )
