"""Registration: the studies that were fixed before their trainings, in ``preregistration.yaml`` of the paper.

A study is a scale, its tables, seeds and claims, and digests of the code and settings that it is run with. The claims
are copies, so that a later edit of ``claims.yaml`` changes no claim that was registered. ``workbench registration``
prints a study from the present state.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from workbench.settings.base import Settings
from workbench.settings.catalog import Row
from workbench.settings.claims import Claim, Stated, claims_digest, read_claims
from workbench.settings.digest import VAL
from workbench.settings.files import Catalogue, catalogue
from workbench.support.strict_yaml import Place, choose, validated

FILE = "preregistration.yaml"
"""File in the folder of the paper whose tables have short names."""
Seed = Annotated[int, Field(ge=0, le=999_999_999)]
"""Number of a seed."""


class Code(Settings):
    """Digests of the code that decides the numbers of a row, see `workbench.support.code_digest`."""

    training: str = Field(min_length=1)
    evaluation: str = Field(min_length=1)
    """Digest that also covers detection and metrics."""


class RegisteredRow(Settings):
    """Run and variant of a row, its code, and the weights with which its backbone starts."""

    run: str = Field(min_length=1)
    variant: str = Field(min_length=1)
    code: Code
    pretrained: str | None = Field(None, min_length=1)
    """SHA-256 of the pretrained weights, 16 hex digits; None for random weights, and for weights outside the checkout.

    Pretraining on another processor gives other weights, although the run is the same."""


class RegisteredClaim(Claim):
    """Copy of a claim, with its table and the published effect of each pair in points."""

    table: str
    published: tuple[float, ...] = Field((), strict=False)

    @model_validator(mode="after")
    def _one_effect_per_pair(self) -> RegisteredClaim:
        if self.published and len(self.published) != len(self.pairs):
            raise ValueError(f"published: {len(self.published)} effects of {len(self.pairs)} pairs; list one per pair")
        return self


class Pilot(Settings):
    """Trainings of two rows of a study before its registration, in other worlds, with the registered run and code.

    Attributes:
        seeds: seeds of the trainings of both rows.
        spread: standard deviation of the difference of AP within worlds, in points.
    """

    rows: tuple[str, str] = Field(strict=False)
    seeds: tuple[Seed, ...] = Field(strict=False, min_length=2)
    spread: float = Field(ge=0)


@dataclass(frozen=True)
class Planned:
    """Trainings of a pilot: rows of the present settings and code, and seeds. A `Study` has the same attributes."""

    rows: dict[str, RegisteredRow]
    seeds: tuple[int, ...]
    status: ClassVar[str] = "planned"


class Study(Settings):
    """Registered study at one scale.

    Attributes:
        seeds: seeds of the trainings of each run.
        mde_factor: smallest detectable effect of a claim, as a multiple of the spread of the differences of single
            seeds, at the first of Holm's steps of the largest family. The noise of fixed test images is not in it.
        pilot: trainings before the registration that gave a first spread; None if there were none.
        scale: digest of the scale's settings, see `scale_digest`.
        split: digest of the evaluated split; None if worlds are drawn.
        rows: rows of the tables, and rows of other tables that their claims compare.
    """

    tables: tuple[str, ...] = Field(strict=False, min_length=1)
    seeds: tuple[Seed, ...] = Field(strict=False, min_length=2)
    mde_factor: float = Field(gt=0)
    pilot: Pilot | None = None
    scale: str = Field(min_length=1)
    split: str | None = Field(None, min_length=1)
    rows: dict[str, RegisteredRow] = Field(min_length=1)
    claims: dict[str, RegisteredClaim] = Field(min_length=1)
    status: ClassVar[str] = "registered"

    @field_validator("seeds")
    @classmethod
    def _unique(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is listed twice; list each seed once")
        return seeds

    @model_validator(mode="after")
    def _new_worlds(self) -> Study:
        if self.pilot and not {*self.seeds}.isdisjoint(self.pilot.seeds):
            raise ValueError("seeds: a seed of the pilot is listed; register seeds that were not trained before")
        return self

    @property
    def runs(self) -> dict[str, str]:
        """Row → folder name of its run."""
        return {id_: row.run for id_, row in self.rows.items()}

    def claims_of(self, tables: Iterable[str]) -> list[Stated[Claim]]:
        """Registered claims of some tables."""
        tables = set(tables)
        claims = ((name, claim) for name, claim in self.claims.items() if claim.table in tables)
        return [Stated(name, claim.table, claim, claim.published) for name, claim in claims]


class Deviation(Settings):
    """Deviation from the registration that is known to the authors."""

    date: str
    text: str = Field(min_length=1)

    @field_validator("date")
    @classmethod
    def _is_date(cls, date: str) -> str:
        return _checked_date(date)


class Registration(Settings):
    """Content of ``preregistration.yaml``.

    Attributes:
        date: day of the registration, such as ``"2026-11-27"``.
        studies: name of a scale → the study at this scale.
        notes: sentences for readers.
    """

    date: str
    studies: dict[str, Study] = Field(min_length=1)
    notes: tuple[str, ...] = Field((), strict=False)
    deviations: tuple[Deviation, ...] = Field((), strict=False)

    @field_validator("date")
    @classmethod
    def _is_date(cls, date: str) -> str:
        return _checked_date(date)


def read_registration() -> Registration | None:
    """Return the registration, or None if there is no file.

    Raises:
        WorkbenchError: a mistake in the file, or an unknown scale, table, row or claim. The message names the place.
    """
    return _of_catalogue(catalogue())


def registered_study(scale: str) -> Study | None:
    """Return the registered study of a scale; None if there is none. Errors are those of `read_registration`."""
    registration = read_registration()
    return registration.studies.get(scale) if registration else None


def scale_digest(scale: str) -> str:
    """Digest of the settings of a scale, laid over the scales that it extends: ``sha256:`` and 16 hex digits."""
    content = catalogue().scale(scale).layers.content
    return f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]}"


def split_digest(row: Row) -> str | None:
    """Digest of the split on disk on which a row is evaluated: ``val2017:`` and 8 hex digits; None without a split."""
    return f"{VAL}:{row.on_disk.short}" if row.on_disk else None


def judged_digest(table: str, scale: str) -> str:
    """Digest of all that decides the verdicts of a table, apart from measurements: its claims, and the registration."""
    digest, registration = claims_digest(table), read_registration()
    if registration is None or scale not in registration.studies:
        return digest  # the digest of claims alone, so that a registration of other scales makes no page again
    return hashlib.sha256(f"{digest} {registration.model_dump_json()}".encode()).hexdigest()[:16]


def changes(registered: Study, present: Study) -> list[str]:
    """Return the differences of a study's settings and code, in words. Claims are left out, see `changed_claims`."""
    values = {"scale": (registered.scale, present.scale), "split": (registered.split, present.split)}
    for id_, row in registered.rows.items():
        now = present.rows.get(id_)
        for key in ("run", "variant", "code", "pretrained"):
            values[f"{id_}.{key}"] = getattr(row, key), now and getattr(now, key)
    return [_change(key, old, new) for key, (old, new) in values.items() if old != new]


