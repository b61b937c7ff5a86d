# Pipeline: data set → train → detect → evaluate → table and figure. Settings are in experiments/, code in workbench/.

import atexit
import os
import sys

from workbench.pipeline.evidence import missing_results
from workbench.pipeline.messages import last_lines, unknown_target, where_results_are
from workbench.pipeline.read import read_pipeline
from workbench.pipeline.targets import RESULTS
from workbench.report.notebooks import notebook_names
from workbench.report.outcomes import settings_digest
from workbench.runs.folders import RELEASED, seed_of
from workbench.runs.results import pretrained_weights
from workbench.settings.registration import judged_digest
from workbench.support.checkout import find_checkout
from workbench.support.devices import usable_cores
from workbench.support.errors import WorkbenchError

# A report shows only existing files. Only the command line shows that this call makes a report.
REPORTS = {word.split("=")[0] for word in sys.argv} & {"--report", "--report-after-run"} == {"--report"}

try:
    # `configfile:` is not used: it accepts duplicate keys, and reports a typo in many lines.
    PIPELINE = read_pipeline(config)
    EVERYTHING = PIPELINE.reportable() if REPORTS else PIPELINE.everything()
except WorkbenchError as error:
    sys.exit(f"workbench: {error}")

TABLES, FOLDER, SETTINGS, RESOURCES = PIPELINE.tables, PIPELINE.folder, PIPELINE.settings, PIPELINE.resources
OPTIONS, WORLD, GPUS, THREADS = SETTINGS.options, SETTINGS.world_options, RESOURCES.gpus, RESOURCES.threads
PUBLISHED = FOLDER.run("{run}").training(RELEASED)
TRAINED = FOLDER.run("{run}").training("{seed}")
WEIGHTS = FOLDER.run("{run}").training("{training}")  # with a seed, or published
EVALUATED = WEIGHTS.evaluation("{evaluation}")
CAPTIONS = "workbench/report/captions"
# tee ignores Ctrl-C, a closed terminal and a scheduler's time limit, so that the log gets the last line of the command.
LOGGED = " 2>&1 | (trap '' HUP INT TERM PIPE; tee {log})"


report: f"{CAPTIONS}/overview.rst"


# `set …` is Snakemake's default prefix. A training checks this process: if it ends, the training saves and stops.
shell.prefix(f"set -euo pipefail; export WORKBENCH_PIPELINE_PID={os.getpid()}; ")


def captioned(file, caption, category, **labels):
    """Add a file to the report, with caption, category and labels."""
    return report(file, caption=f"{CAPTIONS}/{caption}.rst", category=category, labels=labels)


onsuccess:
    print(where_results_are(FOLDER), file=sys.stderr)


onerror:
    for line in last_lines(log):
        atexit.register(print, line, file=sys.stderr)  # after Snakemake's own lines


def early(wildcards):
    """Priority of a job. Trainings of the first seeds end first, so that an interrupted call leaves complete worlds."""
    seed = wildcards.get("seed") or wildcards.get("world") or seed_of(wildcards.training)
    return -int(seed) if seed.isdecimal() else 0


wildcard_constraints:
    run=PIPELINE.run_names,
    seed=r"\d+",
    world=r"0|[1-9]\d*",
    training=r"seed\d+|released",
    table="|".join(TABLES),
    notebook="|".join(notebook_names()),


for target, files in {"all": EVERYTHING, **PIPELINE.targets()}.items():

    rule:
        name:
            target
        input:
            files,
        localrule: True


rule claims:  # This rule has no output, so that each call judges the existing evaluations.
    log:
        FOLDER.claims.with_suffix(".log"),
    shell:
        f"workbench claims {OPTIONS}{LOGGED}"


def unlisted(wildcards):
    """Results that the registered study still lacks. End the call if it cannot be run."""
    try:
        return missing_results(PIPELINE)
    except WorkbenchError as error:
        sys.exit(f"workbench: {error}")


rule evidence:  # This rule has no output, so that each call lists the existing evaluations.
    input:
        unlisted,
    log:
        FOLDER.path / "evidence.log",
    shell:
        f"workbench evidence add {WORLD}{LOGGED}"


rule notebooks:  # This rule has no output, so that each call shows the existing results.
    log:
        FOLDER.notebook("all").with_suffix(".log"),
    shell:
        f"workbench notebook all {WORLD}{LOGGED}"


if PIPELINE.drawn:

    rule dataset:
        output:
            PIPELINE.drawn,
        log:
            f"{PIPELINE.data}.log",
        priority: early
        threads: usable_cores()
        shell:
            f"workbench dataset {str(PIPELINE.data).format(world='{wildcards.world}')} --scale {SETTINGS.scale}"
            f" --world {{wildcards.world}}{LOGGED}"


