"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 15.0


class Reporter:
    """Says how far a piece of work is.

    Args:
        title: stands before every line.
        total: steps in all.
        quiet: say nothing (ranks other than the first).
    """

    def __init__(self, title: str, total: int, quiet: bool = False):
        self.title, self.total, self.quiet = title, total, quiet
        self.last_ap: float | None = None
        self.said = self.began = time.monotonic()
        self.start = 0
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
        self.began = self.said = time.monotonic()
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, message: str) -> None:
        """One line of its own."""
        if self.quiet:
            return
        if self.bar:
            self.bar.console.print(f"{self.title}: {message}", highlight=False, markup=False)
        else:
            print(f"{self.title}: {message}", file=sys.stderr, flush=True)

    def resume(self, step: int) -> None:
        """Work begins at ``step``."""
        self.start = step

    def step(
        self, step: int, epoch: int, epochs: int, loss: float, images_per_second: float, ap: float | None = None
    ) -> None:
        """A training step is done; ``ap`` is the validation AP, a fraction, where it was just measured."""
        if ap is not None:
            self.last_ap = ap
        facts = f"loss {loss:.3f}  {images_per_second:.0f} img/s"
        if self.last_ap is not None:
            facts += f"  val AP {100 * self.last_ap:.1f}"
        self.advance(step, f"epoch {epoch}/{epochs}  {facts}", force=ap is not None)

    def advance(self, step: int, facts: str = "", force: bool = False) -> None:
        """``step`` of ``total`` is done."""
        if self.quiet:
            return
        if self.bar:
            self.bar.update(self.task, completed=step, facts=facts)
            return
        now = time.monotonic()
        if force or now - self.said >= LINE_SECONDS or step == self.total:
            self.said = now
            left = (now - self.began) / max(1, step - self.start) * (self.total - step)
            self.say(f"{step}/{self.total}  {facts}  {left:.0f} s left".replace("    ", "  "))


def _console():
    from rich.console import Console

    return Console(stderr=True)
