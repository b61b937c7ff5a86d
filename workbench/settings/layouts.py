"""Layouts of data sets on disk in COCO's format: which annotation file and which folder of images belong to each split.

A rule instead of a list of exporters: JSON files with images and annotations are searched in a few folders, words in
the names of files and folders state the splits, and the folder of the images is one in which the first images of the
file exist. COCO's own folders are recognised by their names alone. Only the standard library is imported, since the
pipeline recognises a data set at its start.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from workbench.settings.digest import TEST, TRAIN, VAL, annotation_file, image_folder
from workbench.settings.layout_files import BOTH, Glance, Tree, json_files, split_of
from workbench.settings.layout_hints import EXPORTED, file_beside, refusal
from workbench.settings.layout_images import image_folder_of
from workbench.support.errors import WorkbenchError

ALL = "all"
"""Name of the only part of a data set without splits."""
COCO = "COCO's own folders"
FOLDER_EACH = "a folder for each split"
FILE_EACH = "an annotation file for each split"
ONE_FILE = "one annotation file without splits"
TRAIN_ONLY = "images of train alone, without other splits"


@dataclass(frozen=True)
class SplitFiles:
    """Annotation file of a split, and the folder to which the names of its images are relative."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class Layout:
    """Files of a data set.

    Attributes:
        name: kind of the layout in words, such as ``COCO``, ``FOLDER_EACH`` or ``ONE_FILE``.
        splits: files of ``train``, ``val`` and, if there is one, ``test``, in this order; empty without splits.
        whole: files of a data set without splits; None with splits. A data set with annotations of train alone is
            whole, too: a split has to be made of it.
        notes: lines about decisions that a user may want to know.
    """

    root: Path
    name: str
    splits: dict[str, SplitFiles]
    whole: SplitFiles | None = None
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, SplitFiles]:
        """Files of all splits, or of ``all``."""
        return {ALL: self.whole} if self.whole else self.splits


def find_layout(root: Path) -> Layout:
    """Recognise the layout of a data set.

    Raises:
        WorkbenchError: no layout is recognised, or it is not complete: train and val, or one part without splits.
    """
    layout, faults = survey(root)
    if faults:
        raise faults[0]
    return layout


def survey(root: Path) -> tuple[Layout, list[WorkbenchError]]:
    """Layout of a data set as far as it is complete, and what is missing or ambiguous.

    Raises:
        WorkbenchError: no annotation file in COCO's format is recognised.
    """
    root = Path(root)
    _refuse_place(root)
    if (layout := _coco(root)) is not None:
        return layout, []
    search = _Search(Tree(root))
    if not search.candidates and not search.damaged:
        raise refusal(search.tree, search.files, _is_data_set)
    return search.result()


def _is_data_set(folder: Path) -> bool:
    """Whether a layout with a part is recognised in a folder; its subfolders are not searched for data sets."""
    try:
        if _coco(folder) is not None:
            return True
        search = _Search(Tree(folder))
        return bool(search.candidates) and bool(search.result()[0].parts)
    except WorkbenchError:
        return False


def _refuse_place(root: Path) -> None:
    if os.path.isdir(root):
        return
    if os.path.exists(root):
        packed = "unpack it and name its folder" if root.suffix.lower() in (".zip", ".gz", ".tar", ".7z") else ""
        raise WorkbenchError(f"{root}: not a folder; {packed or 'name the folder of the data set'}")
    raise WorkbenchError(f"{root}: no such data folder; choose the folder of a data set")


def _coco(root: Path) -> Layout | None:
    """COCO's own folders, recognised by names: no folder is listed and no file is read."""
    splits = {
        split: SplitFiles(annotation_file(root, name), image_folder(root, name))
        for split, name in (("train", TRAIN), ("val", VAL))
    }
    if not all(os.path.lexists(s.annotations) and os.path.isdir(s.images) for s in splits.values()):
        return None
    test = SplitFiles(annotation_file(root, TEST), image_folder(root, TEST))
    if os.path.lexists(test.annotations):
        splits["test"] = test
    return Layout(root, COCO, splits)


