"""Progress of long tasks: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 15.0
"""Seconds between two lines in a log."""


class Reporter:
    """Reports the progress of a task on standard error.

    Args:
        title: first words of every line.
        total: number of steps of the task.
        quiet: print nothing; set on every rank but the first.
    """

    def __init__(self, title: str, total: int, quiet: bool = False):
        self.title, self.total, self.quiet = title, total, quiet
        self.last_ap: float | None = None
        self.start_time = self.last_line_time = time.monotonic()
        self.first_step = 0
        self.bar: Progress | None = None
        if sys.stderr.isatty() and not quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[facts]}"),
                console=_console(),
            )
            self.task = self.bar.add_task(title, total=total, facts="")

    def __enter__(self) -> Reporter:
        self.start_time = self.last_line_time = time.monotonic()
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, message: str) -> None:
        """Print a message on a line of its own."""
        if self.quiet:
            return
        # A training continues after its terminal, or the reader of its pipe, has ended.
        with contextlib.suppress(OSError):
            if self.bar:
                self.bar.console.print(f"{self.title}: {message}", highlight=False, markup=False)
            else:
                print(f"{self.title}: {message}", file=sys.stderr, flush=True)

    def resume(self, step: int) -> None:
        """Set the step at which a resumed task starts."""
        self.first_step = step

    def step(
        self, step: int, epoch: int, epochs: int, loss: float, images_per_second: float, ap: float | None = None
    ) -> None:
        """Report a finished training step.

        Args:
            ap: validation AP as a fraction, if it was measured after this step.
        """
        if ap is not None:
            self.last_ap = ap
        facts = f"loss {loss:.3f}  {images_per_second:.0f} img/s"
        if self.last_ap is not None:
            facts += f"  val AP {100 * self.last_ap:.1f}"
        self.advance(step, f"epoch {epoch}/{epochs}  {facts}", force=ap is not None)

    def advance(self, step: int, facts: str = "", force: bool = False) -> None:
        """Report that ``step`` of ``total`` steps are finished.

        Args:
            facts: text behind the number of steps.
            force: print a line even if the last line is recent.
        """
        if self.quiet:
            return
        if self.bar:
            self.bar.update(self.task, completed=step, facts=facts)
            return
        now = time.monotonic()
        if force or now - self.last_line_time >= LINE_SECONDS or step == self.total:
            self.last_line_time = now
            left = (now - self.start_time) / max(1, step - self.first_step) * (self.total - step)
            self.say(f"{step}/{self.total}  {facts}  {left:.0f} s left".replace("    ", "  "))


def _console():
    from rich.console import Console

    return Console(stderr=True)
