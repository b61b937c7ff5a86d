"""Mistakes that a user can make with the pipeline, through `snakemake`.

After each mistake, the last line on the screen names the place and the remedy, without a traceback. No file is left that
a later run would take for a result. Mistakes in settings are reported in a dry run.
"""

import os
import re
import shutil
import signal
import subprocess

import pytest

from tests.few_images import CLASSES, draw_few
from tests.pipeline.conftest import ROOT
from workbench.pipeline.messages import last_lines
from workbench.pipeline.read import read_pipeline
from workbench.support.errors import WorkbenchError

REHEARSAL = ("limit_steps=2", "limit_images=4")
OWN = f"extends: bccd\ntitle: own images\ndata: {{kind: coco, classes: {CLASSES}}}\n"
WILD = f"{OWN}training: {{optimiser: sgd, learning_rate: 1.0e+18, warmup_steps: 0}}\n"
TRAIN, VAL = "data/annotations/instances_train2017.json", "data/annotations/instances_val2017.json"


@pytest.fixture
def repository(copy, tiny_data, tmp_path):
    """Copy of the repository with few images to draw, and with an own data set and two scales for this data set."""
    folder = copy(tmp_path / "repository")
    draw_few(folder / "experiments", 24, 6)
    (folder / "experiments/scales/farm.yaml").write_text(OWN)
    (folder / "experiments/scales/wild.yaml").write_text(WILD)
    shutil.copytree(tiny_data, folder / "data")
    return folder


def taken_for_done(folder):
    """Files with which a step counts as done, and temporary files that were not removed."""
    names = {"model.safetensors", "detections.json", "metrics.json", "bootstrap.json", "instances_train2017.json"}
    suffixes = {".partial", ".tmp", ".csv", ".png"}
    results = folder / "results"
    return [
        path
        for path in results.rglob("*")
        if "checkpoints" not in path.parts
        and (path.name in names or path.suffix in suffixes or ".partial" in path.name)
    ]


def last_line(screen):
    return [line for line in screen.splitlines() if line.strip()][-1]


# Kinds of mistakes. Each function returns (function that damages the copy or None, arguments, parts of the message).


def setting(file, old, new, *parts):
    """Mistake in a file of experiments/."""

    def spoil(folder, edit):
        edit(folder / "experiments" / file, old, new)

    return spoil, ("-n", "table3"), parts


def typed(arguments, message):
    """Mistake on the command line."""
    return None, ("-n", *arguments.split()), (message,)


def data(spoil, *parts, scale="farm", steps=REHEARSAL):
    """Fault of a data set, or of a training on a data set."""
    arguments = ("t3_full_vfl", "--config", f"scale={scale}", "data_root=data", *steps)
    return lambda folder, _: spoil(folder), arguments, parts


def without_connection(folder):
    """Replace the address of published weights by an address without a server."""
    file = folder / "experiments/vfnet/released.yaml"
    file.write_text(file.read_text().replace("url: https://download.openmmlab.com/", "url: https://127.0.0.1:9/"))


def missing(pattern):
    def spoil(folder):
        for path in folder.glob(pattern):
            path.unlink()

    return spoil


def truncated(pattern):
    def spoil(folder):
        for path in folder.glob(pattern):
            path.write_bytes(path.read_bytes()[:500])

    return spoil


def a_file(path):
    """File in the place of a folder."""

    def spoil(folder, _):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("")

    return spoil, ("t3_full_vfl",), (f"{path}: is a file, but a folder is needed; remove it",)


