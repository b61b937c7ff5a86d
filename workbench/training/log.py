"""``train.csv``: the growing log of a training, which a resume cuts back to its checkpoint."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from workbench.support.errors import WorkbenchError
from workbench.support.files import write_text_atomically


class TrainLog:
    """Rows of ``step, epoch, lr, loss, loss_<term>…, val_ap, images_per_second``, kept in memory and on disk.

    ``step`` counts updates done, ``epoch`` counts from 0, ``val_ap`` is a fraction or empty. A training of two stages
    has a last column ``stage``, its cycles count on as epochs.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, object]] = []

    def start(self, keep_to: int = 0) -> None:
        """Begin anew, or go on after step ``keep_to`` of what is on disk."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a file where the folder should be, no permission, no space
            raise WorkbenchError(
                f"{self.path.parent}: the folder cannot be made ({error.strerror}); remove what is in the way"
            ) from None
        if keep_to and self.path.is_file():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= keep_to]

    def add(
        self,
        step: int,
        epoch: int,
        rate: float,
        terms: dict[str, float],
        images_per_second: float,
        val_ap: float | None,
        stage: str | None = None,
    ) -> None:
        """One more row."""
        self.rows.append(
            {
                "step": step,
                "epoch": epoch,
                "lr": f"{rate:.6g}",
                "loss": f"{sum(terms.values()):.6g}",
                **{f"loss_{name}": f"{value:.6g}" for name, value in terms.items()},
                "val_ap": "" if val_ap is None else f"{val_ap:.5f}",
                "images_per_second": f"{images_per_second:.4g}",
                **({"stage": stage} if stage else {}),
            }
        )

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def flush(self) -> None:
        """Write what there is; at most a thousand rows."""
        if self.rows:
            write_text_atomically(self.path, self._text())

    def publish(self, final: Path) -> None:
        """Write the whole log to its final name; the growing one stays, so that a kill in between loses nothing."""
        write_text_atomically(final, self._text())
