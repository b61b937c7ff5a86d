"""Digests of a data set's splits: results belong to the content of a data set, never to its path or its dates.

Only the standard library is imported, since the pipeline needs digests at its start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.support.errors import WorkbenchError
from workbench.support.files import write_json_atomically

if TYPE_CHECKING:
    from workbench.settings.data import EmbeddedData

TRAIN, VAL, TEST = "train2017", "val2017", "test2017"
EVALUATED = {"val": VAL, "test": TEST}
"""Split that is evaluated (``--config split=test``) → its name in COCO's own folders."""
HANDED = "WORKBENCH_SPLITS"
"""Environment variable with the digests that a call of Snakemake took for its jobs."""
NOT_DATA = {"thumbs.db", "desktop.ini"}
"""Names of files that desktops leave in folders of images. Hidden files are left out, too."""


@dataclass(frozen=True)
class SplitDigest:
    """Identity of one split of a data set.

    Attributes:
        annotations: digest of the annotation file.
        images: digest of the listing of the images, i.e. of their names and sizes in bytes.
    """

    annotations: str
    images: str

    @property
    def short(self) -> str:
        """Eight hex digits over both, part of the name of an evaluation's folder."""
        return _hash([self.annotations, self.images])[:8]

    def facts(self) -> dict[str, str]:
        """Content of this object for a JSON file."""
        return asdict(self)


def annotation_file(root: Path, split: str) -> Path:
    """Path of the annotations of a split in COCO's layout. The annotations of COCO's test-dev are not public."""
    return root / "annotations" / f"{'image_info' if split.startswith('test-dev') else 'instances'}_{split}.json"


def image_folder(root: Path, split: str) -> Path:
    """Path of the images of a split in COCO's layout."""
    return root / split.replace("-dev", "")


def split_digest(root: Path, split: str) -> SplitDigest:
    """Digest of a split of a data set on disk; in a job of Snakemake, the digest that the call took before its jobs.

    Raises:
        WorkbenchError: the annotations or the images cannot be read.
    """
    if (handed := _handed().get(_key(root, split))) is not None:
        return SplitDigest(*handed)
    annotations = annotation_digest(annotation_file(root, split), cache_file("digests.json"))
    return SplitDigest(annotations, listing_digest(image_folder(root, split)))


def evaluated_digest(root: Path, name: str) -> SplitDigest:
    """Digest of the split on which trainings are evaluated.

    Args:
        root: folder of a data set in COCO's own folders.
        name: ``val`` or ``test``.

    Raises:
        WorkbenchError: the data set has no test split, or see ``split_digest``.
    """
    if name == "test" and not os.path.lexists(file := annotation_file(root, TEST)):
        raise WorkbenchError(f"{file}: no such annotation file; add a test split, or leave split=test out")
    return split_digest(root, EVALUATED[name])


def hand_to_jobs(root: Path, split: str, digest: SplitDigest) -> None:
    """Hand a digest to the processes that this process starts, so that a folder is listed only once per call."""
    handed = _handed() | {_key(root, split): [digest.annotations, digest.images]}
    os.environ[HANDED] = json.dumps(handed)


def _key(root: Path, split: str) -> str:
    return f"{os.path.abspath(root)}:{split}"


def _handed() -> dict[str, list[str]]:
    return json.loads(os.environ.get(HANDED, "{}"))


def listing_digest(folder: Path) -> str:
    """Digest (32 hex digits) of the names and sizes in bytes of the files in a folder and in its subfolders.

    118,287 files take 0.8 s on a local disk. Hidden files are left out.

    Raises:
        WorkbenchError: the folder cannot be read.
    """
    try:
        return _hash(sorted(_listing(str(folder), "", ())))
    except OSError as error:
        raise WorkbenchError(f"{error.filename}: cannot be listed ({error.strerror}); check data_root") from error


def _listing(folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Names and sizes below a folder. Links to the folders ``above`` (real paths) are not followed."""
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in NOT_DATA:
                continue
            if not entry.is_dir():
                yield f"{prefix}{entry.name}", _size(entry)
            elif os.path.realpath(entry.path) not in above:
                yield from _listing(entry.path, f"{prefix}{entry.name}/", above)


def _size(entry: os.DirEntry) -> int:
    """Size of a file in bytes; 0 for a broken link, which is reported when its image is read."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


@cache
def drawn_digest(data: EmbeddedData, split: str, seed: int | str) -> SplitDigest:
    """Digest of a split of the embedded data set that the training of a seed reads.

    The settings decide every byte, so the files need not exist yet.
    """
    content = _hash([data.drawn_for(seed).model_dump(mode="json"), split])
    return SplitDigest(annotations=content, images=content)


def _hash(content: object) -> str:
    # A file name that is not UTF-8 is kept as surrogates, which JSON writes as escapes.
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def cache_file(name: str) -> Path | None:
    """Path of a cache of this user, or None for a user without a home folder."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "vfnet-workbench" / name
    try:
        return Path.home() / ".cache" / "vfnet-workbench" / name
    except RuntimeError:
        return None


def annotation_digest(path: Path | str, cache: Path | None = None) -> str:
    """Return the BLAKE2b digest (16 bytes, in hex) of a file's content.

    Args:
        path: the file.
        cache: a JSON file that keeps digests, since COCO's annotations take half a second to hash. An entry is valid
            while inode, size and time of the last change stay the same; no tool can set this time back. A cache that
            cannot be read or written is ignored, which costs time only.

    Raises:
        WorkbenchError: the file is missing, is not a regular file, or cannot be read.
    """
    path = Path(path).absolute()
    try:
        if path.exists() and not path.is_file():
            raise WorkbenchError(f"{path}: not a regular file; put the annotation file there")
        status = path.stat()
        state = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        entries = _read(cache) if cache else {}
        entry = entries.get(str(path))
        if isinstance(entry, dict) and entry.get("state") == state and isinstance(entry.get("digest"), str):
            return entry["digest"]
        digest = file_digest(path)
    except OSError as error:
        raise WorkbenchError(
            f"{path}: the annotation file cannot be read ({error.strerror}); check data_root"
        ) from error
    if cache:
        entries[str(path)] = {"state": state, "digest": digest}
        with contextlib.suppress(WorkbenchError):
            write_json_atomically(cache, entries)
    return digest


def file_digest(path: Path) -> str:
    """Digest (32 hex digits) of the bytes of a file; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read(cache: Path) -> dict:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
