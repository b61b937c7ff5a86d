"""Classes of a checkpoint: ids and names of its outputs, and the order in which the outputs are stored here.

The outputs of a detector here are in the order of the data set's category ids. A file whose classes have another order
is sorted by their names.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workbench.data.coco import read_coco
from workbench.settings.data import COCO_IDS, COCO_NAMES
from workbench.settings.digest import VAL
from workbench.support.errors import WorkbenchError
from workbench.weights.fit import CLASSIFIER

SHOWN = 8
"""Largest number of names in a note."""


@dataclass(frozen=True)
class Classes:
    """Category ids and names of a detector's outputs.

    Attributes:
        order: class index → index of the class in the file; None if both are the same.
        notes: lines about a decision.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    order: tuple[int, ...] | None
    notes: tuple[str, ...] = ()


def match_classes(stated: tuple[str, ...] | None, number: int, data_root: Path | None, file: Path) -> Classes:
    """Return the classes of a file's outputs.

    Args:
        stated: names of the classes in the file, in the order of its outputs; None if the file has none.
        number: number of classes of the file's weights.
        data_root: data set of the weights; None for COCO, and only if the file names COCO's classes.

    Raises:
        WorkbenchError: the classes are not known, or are not the data set's.
    """
    ids, names = _of_coco(stated, number, file) if data_root is None else _of_data(number, data_root)
    place = data_root or "COCO"
    if stated is not None and len(stated) != number:
        note = (
            f"the file names {len(stated)} classes, but its weights have {number}: its names are not used, and its "
            f"classes are the categories of {place} in the order of their ids ({_listed(names)})"
        )
        return Classes(ids, names, None, (note,))
    if stated is None or stated == names:
        return Classes(ids, names, None)
    i = next(i for i in range(number) if stated[i] != names[i])
    if sorted(stated) != sorted(names) or len(set(names)) < number:
        raise WorkbenchError(
            f"{file}: class {i} is '{stated[i]}', but '{names[i]}' in {place}; name the data set of its training"
        )
    note = f"classes ordered by name: class {i} of the file is '{stated[i]}', but '{names[i]}' in {place}"
    return Classes(ids, names, tuple(map(stated.index, names)), (note,))


def shared_classes(stated: Sequence[str] | None, number: int, names: Sequence[str]) -> tuple[dict[int, int], str]:
    """Return the classes of a training that a file has, too, and a line about the choice.

    Names are compared exactly; letters with accents may be in either form of Unicode. A name of several classes is not
    compared.

    Args:
        stated: names of the classes in the file, in the order of its outputs; None if the file has none.
        number: number of classes of the file's weights.
        names: names of the classes of the training.

    Returns:
        Class index → class index in the file. Without names nothing is shared, since equal numbers of classes do not
        show that the classes are the same.
    """
    if stated is None or len(stated) != number:
        fault = "names no classes" if stated is None else f"names {len(stated)} classes, but its weights have {number}"
        return {}, f"initial values for all {len(names)} classes, because the file {fault}"
    theirs, ours = ([unicodedata.normalize("NFC", name) for name in group] for group in (stated, names))
    unique = {name for name in ours if ours.count(name) == theirs.count(name) == 1}
    shared = {i: theirs.index(name) for i, name in enumerate(ours) if name in unique}
    others = [name for i, name in enumerate(names) if i not in shared]
    if not shared:
        return {}, f"initial values for all {len(names)} classes, because the file has none of them ({_listed(stated)})"
    rest = f"; initial values for {_listed(others)}" if others else ""
    return shared, f"{len(shared)} of {len(names)} classes from the file, by name{rest}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def reorder(state: dict[str, Tensor], classes: Classes) -> None:
    """Put the outputs of a detector's classifier, in place, into the order of the classes.

    Outputs of several anchors per location are stored anchor by anchor (RetinaNet).
    """
    if classes.order is not None:
        for name in CLASSIFIER:
            by_anchor = state[name].unflatten(0, (-1, len(classes.order)))
            state[name] = by_anchor[:, list(classes.order)].flatten(0, 1).contiguous()


def _of_coco(stated: tuple[str, ...] | None, number: int, file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    fault = None
    if stated is None:
        fault = "does not name its classes"
    elif len(stated) != number:
        fault = f"names {len(stated)} classes, but its weights have {number}"
    elif sorted(stated) != sorted(COCO_NAMES):
        fault = "has other classes than COCO"
    if fault:
        raise WorkbenchError(f"{file}: {fault}; name the data set that it was trained on with --data-root")
    return COCO_IDS, COCO_NAMES


def _of_data(number: int, data_root: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    data = read_coco(data_root, VAL, training=False, limit=1)
    if len(data.class_names) != number:
        raise WorkbenchError(
            f"{data_root}: {len(data.class_names)} categories, but the weights have {number}; "
            "name the data set that they were trained on"
        )
    return tuple(data.category_ids), tuple(data.class_names)
