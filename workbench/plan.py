"""What a table will take, said before anyone starts: its trainings, which are shared, which are done."""

from __future__ import annotations

from pathlib import Path

from workbench.catalog import load_table, table_names
from workbench.pipeline import scale_folder


def describe(table: str, scale: str, results: Path, data_root: Path | None) -> str:
    """A few lines of text: each training of a table, the rows it serves here and elsewhere, and what is done of it."""
    spec, rows = load_table(table, scale, data_root)
    others = [row for name in table_names() if name != table for row in load_table(name, scale, data_root)[1]]
    folder = scale_folder(results, scale)
    runs = {row.run: row for row in rows}
    lines = [f"{spec.title}", f"{len(runs)} trainings at scale {scale} for {len(rows)} rows:"]
    for run, row in runs.items():
        training = row.experiment.training
        here = [r.id for r in rows if r.run == run]
        shared = [f"{r.table} ({r.id})" for r in others if r.run == run]
        done = sorted((folder / "runs" / run).glob("seed*/model.safetensors"))
        state = f"done: {', '.join(file.parent.name for file in done)}" if done else "not trained"
        lines.append(f"  {run}")
        lines.append(f"    rows: {', '.join(here)}" + (f"; shared with {', '.join(shared)}" if shared else ""))
        lines.append(f"    {training.epochs} epochs, batch {training.batch}, images {row.experiment.image}; {state}")
    provisional = rows[0].experiment.data.kind == "coco" and rows[0].experiment.data.digest is None
    if provisional:
        lines.append("The ids are provisional: give --data-root, the annotations are part of them.")
    return "\n".join(lines)
