"""Search for the folder of the images of an annotation file: a folder in which the first images of the file exist.

Only the standard library is imported, since the pipeline recognises a data set at its start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath

from workbench.settings.layout_files import BOTH, IMAGE_WORDS, Tree, names_in, split_of, words_of
from workbench.support.errors import WorkbenchError

LISTED = 8
"""Largest number of folders in a message."""
FOREIGN = 4
"""Class of a folder that names another split."""

Rank = tuple[int, bool]
"""Class of a folder, from 0 for the likely one, and whether its path has no word for images (a folder of masks)."""


def image_folder_of(tree: Tree, file: Path, split: str | None, names: Sequence[str], others: Iterable[Path]) -> Path:
    """Folder of the images of an annotation file.

    The folders are those of the file and of the data set, their subfolders, and one level below. Of the folders with
    images of these names, the first in this order is taken: the folder of the file, a folder with the name at the end
    of the file's name (``instances_train2017``), a folder that names the split, any other; in each case, a folder with
    a word for images first. A folder that names another split comes last, and only if no other file lists the images.

    Args:
        split: split of the file; None if its name states none.
        names: first names of images in the file.
        others: annotation files of the other splits.

    Raises:
        WorkbenchError: no folder has the images, or several of one rank have them.
    """
    above = [file.parent, *(folder for folder in file.parent.parents if folder.is_relative_to(tree.root))]
    near = list(dict.fromkeys([*above, *(inner for folder in reversed(above) for inner in tree.folders(folder))]))
    tried: list[Path] = []
    for folders in (near, _one_level_below(tree, near)):
        tried += folders
        own = [folder for folder in folders if _rank(tree, file, split, folder)[0] < FOREIGN]
        if (folder := _best(tree, file, split, names, own)) is not None:
            return folder
    if not names:
        return min(tried[1:], key=lambda folder: _rank(tree, file, split, folder), default=file.parent)
    foreign = [folder for folder in tried if _rank(tree, file, split, folder)[0] == FOREIGN]
    folder = _best(tree, file, split, names, foreign)
    if folder is not None and not any(names_in(other) & set(names) for other in others):
        return folder
    raise WorkbenchError(_missing(tree, file, split, names[0], tried))


def _one_level_below(tree: Tree, near: list[Path]) -> list[Path]:
    below = chain.from_iterable(tree.folders(folder) for folder in near)
    return [folder for folder in dict.fromkeys(below) if folder not in near]


def _rank(tree: Tree, file: Path, split: str | None, folder: Path) -> Rank:
    """Rank of a folder; see ``image_folder_of``."""
    if folder == file.parent:
        return 0, False
    parts = folder.relative_to(tree.root).parts
    has_no_word = bool(parts) and not any(words_of(part) & IMAGE_WORDS for part in parts)
    stem, name = file.stem.lower(), folder.name.lower()
    if parts and stem.endswith(name) and not stem.removesuffix(name)[-1:].isalnum():
        return 1, has_no_word
    stated = {split_of(part) for part in parts} - {None}
    if not stated:
        return 3, has_no_word
    return (2 if split is not None and stated & {split, BOTH} else FOREIGN), has_no_word


def _best(tree: Tree, file: Path, split: str | None, names: Sequence[str], folders: list[Path]) -> Path | None:
    """Folder of the first rank with images of these names, and in this rank the one with the most of the images."""
    ranked: dict[Rank, dict[str, tuple[int, Path]]] = {}
    for folder in folders:
        if count := sum(_exists(folder, name) for name in names):
            of_rank = ranked.setdefault(_rank(tree, file, split, folder), {})
            of_rank.setdefault(os.path.realpath(folder), (count, folder))  # two links to a folder are one folder
    if not ranked:
        return None
    hits = list(ranked[min(ranked)].values())
    most = max(count for count, _ in hits)
    best = [folder for count, folder in hits if count == most]
    if len(best) > 1:
        places = " and in ".join(tree.named(folder) for folder in best[:2])
        raise WorkbenchError(f"{file}: its images, such as '{names[0]}', are in {places}; keep one of these folders")
    return best[0]


def _exists(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file() or ("\\" in name and (folder / name.replace("\\", "/")).is_file())
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False


def _missing(tree: Tree, file: Path, split: str | None, name: str, tried: list[Path]) -> str:
    """Message about images that are in none of the folders."""
    problem = f"{file}: the image '{name[:100]}' does not exist"
    bare = PurePosixPath(name.replace("\\", "/")).name
    if bare != name and (place := next((folder for folder in tried if _exists(folder, bare)), None)):
        front = name.removesuffix(bare)
        return f"{problem}, but {tree.named(place / bare)} does; remove '{front}' from file_name, or move the images"
    order = sorted(tried, key=lambda folder: _rank(tree, file, split, folder))
    listed = [tree.named(f) for f in order if f != tree.root and _rank(tree, file, split, f)[0] < FOREIGN]
    below = f" and its folders {', '.join(listed[:LISTED])}{', …' * (len(listed) > LISTED)}" if listed else ""
    remedy = f"put the images into one of them, or into {f'images/{split}' if split else 'images'}"
    return f"{problem} (looked in {tree.root}{below}); {remedy}"
