"""Processes of a training: a launcher's variables have no effect, waits are short, and a training runs only once."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from tests.training.stops import log_of, same_results
from tests.trainings import train_experiment, training_at
from workbench import cli
from workbench.support.errors import WorkbenchError
from workbench.training import processes
from workbench.training.interrupts import is_alive
from workbench.training.processes import (
    OneMachine,
    is_first_process,
    lost_processes,
    open_fabric,
    start_processes,
    training_lock,
)

WORKBENCH = Path(sys.executable).parent / "workbench"
SLURM = {
    f"SLURM_{name}": value for name, value in {"NTASKS": "1", "JOB_NAME": "train", "PROCID": "0", "NODEID": "0"}.items()
}
LEFTOVERS = {
    "LOCAL_RANK": {"LOCAL_RANK": "0"},
    "MASTER_ADDR": {"MASTER_ADDR": "192.0.2.1"},  # an address that nobody has
    "MASTER_PORT": {"MASTER_PORT": "1"},
    "text for a number": {"LOCAL_RANK": "", "MASTER_PORT": "none", "WORLD_SIZE": "many"},
    "WORLD_SIZE": {"WORLD_SIZE": "1", "RANK": "0"},
    "NODE_RANK": {"NODE_RANK": "1"},
    "all": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},
    "Slurm": SLURM,
    "process of another training": {"WORKBENCH_FIRST_PROCESS": "1", "LOCAL_RANK": "1", "MASTER_PORT": "1"},
}  # fmt: skip


@pytest.mark.parametrize("case", LEFTOVERS)
def test_variables_of_a_launcher_have_no_effect(monkeypatch, case):
    for name, value in LEFTOVERS[case].items():
        monkeypatch.setenv(name, value)
    assert is_first_process()
    lines = []
    fabric = open_fabric(2, lines.append)
    environment = fabric.strategy.cluster_environment
    assert not environment.creates_processes_externally
    assert (environment.main_address, environment.local_rank(), environment.node_rank()) == ("127.0.0.1", 0, 0)
    with socket.socket() as free:
        free.bind((environment.main_address, environment.main_port))
    ignored = [name for name in LEFTOVERS[case] if name in processes.LAUNCHER]
    assert bool(lines) == bool(ignored)
    for name in ignored:
        assert name in lines[0]
    assert len(lines) <= 1


def test_a_process_that_a_training_started_takes_its_variables(monkeypatch):
    monkeypatch.setenv(processes.FIRST_PROCESS, str(os.getppid()))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MASTER_PORT", "4711")
    environment = OneMachine()
    assert not is_first_process()
    assert environment.creates_processes_externally
    assert (environment.local_rank(), environment.main_port) == (1, 4711)


def test_a_process_whose_first_process_was_killed_is_no_training_of_its_own(monkeypatch):
    """It started processes itself, and trained on without the pipeline."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setenv(processes.FIRST_PROCESS, str(gone.pid))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("MASTER_PORT", "4711")
    assert not is_first_process()
    with pytest.raises(WorkbenchError, match=r"^the first process of this training \(\d+\) has ended; run the same"):
        start_processes(open_fabric(2))


def test_processes_that_do_not_come_are_reported(monkeypatch):
    monkeypatch.setattr(processes, "MEETING", timedelta(seconds=1))
    start = time.monotonic()
    with pytest.raises(WorkbenchError, match=r"^--devices 2: the processes have not found each other within 1 s \("):
        open_fabric(2).strategy.setup_environment()
    assert time.monotonic() - start < 5


def test_a_wait_for_the_other_processes_takes_a_minute_at_most():
    assert processes.MEETING.total_seconds() <= 60


@pytest.mark.parametrize(
    "text", ["[gloo] Connection closed by peer [127.0.0.1]:1", "NCCL error: remote process exited"]
)
def test_a_lost_process_is_reported_in_one_line(monkeypatch, text):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    message = r"^another process of this training has ended; see its message above"
    with pytest.raises(WorkbenchError, match=message), lost_processes():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="a bug"), lost_processes():
        raise RuntimeError("a bug")


@pytest.mark.slow  # four processes that load PyTorch
def test_two_trainings_with_one_exported_port_work_at_the_same_time(tiny_experiment, tiny_data, tmp_path, new_run):
    """Each with two processes, in an environment with the leftovers of a launcher and a port that is taken."""
    settings = tiny_experiment.training.model_copy(update={"epochs": 1, "canvas": 4})
    run = new_run(tiny_experiment.model_copy(update={"training": settings}))
    environment = os.environ | SLURM | {"OMP_NUM_THREADS": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "192.0.2.1"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment["MASTER_PORT"] = environment["STANDALONE_PORT"] = str(taken.getsockname()[1])
        command = [WORKBENCH, "train", "--run", run.folder, "--data-root", tiny_data, "--devices", "2"]
        started = [
            subprocess.Popen([*command, "--seed", seed], env=environment, stderr=subprocess.PIPE, text=True)
            for seed in ("0", "1")
        ]
        screens = [process.communicate(timeout=120)[1] for process in started]
    for process, screen in zip(started, screens, strict=True):
        assert process.returncode == 0, screen
        assert "Traceback" not in screen
        assert (
            screen.count("LOCAL_RANK, MASTER_ADDR, MASTER_PORT in the environment: ignored, since a training st") == 1
        )
    assert [training.weights.is_file() for training in run.trainings()] == [True, True]
    assert '"devices": 2' in run.training(0).facts.read_text()


@pytest.mark.slow  # processes that load PyTorch
@pytest.mark.parametrize("killed", ["first", "second"])
def test_if_one_process_is_killed_all_end_with_one_line(tiny_experiment, tiny_data, new_run, tmp_path, killed):
    settings = tiny_experiment.training.model_copy(update={"epochs": 1000, "canvas": 4, "validate_every": 1000})
    run = new_run(tiny_experiment.model_copy(update={"training": settings}))
    command = [WORKBENCH, "train", "--run", run.folder, "--data-root", tiny_data, "--devices", "2", "--workers", "0"]
    screen = tmp_path / "screen"
    with screen.open("wb") as file:
        first = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=file)
    try:
        wait_until(lambda: "img/s" in screen.read_text(), 200)
        (second,) = (int(pid) for pid in children(first.pid))
        os.kill(first.pid if killed == "first" else second, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: first.poll() is not None and not is_alive(second), 60)
        assert time.monotonic() - began < 10
    finally:
        first.kill()
    *_, last = screen.read_text().strip().splitlines()
    assert last == (
        "workbench: another process of this training has ended; see its message above, then run the same command again"
    )
    assert not any(word in screen.read_text() for word in ("Traceback", "frame #", "[W", "Exception raised"))


