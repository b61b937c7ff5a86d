"""Trained detectors from which rows start: the digest of a file is part of the run's id, its place and name are not."""

import hashlib
import shutil

import pytest

from workbench.settings import files
from workbench.settings.catalog import Rehearsal, find_row
from workbench.settings.config import read_config
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError

ROW = "t3_full_vfl"
TABLE = """
title: own
split: val2017
rows:
  own: {labels: {a: b}, base: vfnet, training: {epochs: 3}, init: %s}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "detector.pth"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def own_row(experiments):
    """Function that makes a row that starts from ``init``, and returns it at scale coco."""

    def make(init):
        (experiments / "vfnet" / "own_table.yaml").write_text(TABLE % init)
        files.forget()
        return find_row("own", "coco")

    return make


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_content_of_the_file_decides_the_run_and_nothing_else_of_it(file, tmp_path):
    run = find_row(ROW, init=str(file)).run
    moved = shutil.copy(file, tmp_path / "another name.pt")
    assert find_row(ROW, init=str(moved)).run == run != find_row(ROW).run
    file.write_bytes(b"others!")
    assert find_row(ROW, init=str(file)).run not in (run, find_row(ROW).run)


def test_the_experiment_states_the_digest_and_no_pretrained_backbone(file):
    experiment = find_row(ROW, init=str(file)).experiment
    assert experiment.init.sha256 == sha256(file)[:8]
    plain = find_row(ROW).experiment
    assert experiment.backbone == plain.backbone.model_copy(update={"pretrained": False})
    assert plain.init is None
    assert run_id(type(plain).model_validate_json(experiment.model_dump_json())) == run_id(experiment)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("t3_full_vfl", "vfnet_r50_1x"),
        ("t4_vfnet_r50_480_960", "vfnet_r50_2x_480_960"),
        ("t4_vfnet_r50_dcn_480_960", "vfnet_r50_dcn_2x_480_960"),
        ("t5_atss_fl", "atss_r50_1x"),  # the authors' weights have no listed digest
    ],
)
def test_released_means_the_published_weights_of_the_row(row, name):
    start = find_row(row, "coco", init="released").start
    assert (start.weights, start.is_published, start.fault) == (name, True, None)
    assert find_row(row, "coco", init="released").run == find_row(row, "coco", init=name).run


def test_a_row_of_its_own_finds_the_published_weights_of_its_detector(own_row):
    row = own_row("{weights: released}")
    assert (row.start.weights, row.experiment.init.sha256) == ("vfnet_r50_1x", "38db6f58")
    assert row.experiment.training.epochs == 3


def test_a_file_and_published_weights_of_the_same_bytes_are_one_run(own_row, file):
    listed = own_row("{weights: released}").run
    assert own_row(f"{{weights: {file}, sha256: 38db6f58{'0' * 56}}}").run == listed


def test_the_command_line_wins_over_the_row(own_row, file):
    own_row("{weights: released}")
    assert find_row("own", "coco", init=str(file)).experiment.init.sha256 == sha256(file)[:8]


def test_a_row_with_a_stated_digest_is_known_without_its_file(own_row):
    start = own_row("{weights: gone.pth, sha256: 0123456789abcdef}").start
    assert (start.sha256, start.fault) == ("01234567", None)


FAULTS = {
    "{weights: gone.pth}": "own_table.yaml: rows.own.init: gone.pth: cannot be read (No such file or directory); correct",
    "{weights: .}": "own_table.yaml: rows.own.init: .: cannot be read (not a file); name a file in it",
    "{weights: vfnet_r50_1}": "; correct the path; did you mean 'vfnet_r50_1x'?",
    "{weights: vfnetx}": "rows.own.init: the weights vfnetx have no listed digest; name a file or other weights",
    "{weights: gfl_r101_dcn_2x}": "the weights gfl_r101_dcn_2x have the geometry of mmdetection 1; name a file or",
}


@pytest.mark.parametrize("init", FAULTS)
def test_a_row_that_cannot_start_is_a_run_of_its_own_and_does_not_disturb_others(own_row, init):
    row = own_row(init)
    assert FAULTS[init] in row.start.fault
    assert "\n" not in row.start.fault
    assert row.run not in (find_row(ROW, "coco").run, own_row("{}").run)


def test_released_without_published_weights_names_others():
    fault = find_row("t3_raw_vfl", "coco", init="released").start.fault
    assert fault.startswith(
        "init: published weights: none for this row; name a file or other published weights (vfnet_r"
    )
    fault = find_row("t5_atss_vfl", "coco", init="released").start.fault
    assert fault.startswith("init: published weights: the digest of atss_vfl_r50_1x is not listed; name a file or ")


@pytest.mark.parametrize(
    "init", ["{weight: x}", "{weights: 3}", "{weights: x, sha256: xyz}", "[x]", "{sha256: 38db6f58}"]
)
def test_a_mistake_names_its_place(own_row, init):
    with pytest.raises(WorkbenchError, match=r"^experiments/vfnet/own_table.yaml: rows.own.init"):
        own_row(init)


def test_a_missing_file_on_the_command_line_is_refused_at_once():
    with pytest.raises(WorkbenchError, match=r"^init: gone.pth: cannot be read \(No such file or directory\); correct"):
        find_row(ROW, init="gone.pth")


def test_a_rehearsal_starts_from_the_same_file(file):
    row = find_row(ROW, rehearsal=Rehearsal(steps=2), init=str(file))
    assert row.experiment.init == find_row(ROW, init=str(file)).experiment.init


def test_a_start_reaches_the_commands_of_the_pipeline(file):
    assert f"--init={file}" in read_config({"init": str(file)}).world_options
    assert "--init" not in read_config({}).world_options


def test_a_start_and_published_weights_exclude_each_other(file):
    with pytest.raises(WorkbenchError, match=r"^--config: init: weights=released trains nothing where"):
        read_config({"init": str(file), "weights": "released"})
    with pytest.raises(WorkbenchError, match="line break"):
        read_config({"init": "a\nb"})
