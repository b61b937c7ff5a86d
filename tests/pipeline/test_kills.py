"""After any kill, the same command again gives the results of an undisturbed run: metrics, and weights bit for bit."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.few_images import draw_few

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ROW = "t3_full_vfl"


def pipeline(folder, **options):
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    return subprocess.Popen(
        [BIN / "snakemake", "--cores", "1", ROW],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its own process group, as in a terminal
        **options,
    )


def copy(folder):
    """Copy the repository, with a scale mini of 60 steps that takes seconds."""
    for name in ("Snakefile", "workbench", "experiments", "profiles"):
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / name, ignore=ignore) if source.is_dir() else shutil.copy(source, folder / name)
    scale = draw_few(folder / "experiments", 80, 10)
    text = scale.read_text()
    for old, new in ((r" 1x: \{.*\}", " 1x: {epochs: 6}"), (r" validate_every: \d+", " validate_every: 9")):
        text, replaced = re.subn(old, new, text)
        assert replaced == 1
    scale.write_text(text)
    return folder


def outcome(folder):
    """Weights, metrics without provenance, and the log of the training."""
    seed = next((folder / "results" / "mini" / "runs").glob("*/seed0"))
    metrics = json.loads(next(seed.glob("*/metrics.json")).read_text())
    del metrics["provenance"]
    return load_file(seed / "model.safetensors"), metrics, (seed / "train.log").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = copy(tmp_path_factory.mktemp("undisturbed"))
    process = pipeline(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


@pytest.fixture
def folder(undisturbed, tmp_path):
    """Copy of the repository with the drawn data set, but without a training."""
    copy(tmp_path)
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "mini" / "runs")
    return tmp_path


def processes(folder, command):
    """Ids of the processes ``workbench COMMAND`` whose working folder is ``folder``."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if (
                command.encode() in words
                and b"workbench" in b" ".join(words[:2])
                and (entry / "cwd").resolve() == folder
            ):
                pids.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return pids


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"condition not met within {seconds} seconds")


def finish(folder, undisturbed, unlock=False):
    """Run the same command again, and compare its outcome with the outcome of an undisturbed run; return the log."""
    if unlock:
        subprocess.run(
            [BIN / "snakemake", "--unlock"], cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, check=True
        )
    process = pipeline(folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    weights, metrics, log = outcome(folder)
    expected, expected_metrics, _ = outcome(undisturbed)
    assert weights.keys() == expected.keys()
    assert all((weights[name] == expected[name]).all() for name in expected)
    assert metrics == expected_metrics
    return log


def checkpoint(folder):
    return list(folder.glob("results/mini/runs/*/seed0/checkpoints/last.pt"))


def test_kill_9_of_the_training_at_ten_moments(folder, undisturbed):
    moments, kills = random.Random(0), 0
    while kills < 10:
        process = pipeline(folder)
        pid = wait_for(lambda: processes(folder, "train"))[-1]
        time.sleep(moments.uniform(0, 9))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # the training is finished: check the outcome, and start again without results
            process.communicate(timeout=120)
            finish(folder, undisturbed)
            shutil.rmtree(folder / "results" / "mini" / "runs")
            continue
        kills += 1
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0, output
    finish(folder, undisturbed)


@pytest.mark.parametrize("command", ["detect", "evaluate"])
def test_kill_9_of_a_later_step(folder, undisturbed, command):
    process = pipeline(folder)
    os.kill(wait_for(lambda: processes(folder, command))[-1], signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode != 0
    finish(folder, undisturbed)


def test_ctrl_c(folder, undisturbed):
    process = pipeline(folder)
    wait_for(lambda: checkpoint(folder))
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert not processes(folder, "train")
    assert "resumed from the checkpoint at step" in finish(folder, undisturbed)


def test_sigterm_to_snakemake_leaves_no_orphan(folder, undisturbed):
    process = pipeline(folder)
    wait_for(lambda: checkpoint(folder))
    process.terminate()
    process.communicate(timeout=120)
    wait_for(lambda: not processes(folder, "train"), 60)
    finish(folder, undisturbed)


def test_kill_9_of_snakemake(folder, undisturbed):
    process = pipeline(folder)
    wait_for(lambda: checkpoint(folder))
    process.kill()
    wait_for(lambda: not processes(folder, "train"), 60)
    # The log is read now, because the next job overwrites it.
    log = next(folder.glob("results/mini/runs/*/seed0/train.log"))
    wait_for(lambda: "because the pipeline that started it is gone" in log.read_text(), 10)
    second = pipeline(folder)
    output, _ = second.communicate(timeout=120)
    assert second.returncode != 0
    assert "--unlock" in output
    assert "resumed from the checkpoint at step" in finish(folder, undisturbed, unlock=True)
