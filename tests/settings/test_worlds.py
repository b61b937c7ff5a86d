"""Worlds of the embedded data set: a seed's world is the same for all rows, and results of worlds are kept apart."""

import pytest

from workbench.settings import files
from workbench.settings.catalog import load_row, load_table
from workbench.settings.config import read_config
from workbench.settings.data import EmbeddedData
from workbench.settings.ids import run_id
from workbench.settings.released import trainings_of
from workbench.support.errors import WorkbenchError

OWN, FIXED = EmbeddedData(world="seed"), EmbeddedData(world=7)


@pytest.mark.parametrize(
    ("seed", "world"), [(0, 0), ("3", 3), (1003, 1003), (101003, 1003), (99_999, 99_999), (100_000, 0), ("released", 0)]
)
def test_the_world_of_a_training_is_its_seed_modulo_100000(seed, world):
    assert OWN.world_of(seed) == world
    assert OWN.drawn_for(seed) == EmbeddedData(world=world)
    assert FIXED.world_of(seed) == 7
    assert FIXED.drawn_for(seed) == FIXED


def test_a_scale_states_whether_each_seed_has_a_world_of_its_own():
    assert {
        scale: load_row("table3", "t3_full_vfl", scale).experiment.data.per_seed for scale in ("mini", "bccd", "coco")
    } == {"mini": True, "bccd": False, "coco": False}
    assert not FIXED.per_seed


def test_all_rows_of_a_seed_share_a_split_and_other_seeds_have_others():
    rows = load_table("table3")[1] + load_table("table1")[1]
    splits = [{row.split(seed) for row in rows} for seed in (0, 1, 2)]
    assert [len(split) for split in splits] == [1, 1, 1]
    assert len(set.union(*splits)) == 3
    row = rows[0]
    for folder in (row.evaluation_folder, row.ranking_folder):
        assert folder(3) == folder("100003") == folder(3).removesuffix(row.split(3).short) + row.split(3).short
        assert folder(3) != folder(4)


def test_a_data_set_on_disk_is_the_same_for_all_seeds(tiny_data):
    row = load_row("table3", "t3_full_vfl", "bccd", tiny_data)
    assert row.split(0) == row.split(3) == row.split("released") == row.on_disk is not None
    assert row.evaluation_folder(0) == row.evaluation_folder("released")
    assert load_row("table3", "t3_full_vfl", "coco").split(0) is None


def test_a_run_s_id_covers_the_rule_and_not_the_drawings():
    """The run of all seeds is one run. A world that is stated by its number is another run, also where it is world 0."""
    experiment = load_row("table3", "t3_full_vfl").experiment
    rules = [experiment.data, *(experiment.data.drawn_for(seed) for seed in (0, 1))]
    assert len({run_id(experiment.model_copy(update={"data": data})) for data in rules}) == 3


def test_a_scale_can_fix_the_world(experiments):
    file = experiments / "scales/mini.yaml"
    file.write_text(file.read_text().replace("world: seed", "world: 120"))
    files.forget()
    row = load_row("table3", "t3_full_vfl")
    assert not row.experiment.data.per_seed
    assert row.split(0) == row.split(1)


def test_a_world_that_is_neither_a_number_nor_the_rule_is_refused(experiments):
    file = experiments / "scales/mini.yaml"
    file.write_text(file.read_text().replace("world: seed", "world: seeds"))
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        load_table("table3")
    assert str(error.value) == (
        "experiments/scales/mini.yaml: data.world: expected seed, or the number of a world from 0 to 99999 "
        "(found 'seeds')"
    )


def test_the_seeds_begin_at_first_seed():
    rows = load_table("table3")[1]
    for config, seeds in [({}, ["0"]), ({"seeds": 3, "first_seed": 1000}, ["1000", "1001", "1002"])]:
        assert list(trainings_of(rows, read_config(config)).values()) == [seeds] * len(rows)
