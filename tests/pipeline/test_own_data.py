"""A user's own data set in the pipeline: its content decides what is made again, its place and its dates never do.

No call of the pipeline deletes or changes a file of the user, or throws a trained model away.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
ROW = "t3_raw_fl"
VAL = "annotations/instances_val2017.json"
TRAIN = "annotations/instances_train2017.json"


def tree(folder):
    """Digest of each file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def models(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("results/*/runs/*/seed*/model.safetensors")}


def linked(folder):
    (folder / "link").symlink_to("data")
    return "link"


def copied(folder):
    shutil.copytree(folder / "data", folder / "a copy", copy_function=shutil.copyfile)  # new dates
    return "a copy"


def moved(folder):
    (folder / "data").rename(folder / "elsewhere")
    return "elsewhere"


def below_results(folder):
    shutil.copytree(folder / "data", folder / "results/mine")
    return "results/mine"


def touched(folder):
    for path in (folder / "data").rglob("*"):
        os.utime(path)
    return "data"


def dated_in_the_future(folder):
    for path in (folder / "data").rglob("*"):
        os.utime(path, (4e9, 4e9))
    return "data"


def hidden(folder):
    (folder / "data/val2017/.DS_Store").write_text("of a desktop")
    return "data"


PLACES = {
    "absolute": lambda folder: str(folder / "data"),
    "trailing slash": lambda _: "data/",
    "roundabout": lambda _: "./results/../data",
    "link": linked,
    "copy": copied,
    "moved": moved,
    "below results": below_results,
    "touched": touched,
    "dated in the future": dated_in_the_future,
    "hidden files": hidden,
}


@pytest.mark.parametrize("place", PLACES)
def test_the_place_and_the_dates_of_data_trigger_nothing(repository, planned, place):
    data = PLACES[place](repository)
    assert planned(repository, ROW, data=data) == {}


def test_snakemake_deletes_no_model_and_no_file_of_the_user(repository, run, planned):
    """Forced runs and `--delete-all-output` concern results that are quickly made again."""
    data = below_results(repository)
    before, trained = tree(repository / data), models(repository)
    assert len(trained) == 1
    for options in (("--delete-all-output",), ("-F",)):
        run(repository, ROW, *options, data=data)
        assert tree(repository / data) == before
        assert models(repository) == trained
    for options in (("-F",), ("--forcerun", "train"), ("--forceall", "--rerun-triggers", "code")):
        assert not planned(repository, ROW, *options, data=data).keys() & {"dataset", "train"}


