"""Log of a training, ``train.csv``. Its rows are part of the checkpoints; the growing file on disk is never read."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from workbench.support.files import write_text_atomically


class TrainLog:
    """Rows of ``step, epoch, lr, loss, loss_<term>…, val_ap, images_per_second``, kept in memory and on disk.

    ``step`` is the number of steps done, ``epoch`` counts from 0, ``val_ap`` is a fraction or empty. The log of a
    training with weight averaging has a last column ``stage``. There, the epoch numbers continue through the cycles.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, int | str]] = []

    def add(
        self,
        step: int,
        epoch: int,
        rate: float,
        terms: dict[str, float],
        images_per_second: float,
        stage: str | None = None,
    ) -> None:
        """Add a row, without a validation."""
        self.rows.append(
            {
                "step": step,
                "epoch": epoch,
                "lr": f"{rate:.6g}",
                "loss": f"{sum(terms.values()):.6g}",
                **{f"loss_{name}": f"{value:.6g}" for name, value in terms.items()},
                "val_ap": "",
                "images_per_second": f"{images_per_second:.4g}",
                **({"stage": stage} if stage else {}),
            }
        )

    def add_validation(self, ap: float | None) -> None:
        """Add the AP of a validation to the last row; None for validation images without objects."""
        if ap is not None:
            self.rows[-1]["val_ap"] = f"{ap:.5f}"

    def _text(self) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def flush(self) -> None:
        """Write the rows so far, at most about a thousand."""
        if self.rows:
            write_text_atomically(self.path, self._text())

    def publish(self, final: Path) -> None:
        """Write the whole log under its final name. The growing log is kept, in case of a kill."""
        write_text_atomically(final, self._text())