def drawn(wildcards):
    """Data set that the workbench draws for a training. `ancient` ignores dates: its settings decide its content."""
    seed = wildcards.get("seed") or seed_of(wildcards.training)
    return [ancient(file) for file in PIPELINE.drawn_for(seed)]


rule weights:  # ImageNet weights of a backbone, or published weights of a detector.
    output:
        pretrained_weights(RESULTS, "{name}"),
    log:
        pretrained_weights(RESULTS, "{name}").with_suffix(".log"),
    localrule: True
    shell:
        f"workbench weights {{wildcards.name}} {{output}}{LOGGED}"


rule pretrain:  # Weights of a backbone, learnt from drawn objects, where experiments/pretrained has none.
    output:
        weights=RESULTS / "weights" / "{pretraining}.safetensors",
        facts=RESULTS / "weights" / "{pretraining}.json",
    log:
        RESULTS / "weights" / "{pretraining}.log",
    threads: THREADS
    params:
        row=lambda wildcards: PIPELINE.pretraining_row(wildcards.pretraining),
    shell:
        f"workbench pretrain --run {{params.row}} {WORLD} {{output.weights}}{LOGGED}"


rule import_weights:
    input:
        lambda wildcards: ancient(pretrained_weights(RESULTS, PIPELINE.published[wildcards.run])),
    output:
        PUBLISHED.weights,
        PUBLISHED.facts,
    log:
        PUBLISHED.log("import"),
    wildcard_constraints:
        run=PIPELINE.unfinished,
    params:
        # A param that is computed from the output never triggers a rerun.
        row=lambda wildcards, output: PIPELINE.row(wildcards.run),
    shell:
        f"workbench import-checkpoint {{input}} --run {{params.row}} {WORLD}{LOGGED}"


def pretrained(wildcards):
    """Pretrained weights of a training. End the call if the training was finished, but has lost a file."""
    if message := PIPELINE.lost(wildcards.run, wildcards.seed):
        sys.exit(f"workbench: {message}")
    return [ancient(file) for file in PIPELINE.pretrained(wildcards.run)]


def start(wildcards):
    """Published weights of the detector from which a training starts. End the call if they are not known."""
    try:
        return [ancient(file) for file in PIPELINE.start(wildcards.run)]
    except WorkbenchError as error:
        sys.exit(f"workbench: {error}")


rule train:
    input:
        data=drawn,
        pretrained=pretrained,
        start=start,
    output:
        # If only the weights are lost, curves and facts exist. `update` keeps them until the training replaces them.
        TRAINED.weights,
        update(TRAINED.curves),
        update(TRAINED.facts),
    log:
        TRAINED.log("train"),
    wildcard_constraints:
        run=PIPELINE.unfinished,
    priority: early
    threads: lambda wildcards: THREADS * max(1, RESOURCES.devices(wildcards.run))
    resources:
        gpu=lambda wildcards: RESOURCES.devices(wildcards.run),
        mem_mb=lambda wildcards: RESOURCES.memory_mb(wildcards.run),
        runtime=lambda wildcards: 60 if RESOURCES.is_small(wildcards.run) else 4320,
    params:
        row=lambda wildcards, output: PIPELINE.row(wildcards.run),
        pretrained=lambda wildcards, input: f"--pretrained {input.pretrained}" if input.pretrained else "",
    shell:
        f"workbench train --run {{params.row}} --seed {{wildcards.seed}} {WORLD} {{params.pretrained}}"
        f" --devices {max(1, GPUS)}{' --gpu' if SETTINGS.gpus else ''}"
        f"{f' --micro-batch {SETTINGS.micro_batch}' if SETTINGS.micro_batch else ''}{LOGGED}"


def evaluated_row(wildcards):
    """Row whose evaluation is in this folder, with the split that is evaluated."""
    return PIPELINE.evaluated_row(wildcards.run, seed_of(wildcards.training), wildcards.evaluation)


rule detect:
    input:
        WEIGHTS.weights,
        drawn,
    output:
        EVALUATED.detections,
        EVALUATED.detection_facts,
    log:
        EVALUATED.log("detect"),
    priority: early
    threads: THREADS
    resources:
        gpu=min(1, GPUS),
        mem_mb=lambda wildcards: 2000 if RESOURCES.is_small(wildcards.run) else 8000,
        runtime=120,
    params:
        row=lambda wildcards, output: evaluated_row(wildcards).id,
        split=lambda wildcards, output: evaluated_row(wildcards).evaluated,
        seed=lambda wildcards: seed_of(wildcards.training),
    shell:
        f"workbench detect --run {{params.row}} --seed {{params.seed}} --split {{params.split}} {WORLD}{LOGGED}"


