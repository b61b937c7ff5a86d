"""State of a page of claims: the confirmation of a registered study, its interim state, or a user's own trainings.

The content of the results decides. A page is of the registered study if each evaluation behind it has a registered run,
variant and seed, the registered images, and was made by the registered code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from workbench.report.claims.judge import Measurements
from workbench.report.measured import Seed
from workbench.settings.claims import RANK_CORRELATION, ClaimedMetric, Comparison, read_claims, read_observations
from workbench.settings.files import catalogue
from workbench.settings.registration import Registration, Study, changed_claims, read_registration, split_digest

Used = dict[str, set[ClaimedMetric]]
"""Row → metrics by which it is compared."""


@dataclass(frozen=True)
class State:
    """State of a page.

    Attributes:
        kind: "confirmation", "interim" or "own".
        trainings: number of trainings behind the page.
        study: registered study whose claims the page judges; None for own trainings.
        date: day of the registration.
        unit: "worlds" or "seeds".
        complete: number of seeds of which every registered training exists.
        registered: number of registered trainings of the tables of the page.
        missing: row → number of its registered trainings that do not exist.
        foreign: reason why an evaluation is not a registered one → number of evaluations.
        deviations: deviations from the registration, in words.
    """

    kind: Literal["confirmation", "interim", "own"]
    trainings: int
    study: Study | None = None
    date: str = ""
    unit: str = "seeds"
    complete: int = 0
    registered: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)
    foreign: Mapping[str, int] = field(default_factory=dict)
    deviations: Sequence[str] = ()

    @property
    def heading(self) -> str:
        """State in the title of the page."""
        if self.kind == "confirmation":
            return "confirmation"
        if self.study:
            return f"interim, {self.complete} of {len(self.study.seeds)} registered {self.unit}"
        return f"your {_number(self.trainings, 'training')}" if self.trainings else "no trainings yet"

    @property
    def explanation(self) -> str:
        """Paragraph below the title; empty if no study is registered."""
        if self.kind == "confirmation":
            return f"Confirmation: all {self.registered} trainings that were registered on {self.date} are evaluated."
        if self.study:
            rows = ", ".join(f"`{row}` {number}" for row, number in self.missing.items())
            missing = sum(self.missing.values())
            return (
                f"Interim: {missing} of {self.registered} trainings that were registered on {self.date} are missing "
                f"({rows}). Nothing is confirmed before all of them are evaluated."
            )
        if not self.foreign:
            return ""
        reasons = ", ".join(f"{_number(number, 'evaluation')} {reason}" for reason, number in self.foreign.items())
        return f"These are not the trainings of the registered study ({reasons}). The same rules apply."

    def counts(self, name: str) -> bool:
        """Whether a claim belongs to the study; without a study, every claim does."""
        return self.study is None or name in self.study.claims

    def of_claim(self, name: str) -> str:
        """State of one claim or observation, for the CSV."""
        return self.kind if self.counts(name) else "not registered"


def page_state(tables: Sequence[str], measured: Measurements) -> State:
    """Return the state of a page with the claims and observations of some tables."""
    registration, settings = read_registration(), measured.settings
    study = registration.studies.get(settings.scale) if registration and not settings.rehearsal else None
    own = [e.content for e in (*read_claims(), *read_observations()) if e.table in tables]
    registered = [claim.content for claim in study.claims_of(tables)] if study else []
    used = _used([*own, *registered])
    on_disk = {id_: _seeds(id_, metrics, measured) for id_, metrics in used.items()}
    trainings = len({(measured.row(id_).run, seed) for id_, seeds in on_disk.items() for seed in seeds})
    if study is None or not registered:
        return State("own", trainings)
    reasons: dict[tuple, str | None] = {}  # rows with the same run and variant share their evaluations
    for id_, seeds in on_disk.items():
        for seed in seeds:
            key = measured.row(id_).run, measured.row(id_).variant_id, seed
            reasons[key] = reasons.get(key) or _foreign(id_, seed, used[id_], measured, study)
    if foreign := Counter(filter(None, reasons.values())):
        return State("own", trainings, foreign=foreign)
    return registered_state(tables, registration, measured)


def registered_state(tables: Sequence[str], registration: Registration, measured: Measurements) -> State:
    """Return the state of a page whose evaluations all belong to the registered study of the scale."""
    study = registration.studies[measured.settings.scale]
    used = _used(claim.content for claim in study.claims_of(tables))
    for id_ in study.rows:
        if catalogue().rows[id_] in tables:
            used.setdefault(id_, set()).add("AP")
    of_runs: dict[str, list[str]] = {}
    for id_ in filter(used.get, study.rows):  # in the order of the registration
        of_runs.setdefault(study.runs[id_], []).append(id_)
    absent = {ids[0]: _absent(ids, used, measured, study) for ids in of_runs.values()}
    missing = {row: len(seeds) for row, seeds in absent.items() if seeds}
    registered = len(of_runs) * len(study.seeds)
    stated = [f"{deviation.date}: {deviation.text}" for deviation in registration.deviations]
    return State(
        kind="interim" if missing else "confirmation",
        trainings=registered - sum(missing.values()),
        study=study,
        date=registration.date,
        unit="worlds" if measured.row(next(iter(used))).experiment.data.per_seed else "seeds",
        complete=len(set(study.seeds).difference(*absent.values())),
        registered=registered,
        missing=missing,
        deviations=[*stated, *changed_claims(study, tables)],
    )


def _used(comparisons: Iterable[Comparison]) -> Used:
    used: Used = {}
    for comparison in comparisons:
        for id_ in (id_ for pair in comparison.pairs for id_ in pair):
            used.setdefault(id_, set()).add(comparison.metric)
    return used


def _seeds(id_: str, metrics: Iterable[ClaimedMetric], measured: Measurements) -> set[Seed]:
    """Seeds with a measurement of any of the metrics."""
    return set().union(*(measured.seeds(id_, metric) for metric in metrics))


def _absent(ids: Sequence[str], used: Used, measured: Measurements, study: Study) -> set[int]:
    """Registered seeds of a run of which some row lacks its metrics or another measurement."""
    measurements = [measured.seeds(id_, metric) for id_ in ids for metric in used[id_]]
    measurements += [set(measured.provenance(id_)) for id_ in ids]
    return set(study.seeds) - set.intersection(*measurements)


def _foreign(
    id_: str, seed: Seed, metrics: Iterable[ClaimedMetric], measured: Measurements, study: Study
) -> str | None:
    """Reason why the evaluation of a training, as far as the metrics need it, is not a registered one."""
    row, provenance = measured.row(id_), measured.provenance(id_).get(seed)
    # A row of another table may share the evaluation of a registered row.
    registered = [r for r in study.rows.values() if (r.run, r.variant) == (row.run, row.variant_id)]
    if not registered or split_digest(row) != study.split:
        return "of other settings or data"
    if seed not in study.seeds:
        return "of other seeds"
    if provenance is None:  # not evaluated yet, and therefore missing
        return None
    steps = ["evaluation", "ranking"] if RANK_CORRELATION in metrics and "ranking" in provenance else ["evaluation"]
    stated = [(provenance["code_digest"], _digest(provenance, step)) for step in steps]
    code = registered[0].code
    return None if set(stated) == {(code.training, code.evaluation)} else "of other code"


def _digest(provenance: dict[str, Any], step: str) -> str | None:
    """Digest of the code of a step; None for a result of an earlier version, which states none."""
    facts = provenance.get(step)
    digest = facts.get("code_digest") if isinstance(facts, dict) else None
    return digest if isinstance(digest, str) else None


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
