"""Files of an embedded data set on disk: names, the marker, and removal of nothing but these files.

A folder is a data set of the workbench on two conditions: the marker is exactly what the workbench writes, and all
other files have names of this data set. A folder with any other file, link or pipe belongs to the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from pathlib import Path

from workbench.settings.data import EmbeddedData
from workbench.settings.digest import TRAIN, VAL
from workbench.support.errors import WorkbenchError

SPLITS = (TRAIN, VAL)
FOLDERS = ("annotations", *SPLITS)
MARKER = "embedded.json"
"""File with the settings of the data set."""
STALE_SECONDS = 3600
"""Age of an unfinished data set after its last change, from which on its process counts as killed."""


def image_id(split: int, index: int) -> int:
    """Id of an image: odd in train (split 0), even in val (split 1). In COCO, too, no id is in both splits."""
    return 2 * index + split + 1


def image_name(id_: int) -> str:
    """File name of an image."""
    return f"{id_:012d}.jpg"


def info(settings: EmbeddedData) -> dict:
    """First entry of an annotation file."""
    return {"description": "VFNet workbench, embedded data set", "version": "1", "world": settings.world}


def write_marker(folder: Path, settings: EmbeddedData) -> None:
    """Write the settings, which mark the folder as a data set of the workbench."""
    (folder / MARKER).write_text(_marker(settings), encoding="utf-8")


def refuse_other_files(root: Path) -> None:
    """Raise a WorkbenchError unless ``root`` is missing, a data set of the workbench, or empty folders of one."""
    if not os.path.lexists(root):
        return
    other = _first_other(root, _settings(root))
    if other is not None:
        raise WorkbenchError(
            f"{root}: contains files that are not an embedded data set ({other}); choose another folder"
        )


def remove_stale(root: Path) -> None:
    """Remove unfinished data sets of killed processes beside ``root``."""
    name = re.compile(re.escape(root.name) + r"\.partial-\d+(-previous)?")
    for folder in [path for path in root.parent.iterdir() if name.fullmatch(path.name)]:
        if _first_other(folder, _settings(folder)) is None and time.time() - _last_change(folder) > STALE_SECONDS:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove the files of a data set of the workbench and folders that are then empty; nothing else is removed."""
    settings = _settings(folder)
    with contextlib.suppress(OSError):
        for name in FOLDERS:
            if _kind(folder / name) == stat.S_IFDIR:
                for entry in list(os.scandir(folder / name)):
                    if _is_drawn(name, entry.name, settings) and entry.is_file(follow_symlinks=False):
                        os.unlink(entry.path)
                with contextlib.suppress(OSError):
                    os.rmdir(folder / name)
        if settings and sorted(os.listdir(folder)) == [MARKER]:
            os.unlink(folder / MARKER)
        os.rmdir(folder)


def _marker(settings: EmbeddedData) -> str:
    return settings.model_dump_json(indent=2) + "\n"


def _settings(folder: Path) -> EmbeddedData | None:
    """Settings in the marker of a folder; None without a marker, or if another program wrote the marker."""
    marker = folder / MARKER
    try:
        if _kind(marker) != stat.S_IFREG:
            return None
        text = marker.read_text(encoding="utf-8")
        settings = EmbeddedData.model_validate_json(text)
    except (OSError, ValueError):
        return None
    return settings if text == _marker(settings) and not settings.per_seed else None


def _first_other(root: Path, settings: EmbeddedData | None) -> str | None:
    """First name in a folder that is not of the data set with these settings; without settings, the first file."""
    if _kind(root) != stat.S_IFDIR:
        return "not a folder"
    for entry in sorted(os.listdir(root)):
        if entry == MARKER and settings is not None:
            continue
        if entry not in FOLDERS or _kind(root / entry) != stat.S_IFDIR:
            return entry
        with os.scandir(root / entry) as files:
            for file in files:
                if not _is_drawn(entry, file.name, settings) or not file.is_file(follow_symlinks=False):
                    return f"{entry}/{file.name}"
                if entry == "annotations" and not _is_annotated(Path(file.path), settings):
                    return f"{entry}/{file.name}"
    return None


def _is_drawn(folder: str, name: str, settings: EmbeddedData | None) -> bool:
    """Whether a data set with these settings has a file of this name in one of its folders."""
    if settings is None:
        return False
    if folder == "annotations":
        return name in {f"instances_{split}.json" for split in SPLITS}
    split = SPLITS.index(folder)
    digits, count = name.partition(".")[0], (settings.train_images, settings.val_images)[split]
    index = (int(digits) - split - 1) // 2 if digits.isascii() and digits.isdecimal() and len(digits) <= 12 else -1
    return 0 <= index < count and name == image_name(image_id(split, index))


def _is_annotated(path: Path, settings: EmbeddedData | None) -> bool:
    """Whether a file of annotations begins as the workbench writes it. A killed process may leave a shorter file."""
    start = json.dumps({"info": info(settings)})[:-1].encode() if settings else b"{"
    with path.open("rb") as file:
        content = file.read(len(start))
    return start.startswith(content)


def _last_change(folder: Path) -> float:
    """Time of the last change in a folder or in its folders."""
    places = [folder, *(folder / name for name in FOLDERS if (folder / name).is_dir())]
    return max(place.stat().st_mtime for place in places)


def _kind(path: Path) -> int | None:
    """Type of a file, without following links; None if the file does not exist."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except OSError:
        return None