@dataclass
class _Search:
    """Assignment of annotation files to splits.

    Attributes:
        files: JSON files with a glance at each.
        candidates: files with images and annotations, by the split that their names state.
        damaged: the first file of each split that is not whole.
    """

    tree: Tree
    faults: list[WorkbenchError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.files: dict[Path, Glance] = dict(json_files(self.tree))
        self.candidates: dict[str | None, list[Path]] = {}
        self.damaged: dict[str, Path] = {}
        for file, look in self.files.items():
            split = self._split(file)
            if look.kind == "coco":
                self.candidates.setdefault(split, []).append(file)
            elif split is not None and look.kind == "broken":
                self.damaged.setdefault(split, file)

    def result(self) -> tuple[Layout, list[WorkbenchError]]:
        """Layout, and faults."""
        root, stated = self.tree.root, self.candidates
        if stated.keys() == {None} and not self.damaged.keys() & {"train", "val"}:
            whole = self._chosen(None)
            return Layout(root, ONE_FILE, {}, whole, tuple(self.notes)), self.faults
        if BOTH in stated and not stated.keys() & {"train", "val"}:
            stated["train"] = stated.pop(BOTH)
            if "test" in stated:
                stated["val"] = stated.pop("test")
                self.notes.append("train and val are in one file by its name, so test is used in place of val")
        splits = {split: self._chosen(split) for split in ("train", "val", "test") if split in stated}
        splits = {split: files for split, files in splits.items() if files is not None}
        self._refuse_missing(set(stated))
        for split in (BOTH, None):
            for file in stated.get(split, []) if "train" in stated else []:
                self.notes.append(f"{self.tree.named(file)} is not used, because other files state the splits")
        if stated.keys() & {"train", "val", "test"} == {"train"} and not self.faults:
            return Layout(root, TRAIN_ONLY, {}, splits["train"], tuple(self.notes)), []
        inside = [files.annotations.parent for files in splits.values()]
        name = FOLDER_EACH if all(folder != root and split_of(folder.name) for folder in inside) else FILE_EACH
        return Layout(root, name, splits, None, tuple(self.notes)), self.faults

    def _split(self, file: Path) -> str | None:
        """Split that the name of a file states, else the name of a folder above it."""
        parts = file.relative_to(self.tree.root).parts
        return next((split for part in (file.stem, *reversed(parts[:-1])) if (split := split_of(part))), None)

    def _chosen(self, split: str | None) -> SplitFiles | None:
        """Files of a split: the only candidate whose images exist; None, with a fault, without one."""
        hits, faults = [], []
        own = self.candidates[split]
        others = [file for files in self.candidates.values() for file in files if file not in own]
        for file in own:
            try:
                images = image_folder_of(self.tree, file, split, self.files[file].names, others)
                hits.append(SplitFiles(file, images))
            except WorkbenchError as error:
                faults.append(error)
        if len(hits) > 1:
            names = " and ".join(self.tree.named(hit.annotations) for hit in hits)
            what = f"for {split}" if split else "whose names state no split"
            remedy = "keep one of them" if split else "keep one of them, or add the split to their names"
            faults = [WorkbenchError(f"{self.tree.root}: {len(hits)} annotation files {what}, {names}; {remedy}")]
        self.faults += faults[:1] if len(hits) != 1 else []
        return hits[0] if len(hits) == 1 else None

    def _refuse_missing(self, stated: set[str | None]) -> None:
        """Add a fault for each split whose file is damaged, and for a missing one that a training needs."""
        for split in ("train", "val", "test"):
            if split in stated:
                continue
            folder = self._folder_named(split)
            file = self.damaged.get(split) or (self._other_format(split) if split != "test" else None)
            if file is not None:
                self._fault(file, f"{self.files[file].problem}; copy the file again, in COCO's instances format")
            elif split == "test":
                continue
            elif split == "train" or folder:
                self._fault(*self._absent(split, folder, stated))
            elif "train" not in stated:
                continue
            elif (file := file_beside(self.tree, self.candidates["train"][0])) is not None:
                remedy = "rename the folder to val if it is the other split, else move it out of the data set"
                self._fault(
                    file, f"the name of its folder states no split, and there are no annotations of val; {remedy}"
                )
            elif "test" in stated:
                names = self.tree.named(self.candidates["test"][0])
                remedy = f"to use test for it, write val for test in the name of {names}"
                problem = "annotations of train and test, but none of val, on which a training is validated"
                self._fault(self.tree.root, f"{problem}; {remedy}, or move some images of train to a split val")
            elif None in stated:
                file, train = self.candidates[None][0], self.tree.named(self.candidates["train"][0])
                remedy = "write val in its name if it is the other split, else move it to another folder"
                self._fault(file, f"its name states no split, and {train} is train alone; {remedy}")

    def _absent(self, split: str, folder: Path | None, stated: set[str | None]) -> tuple[Path, str]:
        """Place and message of a split without annotations."""
        tree = self.tree
        models = {s: files[0] for s, files in self.candidates.items() if s} | self.damaged
        other, model = next((s, models[s]) for s in ("train", "val", "test") if s in models)
        below = str(model.relative_to(tree.root))
        expected = Path(re.sub("[A-Za-z]+", lambda word: split if split_of(word[0]) == other else word[0], below))
        if split_of(model.stem) is None and folder is not None:
            expected = folder.relative_to(tree.root) / model.name
        searched = ", ".join(sorted({f"{tree.named(file.parent)}/" for file in self.files}))
        looked = f"looked in {searched} for .json files with {split} in the name of the file or its folder"
        unnamed = f"; the name of {tree.named(self.candidates[None][0])} states no split" if None in stated else ""
        remedy = f"put the annotations of {split} there ({looked}{unnamed})"
        return tree.root / expected, f"no such annotation file; {remedy}"

    def _other_format(self, split: str) -> Path | None:
        """File of a split that is not in COCO's format."""
        kinds = ("other", *EXPORTED)
        return next((f for f, look in self.files.items() if look.kind in kinds and self._split(f) == split), None)

    def _folder_named(self, split: str) -> Path | None:
        """Folder with files that names a split, in the root or one level below."""
        tree = self.tree
        folders = tree.folders(tree.root)
        folders += [inner for folder in folders for inner in tree.folders(folder)]
        return next((f for f in folders if split_of(f.name) == split and (tree.files(f) or tree.folders(f))), None)

    def _fault(self, place: Path, message: str) -> None:
        self.faults.append(WorkbenchError(f"{place}: {message}"))
