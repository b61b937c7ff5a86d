"""Ids of runs and evaluations: stable, and of deciding settings alone."""

import hashlib
from pathlib import Path

import pytest

from workbench.settings.catalog import load_row, load_table
from workbench.settings.digest import SplitDigest
from workbench.settings.experiment import Experiment
from workbench.settings.files import table_names
from workbench.settings.ids import MEANINGS, evaluation_id, id_settings, run_id


def test_ids_of_runs_and_evaluations_stay():
    row = load_row("table3", "t3_full_vfl", "coco")
    assert (row.run, row.variant_id) == ("vfnet-varifocal-resnet50-3159139c", "nms0.6-1333x800-fec9ff81")
    names = [row.variant_id.rsplit("-", 1)[0] for row in load_table("table1", "coco")[1]]
    assert names[0] == "nms0.6-1333x800-without_centerness"
    assert names[4] == "nms0.6-1333x800-without_centerness-oracle_boxes_truth"
    assert names[9] == "nms0.6-1333x800-oracle_score_iou"


def test_the_test_split_is_evaluated_in_a_folder_of_its_own():
    """The names of evaluations of val stay."""
    row, split = load_row("table3", "t3_full_vfl", "coco"), SplitDigest("boxes", "images")
    assert evaluation_id(row.variant, split) == evaluation_id(row.variant, split, "val")
    assert evaluation_id(row.variant, split) == f"nms0.6-1333x800-fec9ff81-{split.short}"
    assert evaluation_id(row.variant, split, "test") == f"nms0.6-1333x800-fec9ff81-test-{split.short}"


def ids(scale):
    """Row, run and variant of every row of the papers, one row per line."""
    rows = [row for table in table_names() if table != "controls" for row in load_table(table, scale)[1]]
    return "".join(f"{row.id} {row.run} {row.variant_id}\n" for row in rows)


def test_ids_of_all_rows_stay_at_mini():
    """A renamed run is trained again: change the file only with a change of what is learnt or measured."""
    assert ids("mini").splitlines() == (Path(__file__).parent / "ids_at_mini.txt").read_text().splitlines()


@pytest.mark.parametrize(("scale", "digest"), [("coco", "e506cb79"), ("bccd", "dead37fb")])
def test_ids_of_all_rows_stay(scale, digest):
    """Change these digests only with a change of what is learnt or measured."""
    assert hashlib.sha256(ids(scale).encode()).hexdigest()[:8] == digest


def test_controls_are_runs_of_their_own():
    """The placebo has the settings of the star on the grid, and other initial weights."""
    grid, again, small = load_table("controls")[1]
    assert len({grid.run, again.run, small.run, load_row("table3", "t3_star_vfl").run}) == 4
    training = again.experiment.training.model_copy(update={"initialisation": 0})
    assert again.experiment.model_copy(update={"training": training}) == grid.experiment


@pytest.mark.parametrize("scale", ["mini", "coco"])
def test_rows_with_dcn_have_ids_of_their_own_meaning(scale, monkeypatch):
    """DCNv2 of a backbone once started from random kernels of its own; no other row has another id for that reason."""
    rows = load_table("table4", scale)[1]
    now = [run_id(row.experiment) for row in rows]
    monkeypatch.setitem(MEANINGS, "dcn", 1)
    renamed = [run_id(row.experiment) != before for row, before in zip(rows, now, strict=True)]
    assert renamed == [row.experiment.backbone.dcn for row in rows]


def test_every_precision_but_the_default_is_part_of_the_id():
    experiment = load_row("table3", "t3_full_vfl").experiment
    training = experiment.training
    runs = {
        precision: run_id(
            experiment.model_copy(update={"training": training.model_copy(update={"precision": precision})})
        )
        for precision in ("fp32", "tf32", "bf16")
    }
    assert len(set(runs.values())) == 3
    assert runs["fp32"] == load_row("table3", "t3_full_vfl").run


def test_an_id_depends_on_deciding_settings_alone():
    experiment = load_row("table3", "t3_full_vfl").experiment
    training = experiment.training
    same = experiment.model_copy(update={"training": training.model_copy(update={"validate_every": 99})})
    other = experiment.model_copy(update={"training": training.model_copy(update={"learning_rate": 0.123})})
    assert run_id(same) == run_id(experiment) != run_id(other)
    # Defaults are left out, so that a new field with a default renames no run.
    assert "precision" not in id_settings(experiment)["training"]
    # The kind of a group is part of the id even where it is a default.
    assert id_settings(experiment)["loss"] == {"name": "varifocal"}
    again = Experiment.model_validate_json(experiment.model_dump_json())
    assert run_id(again) == run_id(experiment)