@pytest.mark.slow
def test_a_training_that_is_stopped_on_two_devices_is_resumed_on_one(tiny_experiment, tiny_data, new_run, tmp_path):
    """The two devices learn the same as one, up to the order of sums. ``test_loader`` has the remaining canvases."""
    settings = tiny_experiment.training.model_copy(
        update={"epochs": 30, "batch": 2, "reference_batch": 2, "canvas": 1, "validate_every": 30}
    )
    backbone = tiny_experiment.backbone.model_copy(update={"norm": "frozen"})
    run = new_run(tiny_experiment.model_copy(update={"training": settings, "backbone": backbone}))
    training = run.training(0)
    command = [WORKBENCH, "train", "--run", run.folder, "--data-root", tiny_data, "--workers", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    screen = tmp_path / "screen"
    with screen.open("wb") as file:
        first = subprocess.Popen([*command, "--devices", "2"], env=environment, stderr=file)
    wait_until(lambda: "img/s" in screen.read_text(), 200)
    first.terminate()
    assert first.wait(60) == 1, screen.read_text()
    step = torch.load(training.last_checkpoint)["step"]
    train_experiment(run.read_experiment(), tmp_path / "alone", tiny_data)
    alone = log_of(tmp_path / "alone")
    assert 0 < step < len(alone)
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 0, said.stderr
    assert f"resumed from the checkpoint at step {step}" in said.stderr
    ours = log_of(training.folder)
    assert [row["step"] for row in ours] == [row["step"] for row in alone]
    for one, other in list(zip(ours, alone, strict=True))[:20]:  # rounding grows with each step
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), rel=1e-3)


def children(pid):
    """Processes that a process has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(child) for child in listed.split()]


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


# The same training twice.


def hold(folder, ready):
    with training_lock(training_at(folder), print):
        ready.set()
        time.sleep(60)


@pytest.fixture
def in_progress(tmp_path):
    """Process that holds the lock of a training, and the training's folder."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    owner = context.Process(target=hold, args=(tmp_path / "seed0", ready))
    owner.start()
    assert ready.wait(10)
    yield owner, tmp_path / "seed0"
    owner.kill()
    owner.join()


def test_a_second_training_ends_at_once_and_writes_nothing(tiny_experiment, tiny_data, in_progress):
    owner, folder = in_progress
    before = sorted(folder.rglob("*"))
    line = (
        rf"^{folder}: this training is in progress \(process {owner.pid} on {socket.gethostname()}\); wait for it, or"
    )
    with pytest.raises(WorkbenchError, match=line):
        train_experiment(tiny_experiment, folder, tiny_data)
    assert sorted(folder.rglob("*")) == before


def test_a_second_training_does_not_wait_for_gpus(tiny_experiment, tiny_data, new_run, monkeypatch):
    training = new_run(tiny_experiment).training(0)
    monkeypatch.setattr("workbench.support.devices.reserved_gpus", None)
    arguments = ["workbench", "train", "--run", training.run.folder, "--data-root", tiny_data]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with training_lock(training, print), pytest.raises(SystemExit, match="this training is in progress"):
        cli.main()


def test_another_seed_is_not_locked_out(in_progress, tiny_experiment, tiny_data, tmp_path):
    short = tiny_experiment.training.model_copy(update={"limit_steps": 1})
    train_experiment(tiny_experiment.model_copy(update={"training": short}), tmp_path / "seed1", tiny_data, seed=1)
    assert (tmp_path / "seed1" / "model.safetensors").is_file()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_whose_process_was_killed_is_free_again(in_progress, number):
    owner, folder = in_progress
    os.kill(owner.pid, number)
    owner.join()
    with training_lock(training_at(folder), print):
        pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def without_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", without_locks)
    lines = []
    with training_lock(training_at(tmp_path / "seed0"), lines.append):
        assert len(lines) == 1
    assert lines[0].endswith("cannot be locked (No locks available); do not start this training a second time")


def test_the_lock_changes_no_result(tiny_experiment, tiny_data, tmp_path):
    """The lock's file stays, and a copied one is free."""
    short = tiny_experiment.training.model_copy(update={"limit_steps": 1})
    experiment = tiny_experiment.model_copy(update={"training": short})
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "b" / "checkpoints" / "lock").write_text("process 1 on another machine\x00\n" * 99)
    for name in ("a", "b"):
        train_experiment(experiment, tmp_path / name, tiny_data)
    assert same_results(tmp_path / "a", tmp_path / "b")
