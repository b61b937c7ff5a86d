"""Registration: its file, mistakes in it, and the freeze of what was registered until the evidence is complete."""

import csv
import re

import pytest

from tests.report.made_up import register
from tests.settings.mistakes import change, error_of
from workbench.commands.registration import present_study
from workbench.settings import files
from workbench.settings.catalog import load_table
from workbench.settings.claims import read_claims
from workbench.settings.files import read_scale
from workbench.settings.registration import (
    FILE,
    Code,
    changed_claims,
    changes,
    read_registration,
    registered_study,
    scale_digest,
)
from workbench.support.checkout import find_checkout

SEEDS = (1000, 1001)
TRAININGS = "results/reference/trainings.csv"


def unfinished(study, scale, lines):
    """Rows and seeds of a study without a line in ``trainings.csv`` that states the registered run and code."""
    done = {(line["row"], line["seed"], line["run"], line["code"]) for line in lines if line["scale"] == scale}
    return [
        (id_, seed)
        for id_, row in study.rows.items()
        for seed in study.seeds
        if (id_, str(seed), row.run, row.code.evaluation) not in done
    ]


def frozen(study, scale):
    """Changes of a registered study since its registration. Without a data set, the names of its runs are unknown."""
    present = present_study(study.tables, scale, study.seeds)
    if present.split is None and study.split is not None:
        rows = {i: r.model_copy(update={"run": study.runs[i]}) for i, r in present.rows.items() if i in study.rows}
        present = present.model_copy(update={"rows": rows, "split": study.split})
    return changes(study, present)


def test_what_was_registered_stays_until_its_evidence_is_complete():
    """The end of the freeze: ``trainings.csv`` has every training and variant, with the registered run and code."""
    registration = read_registration()
    if registration is None:
        pytest.skip(f"no {FILE}: nothing is registered")
    path = find_checkout() / TRAININGS
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    studies = {scale: study for scale, study in registration.studies.items() if unfinished(study, scale, lines)}
    if not studies:
        pytest.skip(f"{TRAININGS} has every registered training: code and settings are free again")
    assert {scale: frozen(study, scale) for scale, study in studies.items()} == {scale: [] for scale in studies}


def test_no_file_is_no_registration(unregistered):
    assert read_registration() is None


def test_a_study_is_read_as_it_was_printed(experiments):
    study = register(experiments, "table1", "table3", "controls", seeds=SEEDS)
    registration = read_registration()
    assert (registration.date, registration.studies) == ("2026-11-27", {"mini": study})
    assert registered_study("mini") == study
    assert registered_study("bccd") is None
    assert study.seeds == SEEDS
    assert study.runs["t1_gt_ctr"] == study.runs["t3_fcos_atss"]
    assert study.rows["t1_gt_ctr"].variant != study.rows["t3_fcos_atss"].variant
    assert set(study.rows) == {row.id for table in study.tables for row in load_table(table)[1]}
    assert {"embedded", "focal", "shared", "vfnet"} == {
        part.split(":")[0] for part in study.rows["t3_raw_fl"].code.evaluation.split()
    }
    registered = {claim.name: claim for claim in study.claims_of(["table1", "table3"])}
    for claim in read_claims():
        if claim.table in ("table1", "table3"):
            assert registered[claim.name].published == claim.published
    assert len(registered) == 15


def test_rows_of_other_tables_that_claims_compare_are_registered(experiments):
    study = register(experiments, "controls", seeds=SEEDS)
    assert set(study.rows) == {*(row.id for row in load_table("controls")[1]), "t3_star_vfl", "t3_fcos_atss"}


def test_nothing_has_changed_since_a_moment_ago(experiments):
    study = register(experiments, "table3", seeds=SEEDS)
    assert frozen(study, "mini") == changed_claims(study, ["table3"]) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("scales/mini.yaml", "epochs: 12", "epochs: 13", {"scale", *(f"t3_{n}.run" for n in ("raw_fl", "raw_vfl", "star_vfl", "full_vfl", "fcos_atss"))}),
        ("scales/mini.yaml", "epochs: 41", "epochs: 42", {"scale"}),
        ("scales/mini.yaml", "# The embedded", "# An embedded", set()),
        ("vfnet/table3.yaml", "base: vfnet", "evaluation: {nms_iou: 0.5}\n    base: vfnet", {"t3_raw_fl.variant"}),
    ],
)  # fmt: skip
def test_the_freeze_sees_changes_of_settings(experiments, file, old, new, changed):
    study = register(experiments, "table3", seeds=SEEDS)
    change(experiments / file, old, new)
    assert {text.partition(": registered as ")[0] for text in frozen(study, "mini")} == changed


def test_the_freeze_sees_changes_of_code(experiments):
    study = register(experiments, "table3", seeds=SEEDS)
    other = study.rows["t3_raw_fl"].model_copy(update={"code": Code(training="shared:1", evaluation="shared:2")})
    (text,) = frozen(study.model_copy(update={"rows": study.rows | {"t3_raw_fl": other}}), "mini")
    assert text.startswith("t3_raw_fl.code: registered as shared:1 (training), shared:2 (evaluation), now shared:")