def test_the_pipeline_can_be_called_from_another_folder(repository, snakemake, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    options = ("--snakefile", str(repository / "Snakefile"), "--workflow-profile", str(repository / "profiles/default"))
    code, output = snakemake(
        tmp_path / "elsewhere", "-n", *options, "all", "--config", f"data_root={repository}/data", "scale=farm"
    )
    assert code == 0, output
    assert not list((tmp_path / "elsewhere").rglob("*.json"))


def changed_boxes(path):
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"][2] += 1
    path.write_text(json.dumps(document))


def another_image(folder):
    image = next(folder.glob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")


CHANGES = {
    "boxes": lambda data: changed_boxes(data / VAL),
    "an image": lambda data: another_image(data / "val2017"),
    "one more image": lambda data: shutil.copy(next((data / "val2017").glob("*.jpg")), data / "val2017/more.jpg"),
    "one image fewer": lambda data: max((data / "val2017").glob("*.jpg")).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_validation_data_are_evaluated_again_in_a_folder_of_their_own(repository, planned, change):
    CHANGES[change](repository / "data")
    assert planned(repository, ROW) == {"detect": 1, "evaluate": 1, ROW: 1, "total": 3}


def test_two_validation_splits_have_two_evaluations(repository, run):
    first = next(repository.glob("results/*/runs/*/seed0/*/metrics.json"))
    content, trained = first.read_bytes(), models(repository)
    changed_boxes(repository / "data" / VAL)
    run(repository, ROW)
    both = [json.loads(path.read_text()) for path in first.parents[1].glob("*/metrics.json")]
    assert len({metrics["split"]["annotations"] for metrics in both}) == 2
    assert len({metrics["split"]["images"] for metrics in both}) == 1
    assert first.read_bytes() == content
    assert models(repository) == trained


def test_changed_training_data_are_another_run(repository, planned):
    changed_boxes(repository / "data" / TRAIN)
    jobs = planned(repository, ROW)
    assert jobs == {"train": 1, "detect": 1, "evaluate": 1, ROW: 1, "total": 4}


def test_fewer_seeds_evaluate_the_seeds_that_are_trained(repository, run, planned):
    run(repository, ROW, "--until", "train", seeds=2)
    assert len(models(repository)) == 2
    for metrics in repository.glob("results/*/runs/*/seed*/*/metrics.json"):
        metrics.unlink()
    assert planned(repository, ROW, seeds=1) == {"detect": 1, "evaluate": 2, ROW: 1, "total": 4}


@pytest.mark.parametrize("name", ["train.json", "train.csv"])
def test_a_lost_file_beside_a_model_does_not_cost_the_model(repository, run, name):
    (model,) = models(repository)
    lost = model.with_name(name)
    lost.unlink()
    before = tree(repository / "results")
    line = run(repository, ROW, code=1).strip().splitlines()[-1]
    command = rf"workbench train {ROW} --seed 0 --scale=farm --data-root=data --limit-steps=2 .*"
    place = rf"workbench: results/\S+/{name}: missing, although the training was finished"
    assert re.fullmatch(f"{place}; write it again from the checkpoint: {command}", line)
    assert tree(repository / "results") == before
    (model.parent / "checkpoints/last.pt").unlink()
    line = run(repository, ROW, code=1).strip().splitlines()[-1]
    assert re.fullmatch(f"{place}; put the file back, or delete the weights and train again: {command}", line)
    assert list(models(repository)) == [model]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_lost_model_is_made_again_from_its_checkpoint_or_not_at_all(repository, run, checkpoint):
    (model,) = models(repository)
    content = model.read_bytes()
    model.unlink()
    if checkpoint:
        run(repository, ROW)
        assert model.read_bytes() == content
        return
    (model.parent / "checkpoints/last.pt").unlink()
    (repository / "data").rename(repository / "my {v1}")
    before = tree(repository / "results")
    line = run(repository, ROW, data="my {v1}", code=1).strip().splitlines()[-1]
    assert re.fullmatch(
        rf"workbench: results/\S+/model\.safetensors: missing, although the training was finished; put the file back, or "
        rf"train again: workbench train {ROW} --seed 0 --scale=farm '--data-root=my \{{v1\}}' --limit-steps=2 .*",
        line,
    )
    assert tree(repository / "results") == before
    command = shlex.split(line.split("train again: ")[1])
    environment = os.environ | {"PYTHONPATH": str(repository)}
    subprocess.run([BIN / "workbench", *command[1:]], cwd=repository, env=environment, check=True)
    assert model.read_bytes() == content


def test_a_checkpoint_of_an_earlier_version_costs_no_file_beside_the_lost_model(repository, run):
    import torch

    (model,) = models(repository)
    model.unlink()
    checkpoint = model.parent / "checkpoints/last.pt"
    torch.save(torch.load(checkpoint, weights_only=True) | {"identity": None}, checkpoint)
    before = tree(model.parent)
    line = run(repository, ROW, code=1).strip().splitlines()[-1]
    assert "last.pt: not a checkpoint of this run (it states no run, seed and data, so " in line
    assert {name: digest for name, digest in tree(model.parent).items() if not name.endswith((".log", "lock"))} == {
        name: digest for name, digest in before.items() if not name.endswith((".log", "lock"))
    }
