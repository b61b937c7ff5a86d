"""Results that the registered study of a scale still lacks, for the target ``evidence``."""

from __future__ import annotations

from workbench.pipeline.targets import RESULTS, Pipeline
from workbench.report.evidence.lines import evidence_file, read_lines, study_of
from workbench.runs.results import kept_weights_digest
from workbench.settings.catalog import Row
from workbench.settings.registration import Study
from workbench.support.errors import WorkbenchError


def missing_results(pipeline: Pipeline) -> list[str]:
    """Evaluations and rankings of the registered trainings that are not listed yet, seed after seed.

    A training that is listed with the registered run and code is not run again, even if its folder does not exist. It
    is ranked if its line has no rank correlation and its weights exist.

    Raises:
        WorkbenchError: no study is registered at this scale, this is a rehearsal, or the settings or the code of a
            missing evaluation have changed since the registration.
    """
    settings, folder = pipeline.settings, pipeline.folder
    study = study_of(settings.scale)
    if settings.rehearsal:
        raise WorkbenchError("evidence: a rehearsal is not evidence; leave out limit_steps and limit_images")
    listed, rows = read_lines(evidence_file(RESULTS)), {row.id: row for row in pipeline.rows}
    files, missing = [], {}
    for seed in study.seeds:
        for id_, registered in study.rows.items():
            line = listed.get((settings.scale, id_, seed, registered.run, registered.code.evaluation))
            evaluation, ranking = folder.evaluation(rows[id_], seed), folder.ranking(rows[id_], seed)
            if line is None:
                missing[id_] = rows[id_]
                files += [evaluation.metrics, evaluation.bootstrap, ranking.ranking_facts]
            elif line.spearman is None and ranking.training.weights.is_file():
                files += [ranking.ranking_facts]
    for row in missing.values():
        _refuse_changed(row, study)
    return list(dict.fromkeys(map(str, files)))


def _refuse_changed(row: Row, study: Study) -> None:
    """Raise unless a training would have the registered run and code. Its results would be refused afterwards."""
    from workbench.support.code_digest import EVALUATION, code_digest

    registered = study.rows[row.id]
    values = {
        "run": (row.run, registered.run),
        "code of the training": (code_digest(row.experiment), registered.code.training),
        "code of the evaluation": (code_digest(row.experiment, EVALUATION), registered.code.evaluation),
        "SHA-256 of the pretrained weights": (kept_weights_digest(row.experiment), registered.pretrained),
    }
    for name, (present, expected) in values.items():
        if present != expected:
            raise WorkbenchError(
                f"evidence: {row.id}: {name} is {present}, but {expected} is registered; restore the registered "
                "settings and code, or register again"
            )
