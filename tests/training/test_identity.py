"""A checkpoint or a result of another training is refused, and nothing is trained again over finished results."""

import json
import shutil
import sys

import pytest
import torch

from tests.few_images import CLASSES
from tests.training.stops import digest, no_step, same_results, train_until, tree
from tests.trainings import train_experiment, training_at
from workbench import cli
from workbench.data.embedded import draw_data_set
from workbench.settings.catalog import load_row
from workbench.settings.data import CocoData, EmbeddedData, ImageSize
from workbench.settings.digest import split_digest
from workbench.settings.experiment import WeightAveraging
from workbench.settings.ids import run_id
from workbench.support.errors import WorkbenchError
from workbench.training.loop import train
from workbench.training.start import initial_detector
from workbench.training.state import Machine

LISTED = {"file": "resnet50.pth", "sha256": "0" * 64}


@pytest.fixture(scope="module")
def experiment():
    """Full VFNet with few channels, small images and random weights: two epochs of some steps, and one validation."""
    mini = load_row("table3", "t3_full_vfl").experiment
    mini = mini.model_copy(update={"image": ImageSize(long=128, short=96)})
    mini = mini.model_copy(
        update={
            "backbone": mini.backbone.model_copy(update={"pretrained": False, "norm": "trained", "frozen_stages": 0})
        }
    )
    head = mini.head.model_copy(update={"channels": 16, "norm_groups": 8, "stacked_convs": 1})
    changes = {"epochs": 2, "batch": 8, "validate_every": 2, "warmup_steps": 2}
    return mini.model_copy(update={"head": head, "training": mini.training.model_copy(update=changes)})


@pytest.fixture(scope="module")
def stopped(experiment, tiny_data, tmp_path_factory):
    """Folder of a training of seed 0 that was stopped at step 2, and the same training without a stop."""
    folder = tmp_path_factory.mktemp("trainings")
    train_until(2, experiment, folder / "stopped", tiny_data)
    train_experiment(experiment, folder / "whole", tiny_data)
    return folder


def changed_loss(experiment):
    return experiment.model_copy(update={"loss": experiment.loss.model_copy(update={"gamma": 1.0})})


def other_world(folder):
    root = folder / "other"
    draw_data_set(EmbeddedData(train_images=24, val_images=6, world=9), root, processes=1)
    return root


def smaller_canvas(experiment):
    return experiment.model_copy(update={"training": experiment.training.model_copy(update={"canvas": 4})})


OTHERS = {  # difference from the training in the folder: (changes, parts of the message)
    "seed": ({"seed": 1}, ("seed 0, not 1", "delete")),
    "loss": ({"change": changed_loss}, ("run vfnet-", ", not vfnet-", "delete")),
    "canvas": ({"change": smaller_canvas}, ("run vfnet-", ", not vfnet-", "delete")),
    "data": ({"world": other_world}, ("data train2017 annotations ", "name the data set of this training")),
    "weights of the backbone": ({"pretrained": LISTED}, ("pretrained none, not resnet50.pth 000", "--pretrained")),
    "seed and data": ({"seed": 1, "world": other_world}, ("seed 0, not 1; data ", "; delete")),
}  # fmt: skip


def start(experiment, folder, root, seed=0, change=lambda e: e, world=None, pretrained=None):
    experiment = change(experiment)
    root = world(folder.parent) if world else root
    detector = initial_detector(experiment, seed)
    train(detector, experiment, training_at(folder, seed), root, Machine(), pretrained)


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("kind", ["stopped", "whole"])
def test_another_training_is_refused(stopped, experiment, tiny_data, tmp_path, monkeypatch, case, kind):
    """The file is named with both values, and is left as it is."""
    changes, parts = OTHERS[case]
    folder = tmp_path / "seed0"
    shutil.copytree(stopped / kind, folder)
    before = tree(folder)
    no_step(monkeypatch)
    with pytest.raises(WorkbenchError) as error:
        start(experiment, folder, tiny_data, **changes)
    message = str(error.value)
    file = folder / "checkpoints" / "last.pt" if kind == "stopped" else folder / "train.json"
    assert message.startswith(f"{file}: belongs to another training (")
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert tree(folder) == before


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_states_its_training(stopped, experiment, tiny_data, name):
    """The facts are in ``train.json``, too."""
    checkpoint = torch.load(stopped / "whole" / "checkpoints" / name, weights_only=True)
    expected = {
        "run": run_id(experiment),
        "seed": 0,
        "pretrained": None,
    }
    assert expected.items() <= checkpoint["identity"].items()
    assert set(checkpoint["identity"]["data"]["train2017"]) == {"annotations", "images"}
    facts = json.loads((stopped / "whole" / "train.json").read_text())
    assert checkpoint["identity"].items() <= facts.items()


