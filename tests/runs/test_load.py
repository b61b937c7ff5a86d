"""Trained detectors are loaded with the classes that they learnt, or the way out is stated."""

import json
import sys

import pytest

from tests.few_images import CLASSES
from workbench import cli
from workbench.runs.load import load_run, load_training
from workbench.settings.data import CocoData
from workbench.settings.ids import MEANINGS
from workbench.support.errors import WorkbenchError

WRONG_CLASSES = {
    "no ids": {"category_ids": None},
    "no names": {"class_names": None},
    "one name": {"class_names": ["box"]},
    "names as one text": {"class_names": "abcdefghijklmnopqrstuvwx"[:CLASSES]},
    "numbers for names": {"class_names": list(range(CLASSES))},
    "texts for ids": {"category_ids": list(map(str, range(CLASSES)))},
    "truth values for ids": {"category_ids": [True] * CLASSES},
}


@pytest.mark.parametrize("fault", WRONG_CLASSES)
def test_other_classes_than_those_of_the_run_are_refused_and_cost_no_model(untrained_run, tiny_experiment, fault):
    training = untrained_run(tiny_experiment)
    facts = json.loads(training.facts.read_text()) | WRONG_CLASSES[fault]
    training.facts.write_text(json.dumps(facts))
    line = rf"train\.json: category_ids and class_names are not {CLASSES} ids and names; "
    with pytest.raises(WorkbenchError, match=f"{line}put back the file of this training$"):
        load_training(training)
    training.checkpoints.mkdir()
    training.last_checkpoint.touch()
    with pytest.raises(WorkbenchError, match=f"{line}delete it, then run workbench train .* which writes it again"):
        load_training(training)


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("kind", ["embedded", "coco"])
def test_a_missing_model_is_reported_with_the_command_that_trains_it(new_run, tiny_experiment, kind, pretrained):
    data = {"data": CocoData(classes=CLASSES)} if kind == "coco" else {}
    backbone = tiny_experiment.backbone.model_copy(update={"pretrained": pretrained})
    training = new_run(tiny_experiment.model_copy(update=data | {"backbone": backbone})).training(0)
    command = f"workbench train {training.run.folder} --seed 0{' --data-root FOLDER' * (kind == 'coco')}"
    command += f" --pretrained {training.run.results}/weights/{backbone.name}.pth" * pretrained
    with pytest.raises(WorkbenchError) as error:
        load_training(training)
    assert str(error.value) == f"{training.weights}: not found; train this run with seed 0 first ({command})"


@pytest.mark.parametrize("command", ["detect", "evaluate", "ranking", "oracle", "submission"])
def test_a_run_on_own_data_needs_the_data_set(untrained_run, tiny_experiment, monkeypatch, command):
    training = untrained_run(tiny_experiment.model_copy(update={"data": CocoData(classes=CLASSES)}))
    monkeypatch.setattr(sys, "argv", ["workbench", command, "--run", str(training.run.folder)])
    with pytest.raises(SystemExit) as error:
        cli.main()
    line = f"{training.run.name}: its data set is not drawn by the workbench; add --data-root FOLDER"
    assert str(error.value) == f"workbench: {line}"


@pytest.mark.parametrize("place", [".", "..", "../seed0", "../../{run}/seed0", "{folder}", "{folder}/seed0/.."])
def test_a_training_is_found_from_within_its_folder(untrained_run, tiny_experiment, monkeypatch, place):
    training = untrained_run(tiny_experiment)
    monkeypatch.chdir(training.folder)
    assert load_run(place.format(run=training.run.name, folder=training.run.folder)).experiment == tiny_experiment


def test_a_renamed_run_is_told_from_an_edited_one(untrained_run, tiny_experiment):
    folder = untrained_run(tiny_experiment).run.folder
    with pytest.raises(WorkbenchError, match=f"experiment of {folder.name}, not of best; if the folder was renamed, "):
        load_run(folder.rename(folder.with_name("best")))


def test_a_run_of_an_earlier_meaning_of_a_setting_is_another_run(untrained_run, tiny_experiment, monkeypatch):
    monkeypatch.setitem(MEANINGS, "dcn", 1)
    backbone = tiny_experiment.backbone.model_copy(update={"dcn": True})
    folder = untrained_run(tiny_experiment.model_copy(update={"backbone": backbone})).run.folder
    monkeypatch.undo()
    with pytest.raises(WorkbenchError, match="if an earlier version wrote it, train the row by its name"):
        load_run(folder)
