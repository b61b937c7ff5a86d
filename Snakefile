# The pipeline: data set → train → detect → evaluate → table and figure.
# What is run stands in experiments/, how it is done in workbench/; here are only the rules.

import atexit
import os
import sys
from pathlib import Path

from workbench.settings.catalog import data_folder, load_table
from workbench.settings.config import read_config
from workbench.support.devices import gpu_indices
from workbench.support.errors import WorkbenchError
from workbench.runs.folders import seed_folder
from workbench.runs.folders import bootstrap_file, check_folders, metrics_file, scale_folder, write_settings
from workbench.pipeline.targets import check_space
from workbench.pipeline.messages import last_words, unknown_targets
from workbench.settings.released import trainings_of
from workbench.settings.released import released_runs
from workbench.report.claims import claimed_rows, claims_digest
from workbench.report.notebooks import notebook_names
from workbench.report.outcomes import read_by_notebook, settings_digest
from workbench.settings.files import table_names

try:
    # In place of `configfile:`, which takes the last of two equal keys and tells a slip in a page.
    settings = read_config(config)
    RESULTS = Path("results")
    FOLDER = scale_folder(RESULTS, settings.scale, settings.rehearsal)
    DATA = data_folder(settings.scale, RESULTS, settings.data_root)
    TABLES = {n: load_table(n, settings.scale, settings.data_root, settings.rehearsal)[1] for n in table_names()}
    ROWS = [row for rows in TABLES.values() for row in rows]
    TRAININGS = trainings_of(ROWS, settings)
    CLAIMED = claimed_rows(settings)
    check_space(Path())
    check_folders([DATA, *(FOLDER / "runs" / row.run for row in ROWS)])
except WorkbenchError as error:
    sys.exit(f"workbench: {error}")

EXPERIMENTS = {row.run: row.experiment for row in ROWS}
TRAIN_ANNOTATIONS = f"{DATA}/annotations/instances_train2017.json"
VAL_ANNOTATIONS = f"{DATA}/annotations/instances_val2017.json"
RELEASED = released_runs(ROWS)
NOTEBOOKS = notebook_names()
WORDS = {word.split("=")[0] for word in sys.argv}
REPORTS = "--report" in WORDS and "--report-after-run" not in WORDS
TRAINED = f"{FOLDER}/runs/{{run}}/seed{{seed}}"
# Of one seed, or of published weights.
WEIGHTS = f"{FOLDER}/runs/{{run}}/{{training}}"
EVALUATED = f"{WEIGHTS}/{{variant}}"

CAPTIONS = "workbench/report/captions"


report: f"{CAPTIONS}/overview.rst"


# The first half is what Snakemake itself puts before a command. A training whose pipeline has died writes its checkpoint
# and ends; tee (below, in every rule) outlives the terminal, Ctrl-C and a scheduler's end of time for as long, so that the
# log has its last words.
shell.prefix(f"set -euo pipefail; export WORKBENCH_PIPELINE_PID={os.getpid()}; ")

