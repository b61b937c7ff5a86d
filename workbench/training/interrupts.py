"""When a training has to end early: a signal came, or the pipeline that started it is gone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

import torch

PIPELINE = "WORKBENCH_PIPELINE_PID"
"""Environment variable in which the pipeline tells its jobs its process id."""


class StopRequests:
    """Within ``with``, SIGTERM and SIGINT do not kill the process: they are noted for a loop that asks after a step."""

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
        """Why to stop, if there is a reason; with several processes it is known to all as soon as to one of them."""
        mine = None
        if self.signal is not None:
            mine = f"by {signal.Signals(self.signal).name}"
        elif self.pipeline and not _alive(self.pipeline):
            mine = "because the pipeline that started it is gone"
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return mine
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        wanted = torch.tensor(float(mine is not None), device=device)
        torch.distributed.all_reduce(wanted)
        return mine or ("by another of its processes" if wanted.item() else None)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waited for (in a container, say) does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or a system without /proc
        return True
