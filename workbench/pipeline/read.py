"""Pipeline of one call of Snakemake, read from its settings. The Snakefile calls ``read_pipeline`` once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from workbench.pipeline.targets import RESULTS, Pipeline
from workbench.runs.find import data_folder, on_test
from workbench.runs.folders import RELEASED
from workbench.runs.own_data import with_own_data
from workbench.runs.results import ScaleFolder, check_folders, drawn_data, scale_folder
from workbench.settings.catalog import load_table
from workbench.settings.config import read_config
from workbench.settings.digest import TEST, VAL, hand_to_jobs
from workbench.settings.files import table_names
from workbench.settings.released import trainings_of
from workbench.support.errors import WorkbenchError
from workbench.support.surroundings import prepare_user


def read_pipeline(config: dict) -> Pipeline:
    """Make the pipeline from Snakemake's ``config``.

    Raises:
        WorkbenchError: a mistake in the settings or in ``experiments/``, a full disk, or a file where a folder is
            needed.
    """
    prepare_user()  # Snakemake asks for the user's name, too
    settings = with_own_data(read_config(config), RESULTS)
    folder = scale_folder(RESULTS, settings.scale, settings.rehearsal)
    world = settings.scale, settings.data_root, settings.rehearsal, settings.init
    tables = {name: load_table(name, *world)[1] for name in table_names()}
    rows = [row for rows in tables.values() for row in rows]
    temporary = [os.environ.get(name, "") for name in ("TMPDIR", "TMP")]
    for place in ("", *filter(os.path.isdir, temporary)):
        _check_space(Path(place))
    data, trainings = rows[0].experiment.data, _with_finished(folder, trainings_of(rows, settings))
    root = data_folder(settings.scale, RESULTS, settings.data_root)
    roots, tested = {root}, []
    if data.kind == "embedded":
        root = drawn_data(RESULTS, data, "{world}")
        roots = {drawn_data(RESULTS, data, data.world_of(seed)) for seeds in trainings.values() for seed in seeds}
    else:
        hand_to_jobs(root, VAL, rows[0].on_disk)
        if settings.split == "test":
            tested = on_test(rows, root)
            hand_to_jobs(root, TEST, tested[0].on_disk)
    check_folders([*sorted(roots), *(folder.run(run).folder for run in trainings)])
    return Pipeline(settings, folder, root, tables, trainings, tested)


def _with_finished(folder: ScaleFolder, trainings: dict[str, list[str]]) -> dict[str, list[str]]:
    """Add the finished trainings of each run, so that no summary has fewer seeds than before."""
    added = {}
    for run, seeds in trainings.items():
        finished = [] if seeds == [RELEASED] else [t.seed for t in folder.run(run).finished_trainings()]
        added[run] = seeds + [seed for seed in finished if seed not in (*seeds, RELEASED)]
    return added


def _check_space(folder: Path) -> None:
    """Raise a WorkbenchError if nothing can be written. Snakemake writes files too, and would end in a traceback."""
    if shutil.disk_usage(folder).free < 2**16:
        raise WorkbenchError(f"{folder.resolve()}: no space left on this disk; free some space")
    if not os.access(folder, os.W_OK):
        raise WorkbenchError(f"{folder.resolve()}: no permission to write here; choose another folder")