def test_the_weights_of_the_backbone_are_recorded(experiment, tiny_data, tmp_path):
    short = experiment.model_copy(update={"training": experiment.training.model_copy(update={"limit_steps": 1})})
    start(short, tmp_path / "seed0", tiny_data, pretrained=LISTED)
    assert json.loads((tmp_path / "seed0" / "train.json").read_text())["pretrained"] == LISTED


@pytest.mark.parametrize(("layout", "accepted"), [("8 x 1 x 1", True), ("4 x 1 x 2", False), ("4 x 2 x 1", False)])
def test_a_checkpoint_of_an_earlier_version_counts_if_its_step_was_one_canvas(
    stopped, experiment, tiny_data, tmp_path, layout, accepted
):
    folder = tmp_path / "seed0"
    shutil.copytree(stopped / "stopped", folder)
    file = folder / "checkpoints" / "last.pt"
    checkpoint = torch.load(file)
    checkpoint["identity"]["micro_batch x ranks x accumulation"] = layout
    torch.save(checkpoint, file)
    if accepted:
        train_experiment(experiment, folder, tiny_data)
        return
    with pytest.raises(
        WorkbenchError, match=rf"last\.pt: an earlier version trained this run in parts .*{layout}.*delete"
    ):
        train_experiment(experiment, folder, tiny_data)


@pytest.mark.parametrize("content", ["without", "not a mapping"])
def test_an_old_checkpoint_is_refused(stopped, experiment, tiny_data, tmp_path, content):
    folder = tmp_path / "seed0"
    shutil.copytree(stopped / "stopped", folder)
    file = folder / "checkpoints" / "last.pt"
    checkpoint = torch.load(file)
    checkpoint.pop("identity")
    torch.save(checkpoint if content == "without" else [1, 2], file)
    before = tree(folder)
    with pytest.raises(WorkbenchError, match=r"last\.pt: not a checkpoint of this run \(it states no run, seed and data.*"
                       r"; delete it to start from the beginning$"):  # fmt: skip
        train_experiment(experiment, folder, tiny_data)
    assert tree(folder) == before


def test_another_best_checkpoint_is_refused(experiment, tiny_data, tmp_path):
    changes = {"swa": WeightAveraging(cycles=1, high=0.004, low=0.0002)}
    with_average = experiment.training.model_copy(update=changes)
    experiment = experiment.model_copy(update={"training": with_average})
    for seed in (0, 1):
        train_until(8, experiment, tmp_path / f"seed{seed}", tiny_data, seed=seed)
    shutil.copy(tmp_path / "seed1/checkpoints/best.pt", tmp_path / "seed0/checkpoints/best.pt")
    with pytest.raises(
        WorkbenchError, match=r"best\.pt: belongs to another training \(seed 1, not 0\); delete .*/check"
    ):
        train_experiment(experiment, tmp_path / "seed0", tiny_data)


# Data sets on disk.


@pytest.fixture
def own_data(tiny_data, tmp_path, experiment):
    """Copy of the drawn data set as somebody's own, and an experiment on it."""
    root = tmp_path / "own"
    shutil.copytree(tiny_data, root)
    (root / "embedded.json").unlink()
    data = CocoData(classes=CLASSES, digest=split_digest(root, "train2017").annotations)
    short = experiment.training.model_copy(update={"epochs": 1})
    return root, experiment.model_copy(update={"data": data, "training": short})


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["workbench", *map(str, arguments)])
    cli.main()


def test_a_run_is_not_trained_on_other_data(own_data, tiny_data, new_run, tmp_path, monkeypatch):
    _, experiment = own_data
    other = other_world(tmp_path)
    run = new_run(experiment)
    no_step(monkeypatch)
    with pytest.raises(SystemExit) as status:
        command(monkeypatch, "train", "--run", run.folder, "--data-root", other)
    line = str(status.value)
    annotations = split_digest(other, "train2017").annotations
    assert line.startswith(f"workbench: {other}: the training annotations have the digest {annotations}, but ")
    assert (
        f"{run.name} is a run on annotations with the digest {experiment.data.digest}; name the data set of this run with --data-root"
        in line
    )
    assert not (run.folder / "seed0" / "model.safetensors").exists()