def changed_claims(study: Study, tables: Iterable[str]) -> list[str]:
    """Return the differences between the registered claims of some tables and ``claims.yaml``, in words."""
    tables = set(tables)
    present = {claim.name: claim for claim in read_claims()}
    texts = []
    for claim in study.claims_of(tables):
        now = present[claim.name]
        old, new = ({"table": c.table, "published": c.published} | _limits(c.content) for c in (claim, now))
        texts += [_change(f"{claim.name}.{key}", old[key], new[key]) for key in old if old[key] != new[key]]
    added = [c.name for c in present.values() if c.table in tables & {*study.tables} and c.name not in study.claims]
    return texts + [f"{name}: claim was added after the registration, and is not judged" for name in added]


def _limits(claim: Claim) -> dict[str, Any]:
    return {key: getattr(claim, key) for key in Claim.model_fields}


def _change(key: str, old: object, new: object) -> str:
    return f"{key}: registered as {_shown(old)}, now {_shown(new)}"


def _shown(value: object) -> str:
    if isinstance(value, Code):
        return f"{value.training} (training), {value.evaluation} (evaluation)"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None or value == {} else f"{value}"


@cache
def _of_catalogue(catalogue: Catalogue) -> Registration | None:
    paper = next(iter(catalogue.papers))
    if not (catalogue.folder / paper / FILE).is_file():
        return None
    content, place = catalogue.read(paper, FILE)
    registration = validated(Registration, content, place)
    for scale, study in registration.studies.items():
        choose(scale, catalogue.scale_names, "scale", place.at("studies"))
        _check_names(study, catalogue, place.at("studies", scale))
    return registration


def _check_names(study: Study, catalogue: Catalogue, place: Place) -> None:
    """Raise unless all tables, rows and claims of a study exist, and its claims are about its tables and rows."""
    tables, claims = catalogue.tables, [claim.name for claim in read_claims()]
    runnable = [id_ for id_, table in catalogue.rows.items() if tables[table].spec.rows[id_].base]
    for table in study.tables:
        choose(table, tables, "table", place.at("tables"))
    for id_ in study.rows:
        choose(id_, runnable, "row", place.at("rows"))
    for id_ in study.pilot.rows if study.pilot else ():
        choose(id_, study.rows, "row of this study", place.at("pilot", "rows"))
    for name, claim in study.claims.items():
        choose(name, claims, "claim", place.at("claims"))
        choose(claim.table, study.tables, "table of this study", place.at("claims", name, "table"))
        for key, ids in zip(("row", "than"), zip(*claim.pairs, strict=True), strict=True):
            for id_ in ids:
                choose(id_, study.rows, "row of this study", place.at("claims", name, key))


def _checked_date(text: str) -> str:
    try:
        if datetime.date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise ValueError('not a date; write one such as "2026-11-27"')
