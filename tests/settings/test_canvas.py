"""Images on a canvas: those of a GPU of the authors at scale coco, the whole batch where BatchNorm is trained."""

import pytest

from workbench.settings.catalog import find_row, load_table
from workbench.settings.files import table_names
from workbench.settings.ids import run_id

OF_FAMILIES = {"vfnet": 2, "atss": 2, "retinanet": 4, "foveabox": 4, "reppoints": 4}


def experiments(scale):
    return [row.experiment for table in table_names() for row in load_table(table, scale)[1]]


def test_every_row_at_scale_coco_has_the_authors_canvases():
    for experiment in experiments("coco"):
        training = experiment.training
        assert training.canvas == OF_FAMILIES[experiment.detector.family]
        assert training.batch == training.canvases * training.canvas_images == 16


@pytest.mark.parametrize("scale", ["mini", "bccd"])
def test_a_scale_that_trains_its_norms_has_one_canvas(scale):
    assert {(e.training.canvas, e.training.canvases) for e in experiments(scale)} == {("batch", 1)}


@pytest.mark.parametrize("family", ["retinanet", "foveabox", "reppoints"])
def test_groups_of_normalisers_are_apart_from_canvases(family):
    for scale in ("mini", "coco"):
        assert find_row(f"t5_{family}_vfl", scale).experiment.detector.normaliser_images == 4


@pytest.mark.parametrize(("canvas", "same"), [(2, True), (4, False), ("batch", False)])
def test_the_canvas_is_part_of_a_run(canvas, same):
    experiment = find_row("t3_full_vfl", "coco").experiment
    training = experiment.training.model_copy(update={"canvas": canvas})
    assert (run_id(experiment.model_copy(update={"training": training})) == run_id(experiment)) == same