# GPUs of a training; those of a cluster are not seen from where its jobs are sent off, so that one has to ask for them.
HERE = gpu_indices()
GPUS = settings.gpus or int(bool(HERE))
# Of a job on a CPU one, as many jobs side by side as there are cores; beside a GPU what falls to each of them.
CORES = workflow.resource_settings.cores or os.cpu_count()  # `snakemake --unlock` names none
THREADS = max(1, CORES // len(HERE)) if HERE else 4 if GPUS else 1


def evaluations_of(rows):
    files = [metrics_file(FOLDER, row, training) for row in rows for training in TRAININGS[row.run]]
    # The second of results that are older than it is made where it is missing.
    return [str(file) for metrics in files for file in (metrics, bootstrap_file(metrics))]


def logs_of(rows):
    return [
        f"{FOLDER}/runs/{row.run}/{seed_folder(training)}/train.csv"
        for row in rows
        for training in TRAININGS[row.run]
        if training != "released"
    ]


def outcomes_of(tables):
    """A table each, with figures of it and of what was trained for it."""
    return [f"{FOLDER}/tables/{table}.csv" for table in tables] + figures_of(tables)


def figures_of(tables):
    curves = [f"{FOLDER}/figures/{table}_loss.png" for table in tables if logs_of(TABLES[table])]
    return curves + [f"{FOLDER}/figures/{table}_ap.png" for table in tables if TABLES[table]]


def asked_for(alone):
    """Targets of this call: a report makes nothing, and a job on another machine, whose call names none, ``alone``."""
    if REPORTS:
        return {"report"}
    return set(workflow.dag_settings.targets) or {"all"} if workflow.is_main_process else {alone}


def everything():
    """All outcomes; for a report those that are there, and rankings, which are only made when asked for."""
    notebooks = expand(f"{FOLDER}/notebooks/{{notebook}}.ipynb", notebook=NOTEBOOKS)
    files = [*outcomes_of(TABLES), f"{FOLDER}/claims.csv", *notebooks]
    if not REPORTS:
        return files
    files += [f"{FOLDER}/figures/{table}_ranking.png" for table in TABLES]
    return [file for file in files if os.path.exists(file)] or sys.exit(
        f"workbench: {FOLDER} holds nothing to report yet; run snakemake --cores all table3, or another table, first"
    )


def judged(wildcards):
    """What the claims are judged by: evaluations that this call makes, and those that are there.

    The latter by their absolute path, which no rule makes, so that nothing is made anew because of a claim.
    """
    targets = asked_for("claims")
    wanted = set(TABLES) if targets & {"all", "tables", "figures"} else targets
    asked = {
        file
        for name, rows in TABLES.items()
        for row in rows
        if {name, row.id} & wanted
        for file in evaluations_of([row])
    }
    there = [os.path.abspath(file) for file in evaluations_of(CLAIMED) if file not in asked and os.path.exists(file)]
    return sorted({*asked, *there})


def rankings_of(rows):
    return [f"{FOLDER}/runs/{row.run}/{seed_folder(t)}/ranking.csv" for row in rows for t in TRAININGS[row.run]]


def read_by(wildcards):
    return read_by_notebook(wildcards.notebook, FOLDER, TABLES, TRAININGS, asked_for("notebooks"))


def pretrained(wildcards):
    """The file of pretrained weights that a run starts from, if it does."""
    backbone = EXPERIMENTS[wildcards.run].backbone
    return [ancient(f"{RESULTS}/weights/{backbone.name}.pth")] if backbone.pretrained else []


def memory_of(wildcards):
    """MB of a training. A rehearsal's step is one image: X-101-64x4d with DCN, the largest, took 11.2 GB on a CPU."""
    experiment = EXPERIMENTS[wildcards.run]
    if experiment.image.long < 600:
        return 2000
    return 12000 if experiment.training.limit_steps else max(24000, 12000 * GPUS)


onstart:
    # Named by their content, so they are no inputs: what changes has another name.
    runs = {job.wildcards.run for job in workflow.dag.needrun_jobs() if "run" in job.wildcards.keys()}
    try:
        write_settings(FOLDER, [row for row in ROWS if row.run in runs])
    except WorkbenchError as error:
        sys.exit(f"workbench: {error}")


onerror:
    for words in last_words(log):
        atexit.register(print, words, file=sys.stderr)


@atexit.register
def name_unknown_targets():
    """Below Snakemake's own words, since it tells a Snakefile its targets only after it has been read."""
    if workflow.dag_settings:
        known = [rule.name for rule in workflow.rules if not rule.has_wildcards()]
        for words in unknown_targets(workflow.dag_settings.targets, known, [row.id for row in ROWS]):
            print(words, file=sys.stderr)


wildcard_constraints:
    run="|".join(EXPERIMENTS),
    seed=r"\d+",
    training=r"seed\d+|released",
    table="|".join(TABLES),
    notebook="|".join(NOTEBOOKS),


localrules:
    all,
    tables,
    figures,
    notebooks,


rule all:
    input:
        everything(),


rule tables:
    input:
        expand(f"{FOLDER}/tables/{{table}}.csv", table=TABLES),


rule figures:
    input:
        figures_of(TABLES),


rule claims:
    input:
        judged,
    output:
        f"{FOLDER}/claims.csv",
        f"{FOLDER}/claims.md",
        report(f"{FOLDER}/claims.html", caption=f"{CAPTIONS}/claims.rst", category="Claims", labels={"claims": "all"}),
    log:
        f"{FOLDER}/claims.log",
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        claims=claims_digest(),
    shell:
        f"workbench claims {settings.options} 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule notebooks:
    input:
        expand(f"{FOLDER}/notebooks/{{notebook}}.ipynb", notebook=NOTEBOOKS),


for name, rows in TABLES.items():

    rule:
        name:
            name
        input:
            outcomes_of([name]),
        localrule: True

    rule:
        name:
            f"{name}_ranking"
        input:
            f"{FOLDER}/figures/{name}_ranking.png",
        localrule: True

    for row in rows:

        rule:
            name:
                row.id
            input:
                evaluations_of([row]),
            localrule: True


if str(DATA).startswith(f"{RESULTS}/"):

    rule dataset:
        output:
            TRAIN_ANNOTATIONS,
            VAL_ANNOTATIONS,
        log:
            f"{DATA}.log",
        threads: CORES
        resources:
            mem_mb=2000,
            runtime=10,
        shell:
            f"workbench dataset {DATA} --scale {settings.scale} 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule weights:
    output:
        # Of a backbone, or published ones of a whole detector.
        f"{RESULTS}/weights/{{name}}.pth",
    log:
        f"{RESULTS}/weights/{{name}}.log",
    localrule: True
    shell:
        "workbench weights {wildcards.name} {output} 2>&1 | (trap '' INT TERM PIPE; tee {log})"


rule import_weights:
    input:
        lambda wildcards: ancient(f"{RESULTS}/weights/{RELEASED[wildcards.run]}.pth"),
    output:
        f"{FOLDER}/runs/{{run}}/released/model.safetensors",
        f"{FOLDER}/runs/{{run}}/released/train.json",
    log:
        f"{FOLDER}/runs/{{run}}/released/import.log",
    resources:
        mem_mb=4000,
        runtime=10,
    shell:
        f"workbench import-checkpoint {{input}} --run {FOLDER}/runs/{{wildcards.run}} --data '{DATA}'"
        " 2>&1 | (trap '' INT TERM PIPE; tee {log})"


rule train:
    input:
        # What they hold is part of the run's name; a new date on the file alone must not retrain.
        annotations=ancient(TRAIN_ANNOTATIONS),
        validation=ancient(VAL_ANNOTATIONS),
        pretrained=pretrained,
    output:
        f"{TRAINED}/model.safetensors",
        f"{TRAINED}/train.csv",
        f"{TRAINED}/train.json",
    log:
        f"{TRAINED}/train.log",
    threads: THREADS * max(1, GPUS)
    resources:
        gpu=GPUS,
        mem_mb=memory_of,
        runtime=lambda wildcards: 60 if EXPERIMENTS[wildcards.run].image.long < 600 else 4320,
    params:
        pretrained=lambda wildcards, input: f"--pretrained {input.pretrained}" if input.pretrained else "",
    shell:
        f"workbench train {FOLDER}/runs/{{wildcards.run}} --seed {{wildcards.seed}} --data '{DATA}'"
        f" --devices {max(1, GPUS)} {'--gpu' if settings.gpus else ''}"
        f" {f'--micro-batch {settings.micro_batch}' if settings.micro_batch else ''}"
        " {params.pretrained} 2>&1 | (trap '' INT TERM PIPE; tee {log})"


rule detect:
    input:
        f"{WEIGHTS}/model.safetensors",
        VAL_ANNOTATIONS,
    output:
        f"{EVALUATED}/detections.json",
        f"{EVALUATED}/detection.json",
    log:
        f"{EVALUATED}/detect.log",
    threads: THREADS
    resources:
        gpu=min(1, GPUS),
        mem_mb=lambda wildcards: 2000 if EXPERIMENTS[wildcards.run].image.long < 600 else 8000,
        runtime=120,
    params:
        seed=lambda wildcards: wildcards.training.removeprefix("seed"),
    shell:
        f"workbench detect {FOLDER}/runs/{{wildcards.run}} --seed {{params.seed}} --data '{DATA}'"
        f" --variant {FOLDER}/variants/{{wildcards.variant}}.json 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule evaluate:
    input:
        f"{EVALUATED}/detections.json",
        f"{EVALUATED}/detection.json",
        f"{WEIGHTS}/train.json",
        VAL_ANNOTATIONS,
    output:
        f"{EVALUATED}/metrics.json",
        f"{EVALUATED}/bootstrap.json",
    log:
        f"{EVALUATED}/evaluate.log",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        seed=lambda wildcards: wildcards.training.removeprefix("seed"),
    shell:
        f"workbench evaluate {FOLDER}/runs/{{wildcards.run}} --seed {{params.seed}} --data '{DATA}'"
        f" --variant {FOLDER}/variants/{{wildcards.variant}}.json 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule rank:
    input:
        f"{WEIGHTS}/model.safetensors",
        VAL_ANNOTATIONS,
    output:
        multiext(f"{WEIGHTS}/ranking", ".csv", ".png", ".pdf"),
    log:
        f"{WEIGHTS}/ranking.log",
    threads: THREADS
    resources:
        gpu=min(1, GPUS),
        mem_mb=lambda wildcards: 2000 if EXPERIMENTS[wildcards.run].image.long < 600 else 8000,
        runtime=120,
    params:
        seed=lambda wildcards: wildcards.training.removeprefix("seed"),
    shell:
        f"workbench ranking --run {FOLDER}/runs/{{wildcards.run}} --seed {{params.seed}} --data '{DATA}'"
        f" {f'--limit-images {settings.limit_images}' if settings.limit_images else ''}"
        " 2>&1 | (trap '' INT TERM PIPE; tee {log})"


rule table:
    input:
        lambda wildcards: evaluations_of(TABLES[wildcards.table]),
    output:
        f"{FOLDER}/tables/{{table}}.csv",
        f"{FOLDER}/tables/{{table}}.md",
        report(
            f"{FOLDER}/tables/{{table}}.html",
            caption=f"{CAPTIONS}/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{FOLDER}/tables/{{table}}.log",
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        rows=lambda wildcards: settings_digest(wildcards.table, TABLES[wildcards.table]),
    shell:
        f"workbench table {{wildcards.table}} {settings.options} 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule figure:
    input:
        lambda wildcards: logs_of(TABLES[wildcards.table]),
    output:
        report(
            f"{FOLDER}/figures/{{table}}_loss.png",
            caption=f"{CAPTIONS}/loss.rst",
            category="Loss curves",
            labels={"table": "{table}"},
        ),
        f"{FOLDER}/figures/{{table}}_loss.pdf",
    log:
        f"{FOLDER}/figures/{{table}}.log",
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        f"workbench figure {{wildcards.table}} {settings.options} 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule bars:
    input:
        f"{FOLDER}/tables/{{table}}.csv",
    output:
        report(
            f"{FOLDER}/figures/{{table}}_ap.png",
            caption=f"{CAPTIONS}/ap.rst",
            category="AP as bars",
            labels={"table": "{table}"},
        ),
        f"{FOLDER}/figures/{{table}}_ap.pdf",
    log:
        f"{FOLDER}/figures/{{table}}_ap.log",
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        f"workbench figure {{wildcards.table}} --kind ap {settings.options} 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule ranking:
    input:
        lambda wildcards: rankings_of(TABLES[wildcards.table]),
    output:
        report(
            f"{FOLDER}/figures/{{table}}_ranking.png",
            caption=f"{CAPTIONS}/ranking.rst",
            category="Score and IoU",
            labels={"table": "{table}"},
        ),
        f"{FOLDER}/figures/{{table}}_ranking.pdf",
    log:
        f"{FOLDER}/figures/{{table}}_ranking.log",
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        f"workbench figure {{wildcards.table}} --kind ranking {settings.options} 2>&1 | (trap '' INT TERM PIPE; tee {{log}})"


rule notebook:
    input:
        "notebooks/{notebook}.ipynb",
        read_by,
    output:
        f"{FOLDER}/notebooks/{{notebook}}.ipynb",
    log:
        f"{FOLDER}/notebooks/{{notebook}}.log",
    resources:
        mem_mb=4000,
        runtime=20,
    shell:
        f"workbench notebook {{wildcards.notebook}} {settings.notebook_options}"
        " 2>&1 | (trap '' INT TERM PIPE; tee {log})"
