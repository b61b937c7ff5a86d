"""Note below a table of COCO: rows whose measured AP agrees with the published AP, and rows where it differs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from workbench.evaluation.hypotheses import agrees
from workbench.report.tables.cells import TableRow
from workbench.report.text import code
from workbench.settings.data import COCO_VAL


def on_agreement(rows: Sequence[TableRow]) -> list[str]:
    """Return a note on the trainings of a table; an empty list if no row has such a training.

    A row takes part if its AP is of own trainings on all images of val2017, and if its published AP is of val2017, too.
    """
    listed: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        if (published := row.published.get("AP")) is None or not _is_comparable(row):
            continue
        values = [100 * m["AP"] for m in row.measured]
        spread = statistics.stdev(values) if len(values) > 1 else None
        difference = statistics.fmean(values) - published
        half_width, agreed = agrees(difference, len(values), spread)
        text = f"{code(row.row)} ({difference:+.2f}, ±{half_width:.2f})".replace("(-", "(−")
        listed[agreed].append(text)
    if not any(listed.values()):
        return []
    parts = [f"{word}: {', '.join(listed[agreed])}." for agreed, word in WORDS.items() if listed[agreed]]
    return [f"{EXPLANATION} {' '.join(parts)}"]


WORDS = {True: "Agrees", False: "Differs"}
EXPLANATION = (
    "Agreement with the published AP: brackets have measured minus published AP, and the 95 % limit of this difference "
    "between trainings on the same test images (Student's t). A row with one seed assumes a standard deviation of "
    "0.2 AP."
)


def _is_comparable(row: TableRow) -> bool:
    seeds = [m["provenance"]["seed"] for m in row.measured]
    trained = (
        bool(seeds) and all(str(seed).isdecimal() for seed in seeds) and all(m["AP"] is not None for m in row.measured)
    )
    return trained and len(row.bootstraps) == len(seeds) and all(b.images == COCO_VAL for b in row.bootstraps)
