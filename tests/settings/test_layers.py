"""Layers own content and places: later layers win key by key, and a group of another kind replaces the whole group."""

import doctest

import pytest

from workbench.settings import files, layers
from workbench.settings.catalog import load_row
from workbench.settings.layers import Layers
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import Place

RECIPE, ROW = Place("recipes.yaml", ("vfnet",)), Place("table.yaml", ("rows", "x"))


def document(*contents):
    made = Layers(contents[0], RECIPE)
    for content in contents[1:]:
        made.lay(Layers(content, ROW))
    return made


def test_the_example_of_the_docstring():
    assert doctest.testmod(layers).failed == 0 < doctest.testmod(layers).attempted


@pytest.mark.parametrize(
    ("group", "below", "above", "merged"),
    [
        ("loss", {"name": "focal", "gamma": 2}, {"gamma": 1}, {"name": "focal", "gamma": 1}),
        ("loss", {"name": "focal", "gamma": 2}, {"name": "focal", "alpha": 1}, {"name": "focal", "gamma": 2, "alpha": 1}),
        ("loss", {"name": "focal", "gamma": 2}, {"name": "varifocal"}, {"name": "varifocal"}),
        ("data", {"kind": "embedded", "world": 0}, {"kind": "coco", "classes": 3}, {"kind": "coco", "classes": 3}),
        ("detector", {"family": "vfnet", "star": True}, {"family": "atss"}, {"family": "atss"}),
        ("backbone", {"name": "resnet50", "dcn": True}, {"name": "resnet101"}, {"name": "resnet101", "dcn": True}),
        ("training", {"cutout": {"unit": 1}}, {"cutout": None}, {"cutout": None}),
        ("training", {"cutout": None}, {"cutout": {"unit": 1}}, {"cutout": {"unit": 1}}),
    ],
)  # fmt: skip
def test_a_group_merges_unless_its_kind_changes(group, below, above, merged):
    assert document({group: below}, {group: above}).content == {group: merged}


def test_places_are_those_of_the_last_writer():
    made = document({"head": {"channels": 4, "convs": 2}, "schedule": "1x"}, {"head": {"channels": 8}})
    assert str(made.place(("head", "channels"))) == "table.yaml: rows.x.head.channels"
    assert str(made.place(("head", "convs"))) == "recipes.yaml: vfnet.head.convs"
    assert str(made.place(("head",))) == "table.yaml: rows.x.head"
    assert str(made.place(("schedule",))) == "recipes.yaml: vfnet.schedule"
    assert str(made.place(("loss", "name"))) == "table.yaml: rows.x.loss.name"
    assert str(made.part("head").place(("convs",))) == "recipes.yaml: vfnet.head.convs"
    assert str(made.part("head").place(())) == "table.yaml: rows.x.head"


def test_a_replaced_group_forgets_its_places():
    made = document({"loss": {"name": "focal", "gamma": 2}}, {"loss": {"name": "varifocal"}})
    assert str(made.place(("loss", "gamma"))) == "table.yaml: rows.x.loss.gamma"


def test_a_document_shares_nothing_with_its_layers_and_parts():
    content = {"head": {"channels": 4}}
    made = Layers(content, RECIPE)
    for other in (made.part("head"), made.pick(["head"]).part("head")):
        other.content["channels"] = 9
    made.lay(Layers({"channels": 8}, ROW), into="head")
    assert content == {"head": {"channels": 4}}
    assert made.content == {"head": {"channels": 8}}


def test_a_loss_over_a_recipes_loss_needs_no_name(experiments):
    file = experiments / "vfnet" / "table2.yaml"
    text = file.read_text()
    before = load_row("table2", "t2_g1p5_a0p75_q")
    file.write_text(text.replace("loss: {name: varifocal, alpha: 0.75, gamma: 1.5}", "loss: {gamma: 1.5}"))
    assert file.read_text() != text
    files.forget()
    after = load_row("table2", "t2_g1p5_a0p75_q")
    assert after.experiment.loss.name == "varifocal"
    assert after.run == before.run
    file.write_text(text.replace("loss: {name: varifocal, alpha: 0.75, gamma: 1.5}", "loss: {beta: 1.5}"))
    files.forget()
    message = r"table2.yaml: rows.t2_g1p5_a0p75_q.loss.beta: unknown key; known: name, alpha, gamma, q_weighting"
    with pytest.raises(WorkbenchError, match=message):
        load_row("table2", "t2_g1p5_a0p75_q")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("scales/mini.yaml", "\nimage: {", "\nimage: 256 #{", "experiments/scales/mini.yaml: image: expected a group such as {long: 1333, short: 800}, not 256"),
        ("scales/mini.yaml", "\ndata: {", "\ndata: coco #{", "experiments/scales/mini.yaml: data: expected a group such as {kind: coco, classes: 80}, not coco"),
        ("scales/mini.yaml", " 1x: {", " 1x: 20 #{", "experiments/scales/mini.yaml: schedules.1x: expected a group of keys and values, not 20"),
        ("vfnet/table3.yaml", "loss: {name: focal}", "loss: focal", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.loss: expected a group such as {name: focal}, not focal"),
        ("vfnet/table3.yaml", "published: {AP: 39.0, AP50: 57.7, AP75: 41.8}", "published: 39.0", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.published: expected a group such as {AP: 41.6}, not 39.0"),
        ("vfnet/table3.yaml", "loss: {name: focal}", "training: {image_range: 96}", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.training.image_range: expected a group such as {long: [1333, 1333], short: [480, 960]}, not 96"),
        ("vfnet/table3.yaml", "loss: {name: focal}", "training: {cutout: true}", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.training.cutout: expected a group such as {probability: 0.5, unit: 4}, not true"),
        ("vfnet/table3.yaml", "loss: {name: focal}", "evaluation: {image: [256, 192]}", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.evaluation.image: expected a group such as {long: 1333, short: 800}, not [256, 192]"),
        ("recipes.yaml", "detector: {family: vfnet, star: true, refine: true}", "detector: vfnet", "experiments/recipes.yaml: vfnet.detector: expected a group such as {family: vfnet}, not vfnet"),
        ("recipes.yaml", "reppoints: # boxes", "oracle: 5\nreppoints: # boxes", "experiments/recipes.yaml: oracle: expected a group of keys and values, not 5"),
        ("recipes.yaml", "  schedule: 1x\n", "  schedule: 1\n", "experiments/recipes.yaml: vfnet.schedule: input should be a valid string (found 1)"),
    ],
)  # fmt: skip
def test_a_value_in_place_of_a_group_is_refused_with_an_example(experiments, file, old, new, message):
    text = (experiments / file).read_text()
    assert old in text
    (experiments / file).write_text(text.replace(old, new, 1))
    files.forget()
    with pytest.raises(WorkbenchError) as error:
        load_row("table3", "t3_raw_fl")
    assert str(error.value) == message
