"""Choice of the classes of a user's data set: named ones, or all but those that are no classes."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from workbench.data.annotations import Columns, read_annotations
from workbench.data.document import parse
from workbench.data.splits import refuse_other_categories
from workbench.data.values import as_whole
from workbench.settings.layout_files import read_categories
from workbench.settings.layouts import Layout
from workbench.settings.specs import DataSpec
from workbench.support.errors import WorkbenchError
from workbench.support.strict_yaml import choose

LISTED = 8
"""Largest number of classes in a line."""


def may_change(layout: Layout, spec: DataSpec) -> bool:
    """Whether the classes may be others than the categories of the files; judged without parsing them."""
    stated = [read_categories(files.annotations) for files in layout.parts.values()]
    has_root = any(_is_root(category, categories) for categories in stated for category in categories)
    return isinstance(spec.classes, list) or spec.drop_unused or has_root


def choose_classes(layout: Layout, spec: DataSpec) -> tuple[list[int] | None, list[str]]:
    """Indices of the classes among the categories in the order of their ids, and lines about those that are left out.

    A category without objects that is the supercategory of all others is no class; exporters of COCO's format add such
    a category. With ``drop_unused``, no category without objects is a class.

    Returns:
        The indices, or None if all categories are classes; and lines for the log.

    Raises:
        WorkbenchError: a file has faults, the splits have different categories, or a class is unknown or ambiguous.
    """
    files = [files.annotations for files in layout.parts.values()]
    columns = [read_annotations(file) for file in files]
    first = columns[0]
    for file, other in zip(files[1:], columns[1:], strict=True):
        refuse_other_categories(other, first.category_ids, first.class_names, str(file), f"{files[0].name} has")
    used = {int(label) for c in columns for label in np.unique(c.labels[c.labels >= 0])}
    unused = [index for index in range(len(first.class_names)) if index not in used]
    roots = {index for c, file in zip(columns, files, strict=True) for index in _root_indices(parse(file), c)}
    dropped = unused if spec.drop_unused else [index for index in unused if index in roots]
    if len(dropped) == len(first.class_names):
        dropped = []
    left = [index for index in range(len(first.class_names)) if index not in dropped]
    if isinstance(spec.classes, list):
        chosen = [_index(name, first, left, str(files[0])) for name in spec.classes]
        return (None if chosen == list(range(len(first.class_names))) else chosen), []
    if not dropped:
        return None, []
    listed = ", ".join(first.class_names[index] for index in dropped[:LISTED])
    return left, [f"without objects and therefore no class: {listed}{', …' * (len(dropped) > LISTED)}"]


def _is_root(category: dict[str, Any], stated: list[dict[str, Any]]) -> bool:
    """Whether a category is the supercategory of all others."""
    others = [other for other in stated if other is not category]
    return bool(others) and all(other.get("supercategory") == category.get("name") for other in others)


def _root_indices(document: Any, columns: Columns) -> list[int]:
    """Indices of the root categories of a file; ids that are text are numbered from 1 in the order of the file."""
    stated = [entry for entry in document.get("categories") or [] if isinstance(entry, dict)]
    indices = []
    for number, entry in enumerate(stated, start=1):
        id_ = as_whole(entry.get("id"))
        id_ = id_ if id_ in columns.category_ids else number
        if _is_root(entry, stated) and id_ in columns.category_ids:
            index = columns.category_ids.index(id_)
            if columns.class_names[index] == str(entry.get("name")):
                indices.append(index)
    return indices


def _index(name: str, columns: Columns, left: list[int], place: str) -> int:
    """Index of the only category of a name; letters with accents may be stated in either form of Unicode."""
    names = {index: unicodedata.normalize("NFC", columns.class_names[index]) for index in left}
    wanted = unicodedata.normalize("NFC", name)
    choose(wanted, dict.fromkeys(names.values()), "class", place)
    found = [index for index, other in names.items() if other == wanted]
    if len(found) > 1:
        ids = " and ".join(str(columns.category_ids[index]) for index in found)
        raise WorkbenchError(f"{place}: the categories {ids} have the name '{name}'; give them different names")
    return found[0]
