"""Made-up evaluations on disk, and made-up judgements, for tests of claims."""

import json

import numpy as np

from workbench.commands.registration import present_study, study_text
from workbench.evaluation.coco_metrics import METRICS, STRICT_METRICS
from workbench.evaluation.effects import effect_over_worlds
from workbench.evaluation.intervals import Bootstrap, write_bootstrap
from workbench.report.claims.judge import judge_family
from workbench.report.measured import SPEARMAN
from workbench.runs.find import on_test
from workbench.runs.results import kept_weights_digest, scale_folder
from workbench.settings import files
from workbench.settings.catalog import find_row
from workbench.settings.claims import read_claims
from workbench.settings.registration import FILE, Study
from workbench.support.code_digest import EVALUATION, code_digest
from workbench.support.files import write_json_atomically

CODE, COMMIT = "shared:12345678", "0123456789abcdef0123456789abcdef01234567"


def study(*rows, scale="mini", data_root=None, seeds=(0, 1, 2), **content):
    """Registered study of Table 3 with some rows of it, whose code has the digest of made-up evaluations."""
    of_rows = {}
    for id_ in rows:
        row = find_row(id_, scale, data_root)
        of_rows[id_] = {"run": row.run, "variant": row.variant_id, "code": {"training": CODE, "evaluation": CODE}}
    copies = {
        claim.name: {"table": claim.table, "published": claim.published, **claim.content.model_dump()}
        for claim in read_claims()
        if claim.table == "table3" and {id_ for pair in claim.content.pairs for id_ in pair} <= {*rows}
    }
    values = {"tables": ("table3",), "seeds": seeds, "mde_factor": 1.4, "scale": "any", "rows": of_rows}
    return Study.model_validate(values | {"claims": copies} | content)


def evaluate(results, scale="mini", data_root=None, first_seed=0, *, by_present_code=False, split="val", **rows):
    """Write evaluations of rows, an AP for each seed. AP80 is half and AP90 a tenth of AP; so is Spearman's."""
    for id_, aps in rows.items():
        row, folder = find_row(id_, scale, data_root), scale_folder(results, scale)
        (row,) = on_test([row], data_root) if split == "test" else [row]
        for seed, ap in enumerate(aps, first_seed):
            evaluation, ranking = folder.evaluation(row, seed), folder.ranking(row, seed)
            evaluation.folder.mkdir(parents=True, exist_ok=True)
            belongs = {"of": evaluation.identity(), "split": row.split(seed).facts()}
            samples = ap + 0.001 * np.random.default_rng(0).standard_normal(200)
            world = row.experiment.data.world_of(seed) if row.experiment.data.per_seed else 0
            write_bootstrap(evaluation.bootstrap, Bootstrap(ap, samples, 100, f"world {world}"), belongs)
            values = dict.fromkeys((*METRICS, *STRICT_METRICS), ap) | {"AP80": ap / 2, "AP90": ap / 10}
            made_by = {"seed": seed, "code_digest": CODE, "evaluation": {"code_digest": CODE}}
            if by_present_code:
                made_by["code_digest"] = code_digest(row.experiment)
                made_by["evaluation"] = {"code_digest": code_digest(row.experiment, EVALUATION)}
            weights = {"file": "backbone.safetensors", "sha256": kept_weights_digest(row.experiment)}
            made_by["training"] = {"seconds": 240.5, "git_commit": COMMIT, "pretrained": weights}
            write_json_atomically(evaluation.metrics, belongs | values | {"per_class": {}, "provenance": made_by})
            ranking.folder.mkdir(parents=True, exist_ok=True)
            facts = {"of": ranking.identity(), SPEARMAN: ap / 10, "locations": 9, **made_by["evaluation"]}
            write_json_atomically(ranking.ranking_facts, facts)


def register(experiments, *tables, seeds, scale="mini", data_root=None, deviations=(), **edited):
    """Write a registration of the present study of some tables, with edited attributes, and return the study."""
    study = present_study(tables, scale, seeds, data_root).model_copy(update=edited)
    head = f'date: "2026-11-27"\ndeviations: {json.dumps(list(deviations))}\nstudies:\n'
    (experiments / "vfnet" / FILE).write_text(head + study_text(scale, study))
    files.forget()
    return study


def claims(*names):
    """Claims by name, in this order."""
    every = {claim.name: claim for claim in read_claims()}
    return [every[name] for name in names]


def judged(scale="mini", **differences):
    """Judge claims as one family: name → differences within worlds in points, one list per pair; None if not run."""
    effects = {
        name: () if pairs is None else tuple(effect_over_worlds(pair) for pair in pairs)
        for name, pairs in differences.items()
    }
    return judge_family(claims(*differences), effects, scale)
