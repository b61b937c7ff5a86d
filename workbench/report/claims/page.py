"""Page of claims: verdicts grouped by family, observations apart, and what was not run in one line.

The CSV has all numbers. Markdown and HTML are for readers.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from workbench.evaluation.effects import Effect
from workbench.report.claims.judge import Judgement, Observed
from workbench.report.claims.state import State
from workbench.report.claims.words import (
    COLOURS,
    by_family,
    expected,
    interval,
    is_tested,
    metric_in_words,
    signed,
    statement,
    summary,
    symbol,
)
from workbench.report.page import TableView, markdown_table, sectioned_page
from workbench.report.text import csv_text, markdown
from workbench.settings.claims import Comparison

HEADINGS = ("statement", "source", "expected", "published", "measured", "95 % interval", "seeds", "p", "MDE", "verdict")
ALIGNMENT = ("left", "left", "left", "right", "right", "centre", "right", "right", "right", "left")
EXPLANATION = (
    "Effects are differences of AP, ×100, of a row minus another row; where several rows are compared, the effect that "
    "fits the statement least. The statement is true if the effect is as *expected*.",
    "p is adjusted by Holm's method for all claims of a table, and compared with 0.05. The 95 % interval is not "
    "adjusted. MDE is the smallest effect that these seeds would show in 80 % of studies; of a claim of likeness, the "
    "smallest margin.",
)
COLUMNS = (
    *("claim", "table", "statement", "source", "kind", "row", "than", "metric", "expected"),
    *("published", "effect", "low", "high", "seeds", "p", "mde", "verdict", "state"),
)
OBSERVATION = "observation"
"""Kind of an observation in the CSV, where claims have theirs."""


def claims_markdown(title: str, judgements: Sequence[Judgement], observed: Sequence[Observed], state: State) -> str:
    """Return the page in Markdown."""
    parts = [f"## {title}", *_lead(judgements, state)]
    for heading, view in _sections(judgements, observed, state).items():
        parts += [f"### {markdown(heading)}", markdown_table(view)]
    parts += [*_deviations(state), *EXPLANATION]
    for line, group in _left_out(judgements).items():
        parts.append(f"{line}: {', '.join(f'`{j.claim.name}`' for j in group)}.")
    return "\n\n".join(parts) + "\n"


def claims_html(title: str, judgements: Sequence[Judgement], observed: Sequence[Observed], state: State) -> str:
    """Return the page in HTML: verdicts have colours, and claims that were not run are folded into one line."""
    sections = _sections(judgements, observed, state)
    folded = {line: _folded(group) for line, group in _left_out(judgements).items()}
    notes = [*_deviations(state), *EXPLANATION]
    return sectioned_page(title, _lead(judgements, state), sections, notes, folded)


def claims_csv(judgements: Sequence[Judgement], observed: Sequence[Observed], state: State) -> str:
    """Return the CSV: one line per claim and per observation, with no empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for j in judgements:
        content, verdict = j.claim.content, j.verdict
        named = [j.claim.name, j.claim.table, content.statement, content.source or "control", content.kind]
        numbers = [_number(verdict.published, 1), *_effect(verdict.effect), j.seeds]
        judged = [_number(verdict.p, 4), _number(verdict.detectable, 2), j.word, state.of_claim(j.claim.name)]
        writer.writerow([*map(csv_text, named), *_compared(content), csv_text(expected(content)), *numbers, *judged])
    for o in observed:
        content = o.observation.content
        named = [o.observation.name, o.observation.table, content.comparison, "-", OBSERVATION]
        numbers = [_number(min(o.observation.published, default=None), 1), *_effect(o.effect), o.seeds]
        writer.writerow(
            [*map(csv_text, named), *_compared(content), "-", *numbers, "-", "-", "-", state.of_claim(named[0])]
        )
    return text.getvalue()


def _lead(judgements: Sequence[Judgement], state: State) -> list[str]:
    """Paragraphs above the tables: number of claims with each verdict, and the state of the page."""
    return [text for text in (summary(judgements, state), state.explanation) if text]


def _sections(judgements: Sequence[Judgement], observed: Sequence[Observed], state: State) -> dict[str, TableView]:
    """Heading → table of a family of claims that were run, or of the observations."""
    shown = [j for j in judgements if is_tested(j) or j.word == "one seed"]
    sections = {}
    for heading, group in by_family(shown).items():
        is_counted = state.counts(group[0].claim.name)
        sections[heading if is_counted else f"{heading} (not registered)"] = _view(group)
    if measured := [o for o in observed if o.effect]:
        sections["Observations: comparisons that no paper states"] = _observed(measured)
    return sections


def _deviations(state: State) -> list[str]:
    """Paragraph that lists the deviations from the registration."""
    if not state.study:
        return []
    listed = "\n".join(f"- {markdown(text)}" for text in state.deviations)
    return [f"Deviations from the registration:\n\n{listed}" if listed else "No deviations from the registration."]


def _view(judgements: Sequence[Judgement]) -> TableView:
    lines, colours = [], {}
    for number, j in enumerate(judgements):
        verdict, mark = j.verdict, symbol(j.word)
        cells = [markdown(statement(j)), markdown(j.claim.content.source or "control"), expected(j.claim.content)]
        cells += [signed(verdict.published), signed(verdict.effect and verdict.effect.estimate)]
        cells += [interval(verdict.effect), str(j.seeds), _p(verdict.p), _unsigned(verdict.detectable)]
        lines.append([*cells, f"{mark} {j.word}"])
        if mark in COLOURS:
            colours[number] = COLOURS[mark]
    return TableView(HEADINGS, lines, ALIGNMENT, (), colours)


def _observed(observed: Sequence[Observed]) -> TableView:
    lines = []
    for o in observed:
        content = o.observation.content
        text = markdown(f"{content.comparison}{metric_in_words(content)}")
        published = signed(min(o.observation.published, default=None))
        lines.append([text, published, signed(o.effect.estimate), interval(o.effect), str(o.seeds)])
    headings = ("comparison", "published", "measured", "95 % interval", "seeds")
    return TableView(headings, lines, ("left", "right", "right", "centre", "right"), ())


def _folded(judgements: Sequence[Judgement]) -> TableView:
    lines = []
    for j in judgements:
        content = j.claim.content
        source = markdown(content.source or "control")
        reasons = markdown("; ".join(f"{scale}: {reason}" for scale, reason in content.testable.items()))
        lines.append([markdown(statement(j)), source, expected(content), signed(j.verdict.published), reasons])
    return TableView((*HEADINGS[:4], "not testable"), lines, (*ALIGNMENT[:4], "left"), ())


def _left_out(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """Line that describes claims without a measurement → these claims."""
    groups = {}
    for word, line in (("not run", "{} not run"), ("not testable here", "{} not testable at this scale")):
        if group := [j for j in judgements if j.word == word]:
            groups[line.format(f"{len(group)} claim{'s' if len(group) > 1 else ''}")] = group
    return groups


def _compared(content: Comparison) -> list[str]:
    rows, others = zip(*content.pairs, strict=True)
    return [" ".join(dict.fromkeys(rows)), " ".join(dict.fromkeys(others)), content.metric]


def _effect(effect: Effect | None) -> list[str]:
    values = (None,) * 3 if effect is None else (effect.estimate, effect.low, effect.high)
    return [_number(value, 2) for value in values]


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{round(value, decimals) + 0.0:.{decimals}f}"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _unsigned(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"