@pytest.mark.parametrize("moment", ["stopped", "finished"])
def test_a_changed_image_is_noticed(own_data, tmp_path, monkeypatch, moment):
    root, experiment = own_data
    folder = tmp_path / "seed0"
    if moment == "stopped":
        train_until(2, experiment, folder, root)
    else:
        train_experiment(experiment, folder, root)
    moved = root.rename(tmp_path / "moved")  # the place of the data does not matter
    image = min((moved / "train2017").iterdir())
    image.write_bytes(image.read_bytes() + b"x")
    before = tree(folder)
    file = r"last\.pt" if moment == "stopped" else r"train\.json"
    message = rf"{file}: belongs to another training \(data train2017 images \w+, not \w+\); name the data set of this"
    with pytest.raises(WorkbenchError, match=message):
        train_experiment(experiment, folder, moved)
    assert tree(folder) == before
    image.write_bytes(image.read_bytes()[:-1])
    train_experiment(experiment, folder, moved)
    assert (folder / "model.safetensors").is_file()


# Finished trainings.


@pytest.fixture
def finished(stopped, tmp_path):
    """Copy of the folder of a finished training."""
    shutil.copytree(stopped / "whole", tmp_path / "seed0")
    return tmp_path / "seed0"


@pytest.mark.parametrize("without", ["nothing", "checkpoints", "identity"])
def test_a_finished_training_is_left_as_it_is(finished, experiment, tiny_data, monkeypatch, capsys, without):
    """Without checkpoints it would be trained from the beginning; older versions stated no identity."""
    if without == "checkpoints":
        shutil.rmtree(finished / "checkpoints")
    if without == "identity":
        facts = json.loads((finished / "train.json").read_text())
        old = {key: value for key, value in facts.items() if key not in ("run", "data", "pretrained")}
        (finished / "train.json").write_text(json.dumps(old))
    before = tree(finished)
    no_step(monkeypatch)
    train_experiment(experiment, finished, tiny_data)
    assert tree(finished) == before
    assert f"this training is finished; delete {finished} to train again\n" in capsys.readouterr().err


RESULTS = ("model.safetensors", "train.csv", "train.json")


@pytest.mark.parametrize(
    "lost",
    [RESULTS[:1], RESULTS[1:2], RESULTS[2:], RESULTS, ("model.safetensors", "checkpoints/train.csv")],
    ids=lambda names: "+".join(names),
)
def test_lost_results_are_written_again_from_the_last_checkpoint(
    finished, experiment, tiny_data, monkeypatch, capsys, lost
):
    before = tree(finished)
    for name in lost:
        (finished / name).unlink()
    no_step(monkeypatch)
    train_experiment(experiment, finished, tiny_data)
    growing = "checkpoints/train.csv"
    assert {n: d for n, d in tree(finished).items() if n != growing} == {
        n: d for n, d in before.items() if n != growing
    }
    line = capsys.readouterr().err
    assert "resumed from the checkpoint at step 8, the last step: wrote " in line
    assert all(name in line for name in lost if name != growing)


def test_a_broken_train_json_is_written_again(finished, experiment, tiny_data, monkeypatch):
    before = tree(finished)
    (finished / "train.json").write_text('{"seed": 0, "st')
    no_step(monkeypatch)
    train_experiment(experiment, finished, tiny_data)
    assert tree(finished) == before


@pytest.mark.parametrize("lost", ["train.json", "train.csv"])
def test_weights_alone_are_neither_kept_nor_replaced_unasked(finished, experiment, tiny_data, monkeypatch, lost):
    (finished / lost).unlink()
    shutil.rmtree(finished / "checkpoints")
    before = tree(finished)
    no_step(monkeypatch)
    with pytest.raises(
        WorkbenchError, match=rf"model.safetensors: .* but {lost} is missing.*; copy the file back, or del"
    ):
        train_experiment(experiment, finished, tiny_data)
    assert tree(finished) == before


def test_a_lost_best_checkpoint_and_weights_do_not_retrain(finished, experiment, tiny_data, monkeypatch):
    weights = digest(finished / "model.safetensors")
    for name in ("model.safetensors", "checkpoints/best.pt"):
        (finished / name).unlink()
    no_step(monkeypatch)
    train_experiment(experiment, finished, tiny_data)
    assert digest(finished / "model.safetensors") == weights


def test_the_stopped_training_goes_on_to_the_same_bits(stopped, experiment, tiny_data, tmp_path):
    shutil.copytree(stopped / "stopped", tmp_path / "seed0")
    train_experiment(experiment, tmp_path / "seed0", tiny_data)
    assert same_results(tmp_path / "seed0", stopped / "whole")
