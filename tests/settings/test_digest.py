"""Digests of a data set: its content decides, never its place or its dates."""

import json
import os
import shutil

import pytest

from workbench.settings import digest
from workbench.settings.data import EmbeddedData
from workbench.settings.digest import (
    HANDED,
    annotation_digest,
    cache_file,
    drawn_digest,
    hand_to_jobs,
    listing_digest,
    split_digest,
)
from workbench.support.errors import WorkbenchError


def test_the_digest_depends_on_the_content_and_is_cached(tmp_path):
    file, cache = tmp_path / "a.json", tmp_path / "cache" / "digests.json"
    file.write_text("one")
    digest = annotation_digest(file, cache)
    assert len(digest) == 32
    assert digest == annotation_digest(file)
    entries = json.loads(cache.read_text())
    entries[str(file)]["digest"] = "from the cache"
    cache.write_text(json.dumps(entries))
    assert annotation_digest(file, cache) == "from the cache"
    file.write_text("other")
    assert annotation_digest(file, cache) == annotation_digest(file) != digest
    assert [path.name for path in cache.parent.iterdir()] == ["digests.json"]


def test_the_digest_does_not_need_a_usable_cache(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("one")
    (tmp_path / "broken").write_text("{")
    assert annotation_digest(file, tmp_path / "broken") == annotation_digest(file)
    assert annotation_digest(file, file / "below a file") == annotation_digest(file)
    with pytest.raises(WorkbenchError, match="the annotation file cannot be read"):
        annotation_digest(tmp_path / "none")


def test_an_edited_file_with_its_old_date_and_size_is_read_again(tmp_path):
    file, cache = tmp_path / "a.json", tmp_path / "digests.json"
    file.write_text("one")
    before, status = annotation_digest(file, cache), file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert annotation_digest(file, cache) == annotation_digest(file) != before


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_annotations_that_are_not_a_file_are_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "a.json"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(WorkbenchError, match=r"a\.json: not a regular file; put the annotation file there"):
        annotation_digest(path)


def images(folder):
    (folder / "below").mkdir(parents=True)
    for name, size in {"a.jpg": 3, "b.jpg": 4, "below/c.jpg": 5}.items():
        (folder / name).write_bytes(bytes(size))
    return folder


SAME = {
    "a copy with new dates": lambda folder: os.utime(folder / "a.jpg", (0, 0)),
    "hidden files": lambda folder: (folder / ".a.jpg.tmp").write_text("x"),
    "files of a desktop": lambda folder: (folder / "Thumbs.db").write_text("x"),
    "a hidden folder": lambda folder: shutil.copytree(folder / "below", folder / ".thumbnails"),
    "a link to itself": lambda folder: (folder / "loop").symlink_to(folder),
    "a link instead of a file": lambda folder: (
        (folder / "a.jpg").rename(folder.parent / "x") and (folder / "a.jpg").symlink_to(folder.parent / "x")
    ),
}
OTHER = {
    "another name": lambda folder: (folder / "a.jpg").rename(folder / "d.jpg"),
    "another size": lambda folder: (folder / "a.jpg").write_bytes(bytes(9)),
    "another folder": lambda folder: (folder / "below").rename(folder / "above"),
    "one more": lambda folder: (folder / "d.jpg").write_bytes(b""),
    "one fewer": lambda folder: (folder / "below/c.jpg").unlink(),
    "a broken link": lambda folder: (folder / "d.jpg").symlink_to("nowhere"),
    "a name that is not UTF-8": lambda folder: open(bytes(folder) + b"/\xff.jpg", "w").close(),
}


@pytest.mark.parametrize("change", SAME | OTHER)
def test_the_listing_is_names_and_sizes(tmp_path, change):
    folder = images(tmp_path / "images")
    before = listing_digest(folder)
    (SAME | OTHER)[change](folder)
    assert (listing_digest(folder) == before) == (change in SAME)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(WorkbenchError, match="none: cannot be listed \\(No such file or directory\\); check data_root"):
        listing_digest(tmp_path / "none")


def test_a_split_is_listed_once_per_call(tiny_data, tmp_path, monkeypatch):
    monkeypatch.delenv(HANDED, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = split_digest(tiny_data, "val2017")
    assert found != split_digest(tiny_data, "train2017")
    assert len(found.short) == 8
    hand_to_jobs(tiny_data, "val2017", found)
    monkeypatch.setattr(digest, "listing_digest", lambda _: "listed")
    assert split_digest(tiny_data, "val2017") == found
    monkeypatch.chdir(tiny_data.parent)
    assert split_digest(tiny_data.relative_to(tiny_data.parent), "val2017") == found
    assert split_digest(tiny_data, "train2017").images == "listed"
    monkeypatch.delenv(HANDED)


def test_a_drawn_data_set_is_known_before_it_is_drawn():
    """The digest is of the world that a training reads, not of the rule that chooses the world."""
    own, fixed = EmbeddedData(world="seed"), EmbeddedData(world=1)
    known = {drawn_digest(own, split, seed).short for seed in (0, 1) for split in ("train2017", "val2017")}
    assert len(known) == 4
    assert (
        drawn_digest(own, "val2017", 1) == drawn_digest(own, "val2017", "100001") == drawn_digest(fixed, "val2017", 7)
    )
    assert drawn_digest(own, "val2017", "released") == drawn_digest(EmbeddedData(), "val2017", 0)


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(digest.Path, "home", classmethod(lambda _: (_ for _ in ()).throw(RuntimeError("no home"))))
    assert cache_file("digests.json") is None
