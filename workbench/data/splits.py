"""Splits of a data set, checked as a whole before the first step of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.data.coco import CocoDetection, annotation_path, read_coco
from workbench.settings.digest import TEST, TRAIN, VAL
from workbench.support.errors import WorkbenchError

LISTED = 8
"""Largest number of categories of a list in a message."""


def read_splits(
    root: Path, classes: int, say: Callable[[str], None] | None = None
) -> tuple[CocoDetection, CocoDetection]:
    """Read ``train2017`` for training and ``val2017`` for evaluation, and check annotations, images and categories.

    Args:
        classes: number of categories that the scale states.
        say: function that receives lines of progress.

    Raises:
        WorkbenchError: a split has faults, or the splits have different categories or another number of categories.
    """
    train = read_coco(root, TRAIN, training=True, headers=True, say=say)
    if len(train.class_names) != classes:
        raise WorkbenchError(
            f"{root}: {len(train.class_names)} categories, but the scale states data.classes: {classes}; name another "
            "data set or correct the scale"
        )
    val = read_coco(root, VAL, training=False, headers=True, say=say)
    place, other = annotation_path(root, VAL), annotation_path(root, TRAIN).name
    refuse_other_categories(val, train.category_ids, train.class_names, str(place), f"{other} has")
    return train, val


def check_test(root: Path) -> None:
    """Check ``test2017``, on which trainings will be evaluated: annotations, images and categories.

    Raises:
        WorkbenchError: the split has faults, no objects, or other categories than val2017.
    """
    test = read_coco(root, TEST, training=False, headers=True)
    place = annotation_path(root, TEST)
    if not any(len(image.boxes) for image in test.images):
        raise WorkbenchError(f"{place}: no objects to test on; add annotations, or leave split=test out")
    val = read_coco(root, VAL, training=False, limit=1)
    owner = f"{annotation_path(root, VAL).name} has"
    refuse_other_categories(test, val.category_ids, val.class_names, str(place), owner)


def refuse_other_categories(
    data: CocoDetection, category_ids: Sequence[int], class_names: Sequence[str], place: str, owner: str
) -> None:
    """Raise a WorkbenchError with both lists if a data set has other ids or names of categories.

    Args:
        place: start of the message.
        owner: owner of the expected categories with its verb, such as "the training has".
    """
    ours, theirs = _pairs(data.category_ids, data.class_names), _pairs(category_ids, class_names)
    if ours == theirs:
        return
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    lists = [_listed(pairs, same) for pairs in (ours, theirs)]
    raise WorkbenchError(
        f"{place}: the categories are {lists[0]}, but {owner} {lists[1]}; give both the "
        "same categories, with equal ids and names"
    )


def _pairs(ids: Sequence[int], names: Sequence[str]) -> list[str]:
    return [f"{id_} {name!r}" for id_, name in zip(ids, names, strict=True)]


def _listed(pairs: list[str], start: int) -> str:
    """Categories from the first difference on, with ``…`` for those that are left out."""
    start = start if len(pairs) > LISTED else 0
    left_out = start, len(pairs) - start - LISTED
    shown = [text[:60] for text in pairs[start : start + LISTED]]
    shown = ["…"] * (left_out[0] > 0) + shown + ["…"] * (left_out[1] > 0)
    return f"{', '.join(shown)} ({len(pairs)} in total)"