def test_the_freeze_sees_other_pretrained_weights(experiments):
    study = register(experiments, "table3", seeds=SEEDS)
    assert re.fullmatch("[0-9a-f]{16}", study.rows["t3_raw_fl"].pretrained)
    other = study.rows["t3_raw_fl"].model_copy(update={"pretrained": "0" * 16})
    (text,) = frozen(study.model_copy(update={"rows": study.rows | {"t3_raw_fl": other}}), "mini")
    assert text.startswith("t3_raw_fl.pretrained: registered as 0000000000000000, now ")


def test_the_freeze_of_a_data_set_needs_no_data_set(experiments, tiny_data):
    study = register(experiments, "table3", seeds=SEEDS, scale="bccd", data_root=tiny_data)
    assert re.fullmatch("val2017:[0-9a-f]{8}", study.split)
    assert frozen(study, "bccd") == []
    change(experiments / "scales/bccd.yaml", "learning_rate: 1.2e-3", "learning_rate: 1.3e-3")
    assert [text.partition(":")[0] for text in frozen(study, "bccd")] == ["scale"]


def test_the_freeze_ends_with_the_last_training(experiments):
    study = register(experiments, "table3", seeds=SEEDS)
    lines = [
        {"scale": "mini", "row": id_, "seed": str(seed), "run": row.run, "code": row.code.evaluation}
        for id_, row in study.rows.items()
        for seed in study.seeds
    ]
    assert unfinished(study, "mini", lines) == []
    assert unfinished(study, "mini", lines[1:]) == [("t3_raw_fl", 1000)]
    assert len(unfinished(study, "bccd", lines)) == len(lines)
    assert unfinished(study, "mini", [lines[0] | {"code": "shared:1"}, *lines[1:]]) == [("t3_raw_fl", 1000)]


def test_the_digest_of_a_scale_covers_what_it_extends(experiments):
    (experiments / "scales/child.yaml").write_text("extends: mini\ntitle: a child\n")
    files.forget()
    before = scale_digest("child")
    assert before != scale_digest("mini")
    assert read_scale("child").title == "a child"
    change(experiments / "scales/mini.yaml", "epochs: 41", "epochs: 42")
    assert scale_digest("child") != before


def test_deviations_of_claims_are_stated_in_words(experiments):
    study = register(experiments, "table1", "table3", seeds=SEEDS)
    change(experiments / "vfnet/claims.yaml", "bound: 3.0", "bound: 4.0")
    change(experiments / "vfnet/table3.yaml", "AP: 40.7", "AP: 40.8")
    assert changed_claims(study, ["table1"]) == ["oracle_true_centerness.bound: registered as 3.0, now 4.0"]
    in_table3 = changed_claims(study, ["table3"])
    assert in_table3
    assert all(re.fullmatch(r"component_\w+\.published: registered as \d\.\d, now \d\.\d", text) for text in in_table3)


def mistake(experiments, old, new, count=1):
    register(experiments, "table3", seeds=SEEDS)
    change(experiments / "vfnet" / FILE, old, new, count)
    return error_of(read_registration)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  mini:", "  mimi:", "studies: unknown scale 'mimi'; did you mean 'mini'?"),
        ("tables: [table3]", "tables: [table33]", "studies.mini.tables: unknown table 'table33'; did you mean 'table3'?"),
        ("      t3_raw_fl:", "      t3_raw_lf:", "studies.mini.rows: unknown row 't3_raw_lf'; did you mean 't3_raw_fl'?"),
        ("      component_vfl:", "      component_vlf:", "studies.mini.claims: unknown claim 'component_vlf'; did you mean 'component_vfl'?"),
        ("        table: table3", "        table: table1", "studies.mini.claims.component_vfl.table: unknown table of this study 'table1'; did you mean 'table3'?"),
        ("        than: t3_raw_fl", "        than: t1_gt_ctr", "studies.mini.claims.component_vfl.than: unknown row of this study 't1_gt_ctr'"),
        ("        kind: better", "        kind: at most", "studies.mini.claims.component_vfl: bound: missing; add it"),
        ("        published: [1.1]", "        published: [1.1, 2.0]", "studies.mini.claims.component_vfl: published: 2 effects of 1 pairs; list one per pair"),
        ("seeds: [1000, 1001]", "seeds: [1000, 1000]", "studies.mini.seeds: a seed is listed twice; list each seed once"),
        ("seeds: [1000, 1001]", "seeds: [1000]", "studies.mini.seeds: "),
        ("    mde_factor", "    mde_facto", "studies.mini.mde_facto: unknown key; did you mean 'mde_factor'?"),
        ('date: "2026-11-27"', 'date: "27.11.2026"', 'date: not a date; write one such as "2026-11-27"'),
        ("deviations: []", "deviations: [{text: a}]", "deviations.0.date: missing; add it"),
        ("          training: ", "          trained: ", "studies.mini.rows.t3_raw_fl.code.trained: unknown key; did you mean 'training'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_reported_with_its_place(experiments, old, new, message):
    assert mistake(experiments, old, new).startswith(f"experiments/vfnet/{FILE}: {message}")
