"""Files that the pipeline makes, computed from settings and folders for the Snakefile.

No heavy package is imported here, so that each call of Snakemake starts quickly.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workbench.pipeline.published import imported_weights, taken
from workbench.pipeline.resources import Resources
from workbench.report.notebooks import notebook_names
from workbench.runs.folders import RELEASED
from workbench.runs.results import ScaleFolder, backbone_weights, start_file
from workbench.settings.catalog import Row
from workbench.settings.claims import RANK_CORRELATION, claimed_tables, compared_rows
from workbench.settings.config import PipelineConfig
from workbench.settings.digest import TRAIN, VAL, annotation_file
from workbench.settings.experiment import Experiment
from workbench.settings.ids import pretraining_id
from workbench.settings.released import released_runs
from workbench.support.errors import WorkbenchError

RESULTS = Path("results")
TABLE_FORMS = (".csv", ".md", ".html")
FIGURE_FORMS = (".png", ".pdf")


@dataclass(frozen=True)
class Pipeline:
    """Settings of one call of Snakemake, and the files that the call may make.

    Attributes:
        settings: settings of the call.
        folder: folder of the scale.
        data: folder of the data set; with ``{world}`` in place of a number for the data sets that the workbench draws.
        tables: name of a table → rows, without the rows from the literature.
        trainings: name of a run → ``released``, or the requested seeds and the seeds of other finished trainings.
        tested: rows that are evaluated on the test split, too; empty if the call names val alone.
    """

    settings: PipelineConfig
    folder: ScaleFolder
    data: Path
    tables: dict[str, list[Row]]
    trainings: dict[str, list[str]]
    tested: list[Row]

    @cached_property
    def rows(self) -> list[Row]:
        """Rows of all tables."""
        return [row for rows in self.tables.values() for row in rows]

    @cached_property
    def experiments(self) -> dict[str, Experiment]:
        """Name of a run → experiment."""
        return {row.run: row.experiment for row in self.rows}

    @cached_property
    def resources(self) -> Resources:
        """Resources of the jobs."""
        return Resources(self.settings.gpus, self.experiments)

    @cached_property
    def published(self) -> dict[str, str]:
        """Name of a run → name of the published weights that are imported, for the runs that have published weights."""
        return {
            run: taken(names, self.folder.run(run).training(RELEASED), RESULTS)
            for run, names in released_runs(self.rows).items()
        }

    @property
    def drawn(self) -> list[str]:
        """Annotation files of a world that the workbench draws, as patterns; an empty list for a user's own data set.

        A user's files are neither outputs nor inputs of a rule. Snakemake deletes outputs, and makes a rule's files
        again if the path of an input changes. The names of runs and evaluations cover the content of these files.
        """
        if self.rows[0].experiment.data.kind != "embedded":
            return []
        return [str(annotation_file(self.data, split)) for split in (TRAIN, VAL)]

    def drawn_for(self, seed: str) -> list[str]:
        """Annotation files of the world of a training; an empty list for a user's own data set."""
        files = self.drawn
        return [file.format(world=self.rows[0].experiment.data.world_of(seed)) for file in files]

    @property
    def run_names(self) -> str:
        """Pattern of the names of all runs."""
        return "|".join(map(re.escape, self.experiments))

    @cached_property
    def unfinished(self) -> str:
        """Pattern of the names of runs, for the rules that train and import: it excludes each finished training.

        For Snakemake, the weights of a finished training are then files without a rule. Snakemake therefore never
        deletes these weights, whatever input or setting changes. An import counts as finished unless the file of a
        preferred publisher is in place now.
        """
        finished = "|".join(
            re.escape(f"{training.run.name}/{training.name}/")
            for run in self.experiments
            for training in self.folder.run(run).finished_trainings()
            if training.seed != RELEASED or imported_weights(training) in (None, self.published.get(run))
        )
        return f"(?!(?:{finished}))(?:{self.run_names})" if finished else self.run_names

    def lost(self, run: str, seed: str) -> str | None:
        """Message about a finished training that has lost a file which the pipeline cannot make again, else None.

        Before a job, Snakemake deletes all outputs of the job. The pipeline therefore makes files again only if the
        weights are missing and a checkpoint can replace them.
        """
        training = self.folder.run(run).training(seed)
        missing = [file for file in training.results if not file.is_file()]
        if len(missing) == len(training.results) or (
            missing[0] == training.weights and training.last_checkpoint.is_file()
        ):
            return None
        pretrained = "".join(f" --pretrained {file}" for file in self.pretrained(run))
        command = f"workbench train {self.row(run)} --seed {seed} {self.settings.world_options.format()}{pretrained}"
        if training.last_checkpoint.is_file():
            remedy = f"write it again from the checkpoint: {command}"
        elif training.weights.is_file():
            remedy = f"put the file back, or delete the weights and train again: {command}"
        else:
            remedy = f"put the file back, or train again: {command}"
        return f"{missing[0]}: missing, although the training was finished; {remedy}"

    def row(self, run: str) -> str:
        """Id of a row with this run."""
        return next(row.id for row in self.rows if row.run == run)

    def evaluated_row(self, run: str, seed: str, evaluation: str) -> Row:
        """Row with this run, and with this folder of the evaluation of a seed, on the split of this folder."""
        rows = (*self.rows, *self.tested)
        return next(row for row in rows if row.run == run and row.evaluation_folder(seed) == evaluation)

    def pretrained(self, run: str) -> list[str]:
        """File of the pretrained weights of a run's backbone; an empty list for random weights."""
        file = backbone_weights(RESULTS, self.experiments[run])
        return [] if file is None else [str(file)]

    def start(self, run: str) -> list[str]:
        """Published weights of the detector from which a run starts; an empty list for a user's own file, or without.

        Raises:
            WorkbenchError: the run cannot start, because its weights are not known.
        """
        start = next(row.start for row in self.rows if row.run == run)
        if start and start.fault:
            raise WorkbenchError(start.fault)
        return [str(start_file(RESULTS, start))] if start and start.is_published else []

    def pretraining_row(self, name: str) -> str:
        """Id of a row whose backbone starts from weights of this name, which are pretrained on drawn objects."""
        return next(
            row.id
            for row in self.rows
            if row.experiment.backbone.pretrained not in (True, False) and pretraining_id(row.experiment) == name
        )

    def with_test(self, rows: Iterable[Row]) -> list[Row]:
        """Rows, and the same rows on the test split if the call evaluates it."""
        rows = list(rows)
        ids = {row.id for row in rows}
        return [*rows, *(row for row in self.tested if row.id in ids)]

    def evaluations(self, rows: Iterable[Row]) -> list[str]:
        """Metrics and resampled AP of each training of the rows, each on the split of its row."""
        evaluations = [self.folder.evaluation(row, seed) for row in rows for seed in self.trainings[row.run]]
        # The resampled AP is listed too, because results of earlier versions lack this file.
        return [str(file) for e in evaluations for file in (e.metrics, e.bootstrap)]

    def curves(self, rows: Iterable[Row]) -> list[str]:
        """Loss curves of each training of the rows. Published weights have no loss curves."""
        trainings = [self.folder.training(row, s) for row in rows for s in self.trainings[row.run] if s.isdecimal()]
        return [str(training.curves) for training in trainings]

    def rankings(self, rows: Iterable[Row]) -> list[str]:
        """Scores against IoU of each training of the rows."""
        return [str(self.folder.ranking(row, seed).ranking) for row in rows for seed in self.trainings[row.run]]

    def correlations(self, rows: Iterable[Row]) -> list[str]:
        """Rank correlation of score and IoU of each training of the rows."""
        return [str(self.folder.ranking(row, seed).ranking_facts) for row in rows for seed in self.trainings[row.run]]

    def weights(self, rows: Iterable[Row]) -> list[str]:
        """Weights of each training of the rows."""
        return [str(self.folder.training(row, seed).weights) for row in rows for seed in self.trainings[row.run]]

    def figures(self, tables: Iterable[str]) -> list[str]:
        """Loss curves and AP of some tables."""
        curves = [self.folder.figure(table, "loss") for table in tables if self.curves(self.tables[table])]
        dots = [self.folder.figure(table, "ap") for table in tables if self.tables[table]]
        return _forms((*curves, *dots), FIGURE_FORMS)

    def outcomes(self, tables: Iterable[str]) -> list[str]:
        """Some tables, with the figures of these tables."""
        return self.tables_of(tables) + self.figures(tables)

    def tables_of(self, names: Iterable[str]) -> list[str]:
        """Files of some tables in all forms."""
        names = list(names)
        blocks = [str(self.folder.test_table(name)) for name in names if self.tested]
        return _forms(map(self.folder.table, names), TABLE_FORMS) + blocks

    def verdicts(self) -> list[str]:
        """Verdicts on the claims of each table."""
        return _forms(map(self.folder.verdicts, claimed_tables()), (*TABLE_FORMS, *FIGURE_FORMS))

    def judged(self, table: str) -> list[str]:
        """Measurements of all rows that the claims and observations of a table compare, also rows of other tables."""
        rows = {row.id: row for row in self.rows}
        measured = self.evaluations(rows[id_] for id_ in compared_rows(table))
        ranked = self.correlations(rows[id_] for id_ in compared_rows(table, RANK_CORRELATION))
        return [*measured, *ranked]

    def notebooks(self) -> list[str]:
        """Executed notebooks."""
        return [str(self.folder.notebook(name)) for name in notebook_names()]

    def notebook_inputs(self, notebook: str) -> list[str]:
        """Files that a notebook shows: all tables, or the weights of a VFNet, or no file."""
        if notebook == "results":
            return [str(self.folder.table(table)) for table in self.tables]
        if notebook == "star_points":
            row = next(row for row in self.rows if row.id == "t3_full_vfl")
            return [str(self.folder.training(row, self.trainings[row.run][0]).weights)]
        return []

    def targets(self) -> dict[str, list[str]]:
        """Files of each named target: all tables, all figures, a table, a table's rankings, a row.

        A target lists each file that a user would miss: all forms of a table and of a figure, and the weights.
        """
        rankings = {f"{table}_ranking": self._ranking_figures([table]) for table in self.tables}
        return {
            "tables": self.tables_of(self.tables) + self.weights(self.rows),
            "figures": self.figures(self.tables),
            **{table: self.outcomes([table]) + self.weights(rows) for table, rows in self.tables.items()},
            **rankings,
            **{row.id: self.evaluations(self.with_test([row])) + self.weights([row]) for row in self.rows},
        }

    def _ranking_figures(self, tables: Iterable[str]) -> list[str]:
        return _forms((self.folder.figure(table, "ranking") for table in tables), FIGURE_FORMS)

    def everything(self) -> list[str]:
        """All outcomes, verdicts and notebooks."""
        return [*self.outcomes(self.tables), *self.weights(self.rows), *self.verdicts(), *self.notebooks()]

    def reportable(self) -> list[str]:
        """Existing tables, figures, verdicts and rankings.

        Raises:
            WorkbenchError: nothing exists yet.
        """
        files = (*self.outcomes(self.tables), *self.verdicts(), *self._ranking_figures(self.tables))
        files = [file for file in files if os.path.exists(file)]
        if not files:
            raise WorkbenchError(
                f"{self.folder.path}: nothing to report yet; run snakemake --cores all table3, or another table, first"
            )
        return files


def _forms(files: Iterable[Path], suffixes: Iterable[str]) -> list[str]:
    """Names of files in each of their forms."""
    return [str(file.with_suffix(suffix)) for file in files for suffix in suffixes]
