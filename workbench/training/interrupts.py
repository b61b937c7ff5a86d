"""Reasons for a training to stop early: a signal, or the end of the pipeline that started the training."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

import torch

PIPELINE = "WORKBENCH_PIPELINE_PID"
"""Environment variable with the process id of the pipeline that started the job."""


class StopRequests:
    """Context in which SIGTERM and SIGINT do not kill the process. A loop calls ``reason`` after each step instead."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.pipeline = int(os.environ.get(PIPELINE, 0))

    def __enter__(self) -> StopRequests:
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number

    def reason(self) -> str | None:
        """Reason to stop, or None. If one of several processes has a reason, every process gets a reason."""
        own = None
        if self.signal is not None:
            own = f"by {signal.Signals(self.signal).name}"
        elif self.pipeline and not _alive(self.pipeline):
            own = "because the pipeline that started it is gone"
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return own
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        requests = torch.tensor(float(own is not None), device=device)
        torch.distributed.all_reduce(requests)
        return own or ("by another of its processes" if requests.item() else None)


def _alive(pid: int) -> bool:
    """Return True if a process is running. A zombie, which has ended but is still listed, is not running."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or a system without /proc
        return True
