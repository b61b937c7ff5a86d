"""A training that is stopped, or meets a broken part of the machine, has a checkpoint and resumes to the same bits."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.stops import same_results, signal_after, train_until
from tests.trainings import train_experiment
from workbench.data.splits import read_splits
from workbench.evaluation import inference
from workbench.support.errors import WorkbenchError
from workbench.training import agreement, interrupts, loop
from workbench.training.interrupts import StopRequests
from workbench.training.loop import Interrupted


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of trainings without a stop, by name."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def unbroken(tiny_experiment, tiny_data, whole):
    """Folder of the training of the tiny experiment without a stop."""
    if not (whole / "plain").exists():
        train_experiment(tiny_experiment, whole / "plain", tiny_data)
    return whole / "plain"


@pytest.fixture
def default_hangup():
    """The default for SIGHUP, also where the tests run below nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("default_hangup")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_each_signal_stops_with_a_checkpoint(tiny_experiment, tiny_data, tmp_path, monkeypatch, capsys, unbroken, name):
    with monkeypatch.context() as patch:
        signal_after(patch, 3, number=signal.Signals[name])
        with pytest.raises(Interrupted, match=f"^stopped by {name} at step 3; run the same command again to resume$"):
            train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert "resumed from the checkpoint at step 3\n" in capsys.readouterr().err
    assert same_results(tmp_path, unbroken)


def test_a_hangup_stays_ignored_after_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as requests:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert requests.reason() is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_is_sent_twice_at_once_is_one_request():
    """As ``timeout`` does."""
    lines = []
    with StopRequests(lines.append) as requests:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        assert requests.reason() == "by SIGTERM"
    assert lines == ["SIGTERM received, stopping after this step with a checkpoint; repeat the signal to end at once"]


def test_a_forked_process_sends_its_signals_to_nobody(monkeypatch):
    """A decoding worker gets the signals of its process group, too."""
    monkeypatch.setattr(interrupts, "SAME_REQUEST", 0.0)
    with StopRequests() as requests:
        if (worker := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(worker, 0)
        time.sleep(0.05)
        assert requests.reason() is None


BUSY = """
import sys, torch
from workbench.training.interrupts import StopRequests
with StopRequests(lambda line: print(line, flush=True)):
    print("ready", flush=True)
    torch.linalg.svd(torch.randn(4000, 4000))  # one operation of a minute
"""
SAVING = """
import sys, time, torch
from pathlib import Path
from tests.trainings import train_experiment
from workbench.settings.experiment import Experiment
save = torch.save
def slow(content, file):
    if content["step"] < 8:
        return save(content, file)
    save({"half": torch.zeros(999)}, file)
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
torch.save = slow
torch.set_num_threads(1)
folder, data = map(Path, sys.argv[1:])
train_experiment(Experiment.model_validate_json((folder / "experiment.json").read_text()), folder / "seed0", data)
"""


@pytest.mark.parametrize(("script", "first", "second"), [(BUSY, "SIGINT", "SIGTERM"), (SAVING, "SIGTERM", "SIGINT")])
def test_a_second_signal_ends_it_at_once(tiny_experiment, tiny_data, tmp_path, unbroken, script, first, second):
    """In a long operation, and while a checkpoint is written, of which no half file counts."""
    (tmp_path / "experiment.json").write_text(tiny_experiment.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path, tiny_data], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        process.send_signal(signal.Signals[first])
        time.sleep(interrupts.SAME_REQUEST + 0.2)
        assert process.poll() is None
        process.send_signal(signal.Signals[second])
        process.wait(timeout=2)
        assert process.returncode == 128 + signal.Signals[second]
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
    if script == SAVING:
        assert torch.load(tmp_path / "seed0" / "checkpoints" / "last.pt")["step"] == 4
        train_experiment(tiny_experiment, tmp_path / "seed0", tiny_data)
        assert same_results(tmp_path / "seed0", unbroken)


def kill_workers():
    """Kill this process's own child processes, and wait until it has been notified."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    time.sleep(0.2)


def with_a_death(original, at):
    """Function like ``original`` that first kills the workers, in one of its calls."""
    calls = []

    def function(*arguments, **named):
        calls.append(1)
        if len(calls) == at:
            kill_workers()
        return original(*arguments, **named)

    return function


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize(("place", "name", "at", "step"), [(loop, "take_step", 6, 6), (inference, "_results", 2, 4)])
def test_a_dead_worker_gives_one_line_and_a_checkpoint(
    tiny_experiment, tiny_data, tmp_path, monkeypatch, unbroken, place, name, at, step
):
    """A worker that dies during a step used to raise an error between two changes of weights."""
    with monkeypatch.context() as patch:
        patch.setattr(place, name, with_a_death(getattr(place, name), at))
        message = r"^workers: a process that decodes images ended unexpectedly.*; use fewer workers$"
        with pytest.raises(WorkbenchError, match=message):
            train_experiment(tiny_experiment, tmp_path, tiny_data, workers=1)
    assert torch.load(tmp_path / "checkpoints" / "last.pt")["step"] >= step
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert same_results(tmp_path, unbroken)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize(("place", "name", "at"), [(loop, "take_step", 6), (inference, "_results", 2)])
def test_a_signal_that_ends_the_workers_is_the_reason(
    tiny_experiment, tiny_data, tmp_path, monkeypatch, unbroken, place, name, at
):
    """A scheduler sends its signal to every process of a job. The line used to ask for fewer workers."""

    def signal_all(end_workers=kill_workers):
        os.kill(os.getpid(), signal.SIGTERM)
        end_workers()

    with monkeypatch.context() as patch:
        patch.setattr(f"{__name__}.kill_workers", signal_all)
        patch.setattr(place, name, with_a_death(getattr(place, name), at))
        patch.setattr(StopRequests, "reason", lambda requests: None)  # the signal comes after the question
        with pytest.raises(Interrupted, match=r"^stopped by SIGTERM at step \d; run the same command again to resume$"):
            train_experiment(tiny_experiment, tmp_path, tiny_data, workers=1)
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert same_results(tmp_path, unbroken)


def test_an_image_that_cannot_be_read_costs_no_step(tiny_experiment, tiny_data, tmp_path, unbroken, monkeypatch):
    """An image that is damaged after the checks of all images is met in a validation, after its checkpoint."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    image = min((root / "val2017").iterdir())
    content = image.read_bytes()

    def read_then_damage(*arguments):
        splits = read_splits(*arguments)
        image.write_bytes(content[:100])
        return splits

    monkeypatch.setattr("workbench.training.loop.read_splits", read_then_damage)
    for _ in range(2):
        image.write_bytes(content)
        with pytest.raises(WorkbenchError, match="not a readable"):
            train_experiment(tiny_experiment, tmp_path / "run", root)
        assert torch.load(tmp_path / "run" / "checkpoints" / "last.pt")["validation_due"]
    monkeypatch.undo()
    image.write_bytes(content)
    train_experiment(tiny_experiment, tmp_path / "run", root)
    assert same_results(tmp_path / "run", unbroken)


DAMAGES = {
    "lost": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:70]),
    "text": lambda file: file.write_text("step,loss\none,two\n"),
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "of other columns": lambda file: file.write_text("a,b\n1,2\n"),
    "of another training": lambda file: file.write_text(file.read_text().replace(",0,", ",7,")),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("step", [3, 8])
