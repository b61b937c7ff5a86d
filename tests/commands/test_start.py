"""`workbench train` from a trained detector: its file, its account, stops and resumes, and other files."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.few_images import MINI
from tests.training.stops import digest, no_step, same_results, signal_after
from workbench import cli
from workbench.detectors import build_detector
from workbench.settings.experiment import InitialWeights
from workbench.support.errors import WorkbenchError

NAMES = [category.name for category in MINI.categories]


@pytest.fixture
def file(tiny_experiment, tmp_path):
    """Weights of the workbench for the classes of the drawn data set, with the last two exchanged."""
    torch.manual_seed(7)
    folder = tmp_path / "other"
    folder.mkdir()
    save_file(build_detector(tiny_experiment).state_dict(), folder / "model.safetensors")
    (folder / "train.json").write_text(json.dumps({"class_names": [*NAMES[:-2], NAMES[-1], NAMES[-2]]}))
    return folder / "model.safetensors"


@pytest.fixture
def experiment(tiny_experiment, file):
    training = tiny_experiment.training.model_copy(update={"epochs": 1})
    init = InitialWeights(sha256=digest(file)[:8])
    return tiny_experiment.model_copy(update={"init": init, "training": training})


@pytest.fixture
def train(new_run, experiment, tiny_data, monkeypatch):
    """Function that trains the run of the experiment in a folder of results, with more options, and returns its folder."""

    def call(results, *options, experiment=experiment):
        run = new_run(experiment, results)
        words = ["workbench", "train", run.folder, "--data-root", tiny_data, "--workers", 0, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        cli.main()
        return run.folder / "seed0"

    return call


def test_the_start_is_stated_on_the_screen_and_in_files(train, file, tmp_path, capsys):
    folder = train(tmp_path, "--init", file)
    lines = [line for line in capsys.readouterr().err.splitlines() if "start: " in line]
    texts = [line.split("start: ")[1] for line in lines]
    assert texts[0].startswith("tensors of model.safetensors: backbone ")
    assert texts[1] == f"classifier: {len(NAMES)} of {len(NAMES)} classes from the file, by name"
    assert texts[2:] == [f"the source of each tensor is in {folder}/start.json"]
    account = json.loads((folder / "start.json").read_text())
    assert account["tensors"].keys() == load_file(folder / "model.safetensors").keys()
    facts = json.loads((folder / "train.json").read_text())
    assert facts["pretrained"] == {"file": "model.safetensors", "sha256": digest(file)}
    assert facts["pretrained"].items() <= account.items()


def test_the_first_step_starts_from_the_file(train, file, tmp_path, monkeypatch):
    seen = {}

    def stop(detector, *_):
        seen.update(detector.state_dict())
        raise WorkbenchError("seen")

    monkeypatch.setattr("workbench.training.loop.train", stop)
    with pytest.raises(SystemExit, match="seen"):
        train(tmp_path, "--init", file)
    order = [*range(len(NAMES) - 2), len(NAMES) - 1, len(NAMES) - 2]
    for name, tensor in load_file(file).items():
        expected = tensor[order] if name.startswith("head.cls_out.") else tensor
        assert torch.equal(seen[name], expected), name


def test_a_rehearsal_is_not_reported_to_start_from_random_weights(train, file, experiment, tmp_path, capsys):
    training = experiment.training.model_copy(update={"limit_steps": 1})
    train(tmp_path, "--init", file, experiment=experiment.model_copy(update={"training": training}))
    assert "random weights" not in capsys.readouterr().err


def test_a_stopped_training_goes_on_to_the_same_bits_without_the_file(train, file, tmp_path):
    whole = train(tmp_path / "whole", "--init", file)
    with pytest.MonkeyPatch.context() as patch:
        signal_after(patch, 2)
        with pytest.raises(SystemExit, match="stopped by SIGTERM at step 2"):
            train(tmp_path / "stopped", "--init", file)
    shutil.rmtree(file.parent)
    assert same_results(train(tmp_path / "stopped"), whole)


def test_a_finished_training_needs_no_file(train, file, tmp_path, monkeypatch, capsys):
    folder = train(tmp_path, "--init", file)
    renamed = file.rename(file.with_name("renamed.safetensors"))
    no_step(monkeypatch)
    for options in ((), ("--init", renamed), ("--init", file)):
        capsys.readouterr()
        train(tmp_path, *options)
        assert f"this training is finished; delete {folder}" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["new", "finished"])
def test_another_file_is_refused(train, file, tmp_path, moment, monkeypatch):
    if moment == "finished":
        train(tmp_path, "--init", file)
    state = load_file(file)
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    no_step(monkeypatch)
    with pytest.raises(SystemExit, match=r"model.safetensors: SHA-256 \w+, but \w+ is listed for the start of vfnet-"):
        train(tmp_path, "--init", file)


def test_mistakes_are_one_line_and_write_nothing(train, file, tiny_experiment, tmp_path):
    cases = {
        (): r"vfnet-\S+: starts from a trained detector, whose file has the SHA-256 \w{8}…; add --init FILE",
        (
            "--init",
            tmp_path / "gone",
        ): r"gone: weights of the start of vfnet-\S+ cannot be read \(No such file or direct",
        ("--init", file, "--pretrained", file): "this run starts from a trained detector; leave out --pretrained",
    }
    for options, message in cases.items():
        with pytest.raises(SystemExit, match=message) as error:
            train(tmp_path, *options)
        assert "\n" not in str(error.value)
    with pytest.raises(SystemExit, match="this run starts from no trained detector; name a row, or leave out --init"):
        train(tmp_path, "--init", file, experiment=tiny_experiment)
    assert not list(tmp_path.rglob("seed0"))


def test_faults_of_the_data_are_reported_as_without_a_start(train, file, tiny_data, tmp_path):
    root = shutil.copytree(tiny_data, tmp_path / "data")
    for split in ("train2017", "val2017"):
        path = root / f"annotations/instances_{split}.json"
        content = json.loads(path.read_text())
        content["annotations"][0]["bbox"] = [1, 2]
        path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"instances_train2017.json: "):
        train(tmp_path, "--init", file, "--data-root", root)
