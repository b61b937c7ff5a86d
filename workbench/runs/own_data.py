"""Data set of a user, in any layout that is recognised, at the door of a command or of the pipeline.

All code behind the door reads COCO's own folders: the data set's own ones, or a view of it below ``results/``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from workbench.data.splits import check_test
from workbench.data.view import coco_view, content_digest, is_view
from workbench.runs.find import refuse_data
from workbench.runs.folders import REHEARSED
from workbench.runs.results import scale_folder
from workbench.settings.config import PipelineConfig
from workbench.settings.digest import TRAIN, annotation_file
from workbench.settings.files import OWN, catalogue, is_own, read_scale, scale_name
from workbench.settings.layout_files import read_categories
from workbench.settings.layouts import ALL, FILE_EACH, Layout, SplitFiles, find_layout
from workbench.settings.specs import DataSpec
from workbench.support.errors import WorkbenchError

NAME_LETTERS = 40
"""Most letters of a data set's folder in the name of its scale."""


def on_stderr(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def with_own_data(settings: PipelineConfig, results: Path, say: Callable[[str], None] = on_stderr) -> PipelineConfig:
    """Settings whose ``data_root`` has COCO's own folders, and whose scale ``own`` has the name of the data set.

    Args:
        results: folder ``results``, in which a view of the data set is made if it has another layout.
        say: function that receives lines about the data set.

    Raises:
        WorkbenchError: the layout is not recognised, or the data set has faults or lacks the split that is evaluated.
    """
    if read_scale(settings.scale).data.get("kind") != "coco":
        if settings.data_root is not None:
            refuse_data(settings.scale)
        if settings.split == "test":
            raise WorkbenchError(
                f"scale {settings.scale} draws no test split: leave split=test out, or name a data set"
            )
        return settings
    layers = catalogue().scale(settings.scale).layers
    spec, stated = layers.part("data").validated(DataSpec), layers.content.get("root")
    root = settings.data_root or (Path(stated) if stated else None)
    if root is None and spec.train is None:
        if is_own(settings.scale):
            raise WorkbenchError(f"scale {settings.scale}: no data set is named; add data_root=FOLDER")
        return settings
    if root is not None and is_view(root):  # a job of the pipeline, which has made the view
        owner = Path(os.path.abspath(root)).parent.name
        return settings.model_copy(update={"scale": owner}) if settings.scale == OWN and is_own(owner) else settings
    layout = _stated_layout(root or Path(), spec) if spec.train else find_layout(root)
    if settings.split == "test" and "test" not in layout.splits:
        parts = f"its splits are {' and '.join(layout.splits)}" if layout.splits else layout.name
        remedy = "add annotations and images of test, or leave split=test out"
        raise WorkbenchError(f"{layout.root}: no test split ({parts}); {remedy}")
    scale = settings.scale
    if scale == OWN or is_own(scale):
        scale = own_scale(layout, results)
        if settings.scale not in (OWN, scale):
            raise WorkbenchError(f"scale {settings.scale}: {root} is another data set; leave scale out, or name {OWN}")
        if settings.scale == OWN:
            networks = f"small networks, {read_scale(OWN).image}"
            start = "" if settings.init else " from scratch"
            folder = scale_folder(results, scale).path
            say(f"{layout.root}: learnt{start} at scale {OWN} ({networks}); the results are in {folder}/")
    view = coco_view(layout, spec, scale_folder(results, scale).path, lambda line: say(f"{layout.root}: {line}"))
    if settings.split == "test":
        check_test(view)  # before a training, although it does not need the split
    number = len(read_categories(annotation_file(view, TRAIN)))
    if isinstance(spec.classes, int) and number not in (0, spec.classes):
        say(f"{layout.root}: {number} classes, not the {spec.classes} that scale {scale_name(scale)} states")
    return settings.model_copy(update={"scale": scale, "data_root": settings.data_root if view == root else view})


def own_scale(layout: Layout, results: Path) -> str:
    """Name of the scale ``own`` for a data set: the name of its folder, and a digest of its content.

    The digest decides: a data set whose folder has moved keeps the name under which it has results. So does a data set
    whose test split is corrected or added later, because nothing is learnt from it.
    """
    digest = content_digest(layout, ("train", "val", ALL))[:8]
    for folder in sorted(results.glob(f"{OWN}-*-{digest}*")):
        if (name := folder.name.removesuffix(REHEARSED)).endswith(digest):
            return name
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", layout.root.resolve().name)[:NAME_LETTERS] or "data"
    return f"{OWN}-{name}-{digest}"


def _stated_layout(root: Path, spec: DataSpec) -> Layout:
    """Layout whose files a scale states one by one."""
    stated = {"train": spec.train, "val": spec.val, "test": spec.test}
    splits = {
        split: SplitFiles(root / files.annotations, root / files.images) for split, files in stated.items() if files
    }
    for split, files in splits.items():
        if not files.annotations.is_file():
            raise WorkbenchError(f"{files.annotations}: no such annotation file; correct data.{split} of the scale")
        if not files.images.is_dir():
            raise WorkbenchError(f"{files.images}: no such folder of images; correct data.{split} of the scale")
    return Layout(root, FILE_EACH, splits)
