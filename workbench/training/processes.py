"""Processes of a training, one per device, and the lock that refuses a second training in the same folder."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.distributed import DistError, TCPStore

from workbench.runs.folders import Training
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.locks import lock, open_lock, unlock
from workbench.training.interrupts import is_alive

MEETING = timedelta(seconds=60)
"""Longest time in which the processes of a training must find each other."""
WORK = timedelta(minutes=30)
"""Longest time that a process waits for another one during the training, e.g. while a file is written."""
LAST_WORDS = 5.0
"""Largest number of seconds that the first process needs for its last message."""
FIRST_PROCESS = "WORKBENCH_FIRST_PROCESS"
"""Environment variable with the id of the first process, for the processes that it starts."""
LAUNCHER = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables of launchers such as torchrun. Images of containers set some of them."""


def is_first_process() -> bool:
    """Whether this process was started by a user or the pipeline, not by the first process of a training.

    If the first process was killed, a process that it started has another parent, but must not take its place.
    """
    first = os.environ.get(FIRST_PROCESS, "")
    return not first.isdecimal() or (first != str(os.getppid()) and is_alive(int(first)))


class OneMachine(LightningEnvironment):
    """Processes of one machine, started by the first process. Variables of a launcher have no effect.

    Fabric would conclude from any ``LOCAL_RANK`` that the other processes exist, and wait for them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_first = is_first_process()

    @property
    def creates_processes_externally(self) -> bool:
        return not self._is_first

    @property
    def main_address(self) -> str:
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        if self._main_port == -1:
            self._main_port = _free_port() if self._is_first else int(os.environ["MASTER_PORT"])
        return self._main_port

    def local_rank(self) -> int:
        return 0 if self._is_first else super().local_rank()

    def node_rank(self) -> int:
        return 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class MeetingStrategy(DDPStrategy):
    """Fabric's strategy, with a short wait for the other processes at the start and a long one afterwards."""

    def setup_environment(self) -> None:
        """Connect this process with the others.

        Raises:
            WorkbenchError: the other processes do not connect in time.
        """
        environment, ranks, device = self.cluster_environment, self.num_processes, self.root_device
        rank = environment.local_rank()
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            store = TCPStore(environment.main_address, environment.main_port, ranks, rank == 0, MEETING)
            torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=WORK)
        except (DistError, RuntimeError) as error:
            raise WorkbenchError(
                f"--devices {ranks}: the processes have not found each other within {MEETING.seconds} s "
                f"({one_line(error)}); see the lines above, or use fewer devices"
            ) from None
        store.set_timeout(WORK)
        super().setup_environment()


def open_fabric(devices: int, say: Callable[[str], None] = lambda line: None) -> Fabric:
    """Launcher of processes, on GPUs if any are available, else on the CPU. Other accelerators lack some operators.

    Args:
        say: function that receives a line about a launcher's variables, which have no effect.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < devices:
        raise WorkbenchError(
            f"{devices} GPUs requested, but only {gpus} available; request fewer (gpus= in Snakemake, --devices)"
        )
    ignored = [name for name in LAUNCHER if name in os.environ]
    if devices > 1 and ignored and is_first_process():
        say(f"{', '.join(ignored)} in the environment: ignored, since a training starts its own processes")
    return Fabric(
        accelerator="cuda" if gpus else "cpu",
        devices=devices,
        strategy=MeetingStrategy() if devices > 1 else "auto",
        plugins=OneMachine(),
    )


def start_processes(fabric: Fabric) -> None:
    """Start the other processes of a training, which run this process's command again, and connect them.

    Raises:
        WorkbenchError: the first process of this process's training has ended.
    """
    if not is_first_process():
        if (first := os.environ[FIRST_PROCESS]) != str(os.getppid()):
            raise WorkbenchError(
                f"the first process of this training ({first}) has ended; run the same command again, without "
                f"{FIRST_PROCESS} in the environment"
            )
        atexit.register(_wait_for_first_process)
        fabric.launch()
        return
    os.environ[FIRST_PROCESS] = str(os.getpid())
    try:
        fabric.launch()
    finally:
        del os.environ[FIRST_PROCESS]


def _wait_for_first_process() -> None:
    """Wait some seconds for the end of the first process, which Fabric kills silently if another one ends first."""
    end = time.monotonic() + LAST_WORDS
    while os.environ.get(FIRST_PROCESS) == str(os.getppid()) and time.monotonic() < end:
        time.sleep(0.1)


@contextmanager
def lost_processes() -> Iterator[None]:
    """Context that replaces a library's error by one line if another process of this training has ended."""
    try:
        yield
    except RuntimeError as error:
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        of_connection = isinstance(error, DistError) or any(name in str(error).lower() for name in ("gloo", "nccl"))
        if not (connected and of_connection):
            raise
        raise WorkbenchError(
            "another process of this training has ended; see its message above, then run the same command again"
        ) from error


@contextmanager
def training_lock(training: Training, say: Callable[[str], None]) -> Iterator[None]:
    """Lock the folder of a training in the first process; the processes that it starts need no lock.

    Args:
        say: function that receives a line if the file system has no locks.

    Raises:
        WorkbenchError: the training is in progress in another process, or the folder or its lock cannot be made.
    """
    try:
        training.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkbenchError(
            f"{training.checkpoints}: cannot make this folder ({error.strerror}); "
            "check the path, its permissions and the free space"
        ) from None
    if not is_first_process():
        yield
        return
    path = _lock_file(training)
    try:
        descriptor = open_lock(path)
    except OSError as error:
        raise WorkbenchError(f"{path}: cannot be opened ({error.strerror}); delete it") from None
    try:
        try:
            if not lock(descriptor):
                raise _in_progress(training, descriptor)
        except OSError as error:  # some network file systems have no locks
            say(f"{path}: cannot be locked ({error.strerror}); do not start this training a second time")
        _state_owner(descriptor)
        yield
    finally:
        unlock(descriptor)


def refuse_second_training(training: Training) -> None:
    """Raise a WorkbenchError if a training is in progress in another process; ``training_lock`` checks this again.

    With this early check, a second training does not wait for the GPUs of the first training.
    """
    if not is_first_process() or not _lock_file(training).is_file():
        return
    with contextlib.suppress(OSError):
        descriptor = open_lock(_lock_file(training))
        try:
            if not lock(descriptor):
                raise _in_progress(training, descriptor)
        finally:
            unlock(descriptor)


def _lock_file(training: Training) -> Path:
    return training.checkpoints / "lock"


def _in_progress(training: Training, descriptor: int) -> WorkbenchError:
    """Error that names the process which has locked a training."""
    text = os.pread(descriptor, 200, 0).decode(errors="replace")
    owner = text if text and text.isprintable() else "in another process"
    return WorkbenchError(f"{training.folder}: this training is in progress ({owner}); wait for it, or stop it")


def _state_owner(descriptor: int) -> None:
    """Write the name of this process into its lock."""
    with contextlib.suppress(OSError):  # another user's file, or a full disk: the lock works without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
