"""Claims in words: headings, expected effects and verdicts, for tables and figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from workbench.evaluation.effects import Effect
from workbench.report.claims.judge import UNTESTED, Judgement
from workbench.report.claims.state import State
from workbench.settings.claims import Claim, Comparison
from workbench.settings.files import read_table

AS_STATED, AGAINST, OPEN, NOTHING = "✓", "✗", "?", "·"
"""Symbols of verdicts, so that a black-and-white print is readable: the claim is supported, its opposite is supported,
neither is, or the claim was not tested."""
COLOURS = {AS_STATED: "#CBE8DC", AGAINST: "#F7D3BF", OPEN: "#ECECEC"}
"""Colour behind a verdict: pale tints of Okabe and Ito's green and vermilion, and grey."""
_SYMBOLS = {"opposite": AGAINST, "significant": AGAINST, "inconclusive": OPEN} | dict.fromkeys(UNTESTED, NOTHING)


def symbol(word: str) -> str:
    """Symbol of a verdict."""
    return _SYMBOLS.get(word, AS_STATED)


def is_tested(judgement: Judgement) -> bool:
    """Whether a claim was tested, so that it has a verdict about the statement."""
    return judgement.word not in UNTESTED


def statement(judgement: Judgement) -> str:
    """Statement of a claim, followed by its metric unless it is AP."""
    content = judgement.claim.content
    return f"{content.statement}{metric_in_words(content)}"


def metric_in_words(content: Comparison) -> str:
    """Metric of a comparison in brackets; nothing for AP."""
    if content.metric == "AP":
        return ""
    return " (Spearman's correlation ×100)" if content.metric == "Spearman" else f" ({content.metric})"


def expected(claim: Claim) -> str:
    """Effects for which a claim is true."""
    match claim.kind:
        case "equivalent":
            return f"within ±{claim.margin:g}"
        case "at most":
            return f"below {claim.bound:g}"
        case "placebo":
            return "0"
    return "above 0"


def heading(judgement: Judgement) -> str:
    """Heading of the family of a claim: title of its table."""
    title = read_table(judgement.claim.table).title
    return f"{title.partition(':')[0]}: ranking of boxes" if judgement.claim.content.ranks else title


def by_family(judgements: Sequence[Judgement]) -> Mapping[str, list[Judgement]]:
    """Heading of each family → its claims."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        groups.setdefault(heading(judgement), []).append(judgement)
    return groups


def summary(judgements: Sequence[Judgement], state: State) -> str:
    """Sentences that count the verdicts on the statements of the papers, and on the controls.

    On the page of a registered study, only registered claims are counted.
    """
    counted = [j for j in judgements if state.counts(j.claim.name)]
    controls = [j.word for j in counted if j.claim.content.is_control]
    stated = [j.word for j in counted if not j.claim.content.is_control]
    kind, named = ("registered ", "Registered controls") if state.study else ("", "Controls")
    claims = f"{len(stated)} {kind}claim{'' if len(stated) == 1 else 's'} of the papers"
    parts = [f"{claims}: {_counted(stated)}."] if stated else []
    return " ".join(parts + ([f"{named}: {_counted(controls)}."] if controls else []))


def _counted(words: Sequence[str]) -> str:
    marks, sizes = Counter(map(symbol, words)), words.count("same direction, size agrees")
    supported = f"{marks[AS_STATED]} supported" + (f" (size agrees: {sizes})" if sizes else "")
    counted = [supported, f"{marks[AGAINST]} opposite", f"{marks[OPEN]} inconclusive"]
    return ", ".join([*counted, *(f"{words.count(word)} {word}" for word in UNTESTED if word in words)])


def signed(value: float | None) -> str:
    """Number with its sign and one decimal, or a dash."""
    return "–" if value is None or math.isnan(value) else f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def interval(effect: Effect | None) -> str:
    """95 % interval of an effect, or a dash."""
    return "–" if effect is None or math.isnan(effect.low) else f"[{signed(effect.low)}, {signed(effect.high)}]"