rule evaluate:
    input:
        EVALUATED.detections,
        EVALUATED.detection_facts,
        WEIGHTS.facts,
        drawn,
    output:
        EVALUATED.metrics,
        EVALUATED.bootstrap,
    log:
        EVALUATED.log("evaluate"),
    priority: early
    params:
        row=lambda wildcards, output: evaluated_row(wildcards).id,
        split=lambda wildcards, output: evaluated_row(wildcards).evaluated,
        seed=lambda wildcards: seed_of(wildcards.training),
    shell:
        f"workbench evaluate --run {{params.row}} --seed {{params.seed}} --split {{params.split}} {WORLD}{LOGGED}"


rule rank:
    input:
        WEIGHTS.weights,
        drawn,
    output:
        EVALUATED.ranking_facts,
        [EVALUATED.ranking.with_suffix(suffix) for suffix in (".csv", ".png", ".pdf")],
    log:
        EVALUATED.log("ranking"),
    priority: early
    threads: THREADS
    resources:
        gpu=min(1, GPUS),
        mem_mb=lambda wildcards: 2000 if RESOURCES.is_small(wildcards.run) else 8000,
        runtime=120,
    params:
        row=lambda wildcards, output: PIPELINE.row(wildcards.run),
        seed=lambda wildcards: seed_of(wildcards.training),
    shell:
        f"workbench ranking --run {{params.row}} --seed {{params.seed}} {WORLD}{LOGGED}"


rule table:
    input:
        lambda wildcards: PIPELINE.evaluations(PIPELINE.with_test(TABLES[wildcards.table])),
    output:
        [FOLDER.table("{table}"), *([FOLDER.test_table("{table}")] if PIPELINE.tested else [])],
        FOLDER.table("{table}").with_suffix(".md"),
        captioned(FOLDER.table("{table}").with_suffix(".html"), "table", "Tables", table="{table}"),
    log:
        FOLDER.table("{table}").with_suffix(".log"),
    params:
        rows=lambda wildcards: settings_digest(wildcards.table, TABLES[wildcards.table]),
    shell:
        f"workbench table {{wildcards.table}} {SETTINGS.table_options}{LOGGED}"


rule verdicts:
    input:
        lambda wildcards: PIPELINE.judged(wildcards.table),
    output:
        FOLDER.verdicts("{table}"),
        FOLDER.verdicts("{table}").with_suffix(".md"),
        captioned(FOLDER.verdicts("{table}").with_suffix(".html"), "claims", "Claims", claims="{table}"),
        captioned(FOLDER.verdicts("{table}").with_suffix(".png"), "forest", "Claims", claims="{table}, forest plot"),
        FOLDER.verdicts("{table}").with_suffix(".pdf"),
    log:
        FOLDER.verdicts("{table}").with_suffix(".log"),
    params:
        claims=lambda wildcards: judged_digest(wildcards.table, SETTINGS.scale),
    shell:
        f"workbench claims {{wildcards.table}} {OPTIONS}{LOGGED}"


FIGURES = {
    # kind of the figure and name of its rule: category in the report, input files
    "loss": ("Loss curves", lambda wildcards: PIPELINE.curves(TABLES[wildcards.table])),
    "ap": ("AP as dots", FOLDER.table("{table}")),
    "ranking": ("Score and IoU", lambda wildcards: PIPELINE.rankings(TABLES[wildcards.table])),
}

for kind, (category, inputs) in FIGURES.items():

    rule:
        name:
            kind
        input:
            inputs,
        output:
            captioned(FOLDER.figure("{table}", kind), kind, category, table="{table}"),
            FOLDER.figure("{table}", kind).with_suffix(".pdf"),
        log:
            FOLDER.figure("{table}", kind).with_suffix(".log"),
        params:
            kind=lambda wildcards, output: output[1].rsplit("_", 1)[1].removesuffix(".pdf"),
        shell:
            f"workbench figure {{wildcards.table}} --kind {{params.kind}} {OPTIONS}{LOGGED}"


rule notebook:
    input:
        f"{os.path.relpath(find_checkout() / 'notebooks')}/{{notebook}}.ipynb",  # also with -s from another folder
        lambda wildcards: PIPELINE.notebook_inputs(wildcards.notebook),
    output:
        FOLDER.notebook("{notebook}"),
    log:
        FOLDER.notebook("{notebook}").with_suffix(".log"),
    shell:
        f"workbench notebook {{wildcards.notebook}} {WORLD}{LOGGED}"


def refuse(wildcards):
    """End the call with a message: the target is a typo, since no rule makes it, or a setting without `--config`."""
    names = ["all", "claims", "evidence", "notebooks", *PIPELINE.targets()]
    sys.exit(unknown_target(wildcards.unknown_target, names, [row.id for row in PIPELINE.rows]))


rule unknown_target:
    input:
        refuse,
    output:
        "{unknown_target,[^/]+|\\w+=.+}",
