"""Notes about trainings below a table: known differences from released code, and trainings in different arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.report.tables.cells import TableRow
from workbench.report.text import code
from workbench.settings.experiment import Experiment


def on_known_differences(rows: Sequence[TableRow]) -> list[str]:
    """Return a note for each known difference, with its rows. Rows with published weights were not trained here."""
    rows_of: dict[str, list[str]] = {}
    for row in rows:
        if not row.measured or list(_trainings(row)):
            for text in row.differences:
                rows_of.setdefault(text, []).append(code(row.row))
    return [f"Known difference of {', '.join(names)}: {text}" for text, names in rows_of.items()]


def on_mixed_arithmetic(rows: Sequence[TableRow]) -> list[str]:
    """Return a warning if rows were trained in different arithmetic, with the rows that differ.

    A setting that a result does not state, because an earlier version wrote the result, is not compared.
    """
    rows_of: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        stated = {item for facts in _trainings(row) for item in _arithmetic(facts).items()}
        for setting, value in sorted(stated):
            rows_of.setdefault(setting, {}).setdefault(value, []).append(row.row)
    mixed = {setting: values for setting, values in rows_of.items() if len(values) > 1}
    if not mixed:
        return []
    listed = "; ".join(f"{setting}: {_listed(values)}" for setting, values in mixed.items())
    return [
        f"**Warning:** these rows were trained in different arithmetic ({listed}). Differences between rows may come "
        "from the arithmetic."
    ]


def on_published_weights(measured: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> str:
    """Return a remark about the publisher of a row's weights; "" if the row was trained here.

    Args:
        measured: see `TableRow`.
        reported: publisher → AP in percent on val2017 that the publisher reports for the row.
    """
    for metrics in measured:
        if metrics["provenance"]["seed"] == "released":
            facts = metrics["provenance"].get("training")
            publisher, file = _stated(facts, "publisher"), _stated(facts, "file")
            if publisher == "authors":
                return "weights of the authors"
            if publisher == "mmdetection":
                ap = reported.get(publisher)
                return "weights of MMDetection" + (f", which reports AP {ap}" if ap is not None else "")
            return f"weights of the file {file}" if file else "published weights"
    return ""


def on_start(measured: Sequence[Mapping[str, Any]], experiment: Experiment) -> str:
    """Return a remark about the trained detector from which a row's trainings start; "" if there is none.

    Args:
        measured: see `TableRow`.
    """
    if experiment.init is None:
        return ""
    files = {_stated(metrics, "provenance", "training", "pretrained", "file") for metrics in measured} - {None}
    named = f" {', '.join(sorted(files))}" if files else ""
    return f"starts from the trained detector{named} (SHA-256 {experiment.init.sha256}…)"


def _trainings(row: TableRow) -> Iterator[Any]:
    """Facts about each training of a row, without published weights, which were trained elsewhere."""
    return (m["provenance"].get("training") for m in row.measured if m["provenance"]["seed"] != "released")


def _arithmetic(facts: Any) -> dict[str, str]:
    """Settings of the arithmetic of a training, as readers see them; see ``workbench.support.arithmetic``."""
    back_end = _stated(facts, "arithmetic", "deformable_back_end")
    settings = {
        "precision": _precision(facts),
        "deformable convolution": back_end,
        "torch": _stated(facts, "versions", "torch"),
        "mmcv": _stated(facts, "versions", "mmcv") if back_end == "mmcv" else None,
    }
    return {name: value for name, value in settings.items() if isinstance(value, str)}


def _precision(facts: Any) -> str | None:
    """Precision of a training. TF32 is named if its switches differ from the switches of this precision."""
    precision = _stated(facts, "arithmetic", "precision")
    libraries = {"matmul": "matrix products", "cudnn": "convolutions"}
    on = [text for key, text in libraries.items() if _stated(facts, "arithmetic", key, "allow_tf32") is True]
    usual = list(libraries.values()) if precision == "tf32" else []
    if not isinstance(precision, str) or on == usual:
        return precision
    return f"{precision} with TF32 in {' and '.join(on) or 'nothing'}"


def _stated(facts: Any, *path: str) -> Any:
    """Value at a path of keys; None if a result does not state it."""
    for key in path:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def _listed(rows_of: dict[str, list[str]]) -> str:
    """Values of a setting with their rows. The rows of the most frequent value are not listed if they are many."""
    frequent = max(rows_of, key=lambda value: len(rows_of[value]))
    others = {row for value, rows in rows_of.items() if value != frequent for row in rows}
    texts = []
    for value, rows in rows_of.items():
        names = ", ".join(map(code, rows))
        if value == frequent and len(rows) > 3:
            both = [code(row) for row in rows if row in others]
            names = ", ".join([*both, "all others"])
        texts.append(f"{code(value)} in {names}")
    return ", ".join(texts)
