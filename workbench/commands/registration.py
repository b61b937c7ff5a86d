"""Registration of a study from the present state: ``workbench registration``, a text for ``preregistration.yaml``."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from workbench.commands.plan_claims import Noise
from workbench.evaluation.hypotheses import smallest_detectable
from workbench.report.evidence.lines import pilot_file, read_lines
from workbench.report.evidence.pilot import measured_pilot, pilot_keys, pilot_lines
from workbench.runs.results import kept_weights_digest
from workbench.settings.catalog import Row, load_table
from workbench.settings.claims import Claim, Stated, families, read_claims
from workbench.settings.files import catalogue, read_table
from workbench.settings.registration import Code, RegisteredClaim, RegisteredRow, Study, scale_digest, split_digest
from workbench.support.code_digest import EVALUATION, code_digest
from workbench.support.errors import WorkbenchError


class _Dumper(yaml.SafeDumper):
    """Dumper that writes groups over several lines, and each list on one line."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)


def study_text(scale: str, study: Study) -> str:
    """Return a study as YAML, indented as below ``studies:`` of ``preregistration.yaml``."""
    content = json.loads(study.model_dump_json(exclude_none=True))
    for name, claim in content["claims"].items():
        claim = {"table": claim["table"], **claim}
        content["claims"][name] = {key: value for key, value in claim.items() if value not in ({}, [])}
    style = {"sort_keys": False, "default_flow_style": False, "width": math.inf, "allow_unicode": True}
    return textwrap.indent(yaml.dump({scale: content}, Dumper=_Dumper, **style), "  ")


def present_study(tables: Sequence[str], scale: str, seeds: Iterable[int], data_root: Path | None = None) -> Study:
    """Return the study of some tables as the present settings, claims and code would run it.

    Args:
        seeds: seeds of the trainings of each run, at least two.
        data_root: data set in COCO's format. Without it, the runs of a scale that draws no data are provisional.

    Raises:
        WorkbenchError: an unknown table, or tables without a claim.
    """
    for table in tables:
        read_table(table)
    claims = [claim for claim in read_claims() if claim.table in tables]
    if not claims:
        raise WorkbenchError(f"{', '.join(tables)}: no claims to register; name a table with claims")
    compared = dict.fromkeys(id_ for claim in claims for pair in claim.content.pairs for id_ in pair)
    of_tables = dict.fromkeys((*tables, *(catalogue().rows[id_] for id_ in compared)))
    rows = [row for table in of_tables for row in load_table(table, scale, data_root)[1]]
    rows = [row for row in rows if row.table in tables or row.id in compared]
    seeds = tuple(seeds)
    return Study(
        tables=tuple(tables),
        seeds=seeds,
        mde_factor=round(_mde_factor(claims, len(seeds), rows[0].experiment.data.per_seed), 2),
        scale=scale_digest(scale),
        split=split_digest(rows[0]),
        rows={row.id: registered_row(row) for row in rows},
        claims={claim.name: _copy(claim) for claim in claims},
    )


def with_pilot(study: Study, scale: str, results: Path) -> Study:
    """Return a study with the listed pilot of its scale; without one of other rows, settings or code."""
    file = pilot_file(results)
    pilot = measured_pilot(pilot_lines(file, scale))
    if pilot is None:
        return study
    if {*pilot.rows} <= study.rows.keys() and pilot_keys(pilot, study.rows, scale) <= read_lines(file).keys():
        return study.model_copy(update={"pilot": pilot})
    print(f"{file}: the pilot has other rows, settings or code than the study, and is left out", file=sys.stderr)
    return study


def registered_row(row: Row) -> RegisteredRow:
    """Return the run, the variant, the present code and the pretrained weights of a row."""
    training, evaluation = code_digest(row.experiment), code_digest(row.experiment, EVALUATION)
    return RegisteredRow(
        run=row.run,
        variant=row.variant_id,
        code=Code(training=training, evaluation=evaluation),
        pretrained=kept_weights_digest(row.experiment),
    )


def _copy(claim: Stated[Claim]) -> RegisteredClaim:
    return RegisteredClaim(table=claim.table, published=claim.published, **claim.content.model_dump())


def _mde_factor(claims: Sequence[Stated[Claim]], seeds: int, drawn_worlds: bool) -> float:
    """Smallest detectable effect of a claim of the largest family, if differences of single seeds have a spread of 1.

    On fixed test images, both rows of a difference are assumed to have equal spreads.
    """
    noise = Noise((1.0,) if drawn_worlds else (0.5, 0.5)).of(seeds)
    sizes = [sum(claim.content.kind != "placebo" for claim in family) for family in families(claims)]
    return smallest_detectable(noise, max(*sizes, 1))