def test_the_growing_log_is_not_needed(tiny_experiment, tiny_data, tmp_path, unbroken, whole, damage, step):
    stopped = whole / f"stopped{step}"
    if not stopped.exists():
        train_until(step, tiny_experiment, stopped, tiny_data)
    shutil.copytree(stopped, tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / "checkpoints" / "train.csv")
    train_experiment(tiny_experiment, tmp_path / "run", tiny_data)
    assert same_results(tmp_path / "run", unbroken)


def test_a_failed_validation_is_repeated(tiny_experiment, tiny_data, tmp_path, monkeypatch, unbroken):
    """A kill in the validation as well; what the log states is what an unbroken training states."""

    class Killed(BaseException):
        pass

    def dies(*_, **__):
        raise Killed

    for _ in range(2):
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(loop, "detect_data_set", dies)
            train_experiment(tiny_experiment, tmp_path, tiny_data)
            raise AssertionError("the validation was left out")
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    assert same_results(tmp_path, unbroken)


def test_processes_agree_twice_per_step(tiny_experiment, tiny_data, tmp_path, monkeypatch):
    """On the canvases, and on a checkpoint. Only at a checkpoint they also agree on the reason to stop."""
    calls, counts = [], []
    least, step = agreement.least_of_all_processes, loop.take_step
    monkeypatch.setattr(agreement, "least_of_all_processes", lambda number: calls.append(number) or least(number))
    monkeypatch.setattr(loop, "take_step", lambda *arguments: counts.append(len(calls)) or step(*arguments))
    train_experiment(tiny_experiment, tmp_path, tiny_data)
    steps = [after - before for before, after in itertools.pairwise(counts)]
    assert len(steps) >= 5
    assert steps.count(2) == len(steps) - 1  # but at the end of the first epoch