MISTAKES = {
    "config: unknown key": setting("config.yaml", "seeds:", "sceeds:", "experiments/config.yaml: sceeds: unknown key; did you mean 'seeds'?"),
    "config: wrong type": setting("config.yaml", "seeds: 1", "seeds: many", "experiments/config.yaml: seeds: input should be a valid integer", "(found 'many')"),
    "config: not YAML": setting("config.yaml", "seeds: 1", "seeds: [1", "experiments/config.yaml, line ", ": not valid YAML: expected ',' or ']'", "correct it"),
    "config: duplicate key": setting("config.yaml", "seeds: 1", "seeds: 1\nseeds: 2", "experiments/config.yaml, line ", ": not valid YAML: duplicate key 'seeds'"),
    "config: unknown scale": setting("config.yaml", "scale: mini", "scale: mimi", "experiments/config.yaml: scale: unknown scale 'mimi'; did you mean 'mini'?"),
    "recipes: unknown key": setting("recipes.yaml", "bias_lr_factor", "bias_lr_facter", "experiments/recipes.yaml: vfnet.training.bias_lr_facter: unknown key; did you mean 'bias_lr_factor'?"),
    "recipes: wrong type": setting("recipes.yaml", "warmup_ratio: 0.1", "warmup_ratio: some", "experiments/recipes.yaml: vfnet.training.warmup_ratio: input should be a valid number", "(found 'some')"),
    "recipes: not YAML": setting("recipes.yaml", "schedule: 1x", "schedule: {1x", "experiments/recipes.yaml, line ", ": not valid YAML"),
    "recipes: duplicate key": setting("recipes.yaml", "schedule: 1x", "schedule: 1x\n  schedule: 1x", "experiments/recipes.yaml, line ", ": not valid YAML: duplicate key 'schedule'"),
    "recipes: unknown loss": setting("recipes.yaml", "name: varifocal", "name: varifocl", "experiments/recipes.yaml: vfnet.loss: unknown name 'varifocl'; did you mean 'varifocal'?"),
    "recipes: unknown backbone": setting("recipes.yaml", "name: resnet50", "name: resnet5", "experiments/recipes.yaml: vfnet.backbone.name: unknown backbone 'resnet5'; did you mean 'resnet50'?"),
    "table: unknown key": setting("vfnet/table3.yaml", "note:", "notes:", "experiments/vfnet/table3.yaml: rows.t3_star_vfl.notes: unknown key; did you mean 'note'?"),
    "table: wrong type": setting("vfnet/table3.yaml", "AP: 39.0", "AP: high", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.published.AP: input should be a valid number", "(found 'high')"),
    "table: not YAML": setting("vfnet/table3.yaml", "  t3_raw_fl:", "\tt3_raw_fl:", "experiments/vfnet/table3.yaml, line ", ": not valid YAML: found character '\\t'"),
    "table: duplicate key": setting("vfnet/table3.yaml", "split:", "title: two\nsplit:", "experiments/vfnet/table3.yaml, line ", ": not valid YAML: duplicate key 'title'"),
    "table: unknown recipe": setting("vfnet/table3.yaml", "base: vfnet_raw", "base: vfnet_rwa", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.base: unknown recipe 'vfnet_rwa'; did you mean 'vfnet_raw'?"),
    "table: impossible row": setting("vfnet/table3.yaml", "{refine: false}", "{star: false}", "experiments/vfnet/table3.yaml: rows.t3_star_vfl.detector: refine needs star"),
    "loss: unknown name": setting("vfnet/table3.yaml", "{name: focal}", "{name: vocal}", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.loss: unknown name 'vocal'; did you mean 'focal'?"),
    "loss: unknown key": setting("vfnet/table3.yaml", "{name: focal}", "{name: focal, gama: 2}", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.loss.gama: unknown key; did you mean 'gamma'?"),
    "loss: wrong type": setting("vfnet/table3.yaml", "{name: focal}", "{name: focal, gamma: two}", "experiments/vfnet/table3.yaml: rows.t3_raw_fl.loss.gamma: input should be a valid number"),
    "loss: no name": setting("recipes.yaml", "{name: varifocal, ", "{", "experiments/recipes.yaml: vfnet.loss: name missing; add it"),
    "scale: unknown key": setting("scales/mini.yaml", "steps:", "stpes:", "experiments/scales/mini.yaml: training.warmup_stpes: unknown key; did you mean 'warmup_steps'?"),
    "scale: wrong type": setting("scales/mini.yaml", " 1x: {epochs: ", " 1x: {epochs: many} #", "experiments/scales/mini.yaml: schedules.1x.epochs: input should be a valid integer"),
    "scale: wrong type of a backbone": setting("scales/mini.yaml", "stem: 24", "stem: wide", "experiments/scales/mini.yaml: backbones.resnet50.stem: input should be a valid integer"),
    "scale: not YAML": setting("scales/mini.yaml", "image: {long: ", "image: {long: [", "experiments/scales/mini.yaml, line ", ": not valid YAML"),
    "scale: duplicate key": setting("scales/mini.yaml", "flip: 0.5", "flip: 0.5\n  flip: 1", "experiments/scales/mini.yaml, line ", ": not valid YAML: duplicate key 'flip'"),
    "unknown table": typed("tabel3", "unknown target 'tabel3'; did you mean 'table3'?"),
    "unknown row": typed("t3_full_vlf", "unknown target 't3_full_vlf'; did you mean 't3_full_vfl'?"),
    "unknown row beside a table": typed("table2 t3_full", "unknown target 't3_full'; did you mean 't3_full_vfl'?"),
    "no target like it": typed("everything_at_once", "unknown target 'everything_at_once'; known: all, claims, evidence, notebooks, tables, figures, controls, "),
    "setting without --config": typed("table3 seeds=3", "unknown target 'seeds=3': this is a setting; put --config between the targets and the settings: snakemake --cores all table3 --config seeds=3"),
    "scale without --config": typed("table3 scale=farm", "unknown target 'scale=farm': this is a setting; put --config between the targets and the settings: snakemake --cores all table3 --config scale=farm"),
    "data set without --config": typed("table3 data_root=../own/data", "unknown target 'data_root=../own/data': this is a setting; put --config between"),
    "slash after a target": typed("table3/", "unknown target 'table3/': no target ends with a slash; write table3"),
    "too many seeds": typed("table3 --config seeds=1000000000", "--config: seeds: input should be less than or equal to 1000 (found 1000000000)"),
    "folder read as a number": typed("table3 --config scale=farm data_root=2024_05_01", "--config: data_root: Snakemake reads '2024_05_01' as 20240501; write data_root=./2024_05_01"),
    "no blocks": setting("scales/mini.yaml", "layers: [1, 1, 1, 1]", "layers: 0", "experiments/scales/mini.yaml: backbones.resnet50.layers: expected a list, not 0"),
    "infinite rate": setting("recipes.yaml", "warmup_ratio: 0.1", "warmup_ratio: .inf", "experiments/recipes.yaml, line ", ": '.inf' has another meaning in YAML; write a decimal number"),
    "unknown scale": typed("table3 --config scale=coko", "--config: scale: unknown scale 'coko'; did you mean 'coco'?"),
    "unknown config key": typed("table3 --config sceeds=3", "--config: sceeds: unknown key; did you mean 'seeds'?"),
    "wrong config type": typed("table3 --config seeds=many", "--config: seeds: input should be a valid integer"),
    "no data root": typed("table3 --config scale=farm", "scale farm needs a data set: add data_root=FOLDER"),
    "data root nowhere": typed("table3 --config scale=farm data_root=/nowhere", "/nowhere: no such data folder; choose the folder of a data set"),
    "data root of a drawn set": typed("table3 --config scale=mini data_root=data", "scale mini draws its own data set: leave data_root out, or choose another scale"),
    "no annotations": data(missing(TRAIN), f"{TRAIN}: no such annotation file; put the annotations of train there"),
    "no annotations of the test images": data(missing(VAL), f"{VAL}: no such annotation file; put the annotations of val there"),
    "no test images": data(lambda folder: shutil.rmtree(folder / "data/val2017"), f"{VAL}: the image '", "put the images into one of them, or into images/val"),
    "published weights of drawn images": typed("table3 --config weights=released", "weights=released: scale mini draws its own data set, but published weights have COCO's classes; add scale=coco data_root=FOLDER"),
    "published weights without a connection": data(without_connection, "https://127.0.0.1:9/", "-38db6f58.pth: cannot download it (", "; try again, or put this file at results/weights/vfnet_r50_1x.pth yourself", steps=("weights=released", *REHEARSAL)),
    "annotations truncated": data(truncated(TRAIN), f"{TRAIN}: not valid JSON at line 1", "probably incomplete; copy the file again"),
    "annotations not COCO's": data(lambda folder: (folder / TRAIN).write_text("{}"), f"{TRAIN}: 2 kinds of faults: (1) no list 'images'; use a file in COCO's instances format."),
    "images missing": data(missing("data/train2017/*"), "data/train2017/", ".jpg: no such image (", f" images of {TRAIN} have this fault); copy it there or remove it from the annotations"),
    "images truncated": data(truncated("data/train2017/*"), "data/train2017/", ".jpg: not a readable", "copy or convert it again"),
    "losses not finite": data(lambda _: None, "the loss is not finite", "images 0000", ".jpg; check the boxes of these images, or lower training.learning_rate", scale="wild", steps=("limit_steps=9",)),
    "a file for the results": a_file("results"),
    "a file for a scale's results": a_file("results/mini"),
}  # fmt: skip


def assert_one_last_line(code, screen, expected):
    """Check that a call failed, and that its last line is a message with the expected parts."""
    assert code != 0, screen
    assert "Traceback" not in screen
    message = last_line(screen)
    assert message.startswith("workbench: ")
    for piece in expected:
        assert piece in message


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_reported_in_the_last_line(mistake, repository, snakemake, edit):
    spoil, arguments, expected = MISTAKES[mistake]
    if spoil:
        spoil(repository, edit)
    code, screen = snakemake(repository, *arguments)
    assert_one_last_line(code, screen, expected)
    assert not taken_for_done(repository)


@pytest.fixture
def small_disk():
    """Function that mounts a file system of a given size on a folder."""
    mounted = []

    def mount(folder, size):
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("cannot mount a file system of a given size; run this test as root")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("size", "scale", "step", "expected"),
    [
        ("4k", "mini", "dataset", ("/results/dataset-", ": cannot be written (No space left on device); free")),
        ("100k", "mini", "dataset", ("/results/dataset-", ": cannot be written (No space left on device); free")),
        ("1m", "farm", "train", ("/checkpoints/last.pt: cannot be written (No space left on device); free",)),
    ],
)
def test_a_full_disk(size, scale, step, expected, repository, snakemake, small_disk):
    small_disk(repository / "results", size)
    root = ["data_root=data"] if scale == "farm" else []
    command = ("t3_full_vfl", "--config", f"scale={scale}", *root, *REHEARSAL)
    code, screen = snakemake(repository, *command)
    assert_one_last_line(code, screen, expected)
    assert not taken_for_done(repository)
    subprocess.run(["mount", "-o", "remount,size=64m", repository / "results"], check=True)
    code, screen = snakemake(repository, *command, "-n")
    assert code == 0
    assert f"\n{step} " in screen.rsplit("Job stats:")[-1]


def test_a_disk_without_room_for_snakemake(copy, tmp_path, snakemake, small_disk):
    folder = tmp_path / "full"
    small_disk(folder, "4m")
    copy(folder)
    (folder / "ballast").write_bytes(bytes(shutil.disk_usage(folder).free))
    code, screen = snakemake(folder, "t3_full_vfl")
    assert code != 0
    assert "Traceback" not in screen
    assert last_line(screen) == f"workbench: {folder}: no space left on this disk; free some space"


@pytest.mark.parametrize("variable", ["TMPDIR", "TMP"])
@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("size=32k", "no space left on this disk; free some space"),
        ("ro", "no permission to write here; choose another"),
    ],
)
def test_a_temporary_folder_that_takes_no_files(variable, option, problem, tmp_path, small_disk, monkeypatch):
    small_disk(tmp_path / "temporary", "1m")
    subprocess.run(["mount", "-o", f"remount,{option}", tmp_path / "temporary"], check=True)
    monkeypatch.setenv(variable, str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkbenchError, match=f"^{tmp_path}/temporary: {problem}"):
        read_pipeline({})


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_a_log_gets_the_last_line_after_a_signal(tmp_path, name):
    """A closed terminal, Ctrl-C and a scheduler send the signal to every process of a job."""
    snakefile = (ROOT / "Snakefile").read_text()
    pipe = re.search(r'^LOGGED = "(.*)"$', snakefile, re.MULTILINE)[1].replace("{log}", str(tmp_path / "log"))
    command = f"trap '' {name}; echo first; sleep 0.3; echo last; exit 1"
    job = subprocess.Popen(
        ["bash", "-c", f"({command}){pipe}"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert job.stdout.readline() == "first\n"
    os.killpg(job.pid, signal.Signals[name])
    job.communicate(timeout=10)
    assert (tmp_path / "log").read_text() == "first\nlast\n"


def test_the_log_of_a_killed_job_is_named(tmp_path):
    logs = {name: tmp_path / f"{name}.log" for name in ("message", "killed", "none")}
    logs["message"].write_text("1/9\nworkbench: here: do this\n")
    logs["killed"].write_text("1/9\n2/9\n")
    screen = tmp_path / "snakemake.log"
    screen.write_text("".join(f"    log: {log} (check log file(s) for error details)\n" for log in logs.values()))
    message, *others = last_lines(str(screen))
    screen.write_text(f"    log: {logs['message']}, {logs['none']} (check log file(s) for error details)\n")
    assert last_lines(str(screen)) == [message]  # the second file is the cluster's log
    command = f"set -e; workbench train 2>&1 | (trap '' INT TERM PIPE; tee {logs['message']})"
    screen.write_text(f"CalledProcessError in file x, line 1:\nCommand '{command}' returned non-zero exit status 1.\n")
    assert last_lines(str(screen)) == [message]  # the settings of the job are quiet
    screen.write_text(f"    log: {logs['none']}, {logs['message']} (check log file(s) for error details)\n")
    assert last_lines(str(screen))[0].startswith(
        f"workbench: {logs['none']} and {logs['message']}: the job ended without"
    )
    assert message == "workbench: here: do this"
    assert all(
        f"{logs[name]}: the job ended without" in line for name, line in zip(("killed", "none"), others, strict=True)
    )
