"""Reasons for a training to stop early: a signal, or the end of the pipeline that started the training."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from workbench.support.errors import WorkbenchError
from workbench.training.agreement import any_process

PIPELINE = "WORKBENCH_PIPELINE_PID"
"""Environment variable with the process id of the pipeline that started the job."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_REQUEST = 0.5
"""Seconds in which several signals count as one: ``timeout`` and terminals may send each signal twice."""


class Interrupted(WorkbenchError):
    """Error of a training that stopped early on request, after it wrote a checkpoint."""

    @classmethod
    def by_another(cls, step: int) -> Interrupted:
        """Error in a process of a training whose other process has an error of its own."""
        return cls(f"stopped by another of its processes at step {step}; see its message")


class StopRequests:
    """Context in which a first signal does not kill the process. A loop asks for the reason after each step instead.

    A repeated signal ends the process at once. A thread receives this signal, because Python runs handlers of signals
    only between two operations of the main thread. One operation may take minutes. SIGHUP stays ignored where it is
    ignored already (nohup).

    Args:
        say: function that receives a line about the first signal.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.signal: int | None = None
        self.pipeline = int(os.environ.get(PIPELINE, 0))
        self._say = say

    def __enter__(self) -> StopRequests:
        caught = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP]
        self.before = {number: signal.signal(number, self._note) for number in caught}
        self._receiver, self._sender = os.pipe()
        os.set_blocking(self._sender, False)
        self._wakeup_before = signal.set_wakeup_fd(self._sender, warn_on_full_buffer=False)
        _notified.add(self._sender)
        threading.Thread(target=self._watch, args=(self._receiver,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        _notified.discard(self._sender)
        os.close(self._sender)  # ends the thread

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number

    def _watch(self, receiver: int) -> None:
        """Report the first signal, and end the process at the next one."""
        first = None
        while byte := os.read(receiver, 1):
            number, now = byte[0], time.monotonic()
            if number not in self.before:
                continue
            if first is None:
                first = now
                with contextlib.suppress(OSError, ValueError):  # standard error may be closed
                    name = signal.Signals(number).name
                    self._say(
                        f"{name} received, stopping after this step with a checkpoint; repeat the signal to end at once"
                    )
            elif now - first > SAME_REQUEST:
                os._exit(128 + number)
        os.close(receiver)

    def own_reason(self) -> str | None:
        """Reason of this process to stop, or None."""
        if self.signal is not None:
            return f"by {signal.Signals(self.signal).name}"
        if self.pipeline and not is_alive(self.pipeline):
            return "because the pipeline that started it is gone"
        return None

    def reason(self) -> str | None:
        """Reason to stop, or None. If one of several processes has a reason, every process gets a reason."""
        own = self.own_reason()
        anyone = any_process(own is not None)
        return own or ("by another of its processes" if anyone else None)


_notified: set[int] = set()
"""Descriptors to which signals are written in this process."""


def _leave_signals_to_the_parent() -> None:
    """Do not write signals of a forked process, such as a decoding worker, to its parent."""
    if _notified:
        signal.set_wakeup_fd(-1)
        _notified.clear()


os.register_at_fork(after_in_child=_leave_signals_to_the_parent)


def keep_dead_workers_quiet() -> None:
    """Let a started loader of images report a dead worker only when a batch is requested.

    PyTorch's loader also installs a handler that raises an error anywhere in the main thread, even while weights
    change. After such an error, no checkpoint could be written.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def is_alive(pid: int) -> bool:
    """Return whether a process is running. A zombie, which has ended but is still listed, is not running."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # another user's process, or a system without /proc
        return True
