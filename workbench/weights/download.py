"""Download of ImageNet weights and of published detectors, with a check of the file's digest."""

from __future__ import annotations

import errno
import hashlib
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

from workbench.settings.catalog import find_row
from workbench.settings.experiment import Backbone, DrawnPretraining, Experiment
from workbench.settings.files import catalogue, read_table
from workbench.settings.released import Released, read_released
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import move_into_place, read_json
from workbench.support.strict_yaml import choose

BACKBONES = {
    # Weights "V1" of torchvision. The paper used these weights.
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
    # timm and torchvision publish other weights under this name.
    "resnext101_32x4d": "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth",
    "resnext101_64x4d": "https://download.openmmlab.com/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth",
    "res2net101d": "https://download.openmmlab.com/pretrain/third_party/res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
}
"""Addresses of ImageNet weights; the name of each file contains the first digits of its SHA-256."""
TIMEOUT = 60
"""Seconds without an answer after which a download fails."""


def fetch_weights(name: str, file: Path) -> None:
    """Download the ImageNet weights of a backbone, or the published weights of a detector, to ``file``.

    Raises:
        WorkbenchError: an unknown name, no address, no connection, or a file with another digest.
    """
    url, digest = _source(name, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial")
    try:
        _download(url, temporary)
        with temporary.open("rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
        if digest is not None and not actual.startswith(digest):
            raise WorkbenchError(
                f"{url}: digest {actual[: len(digest)]}, not {digest}; try again, or put the file with the listed "
                f"digest at {file}"
            )
        move_into_place(temporary, file)
    except (OSError, HTTPException) as error:  # HTTPException: the answer is not HTTP
        raise WorkbenchError(
            f"{url}: cannot download it ({one_line(error)}); try again, or put this file at {file} yourself"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_backbone(file: Path, backbone: Backbone) -> dict[str, str]:
    """Return name and SHA-256 of a file with weights of a backbone, for ``train.json``.

    Raises:
        WorkbenchError: the file cannot be read, or its digest differs from the listed digest. Digests are listed for
            whole networks only, not for narrower or shallower ones.
    """
    if isinstance(backbone.pretrained, DrawnPretraining):
        remedy = f"run: workbench pretrain --run ROW {file}"
        return check_file(file, _digest_beside(file), backbone.name, remedy)
    is_whole = backbone.layers is None and backbone.channels is None and backbone.stem is None
    url = BACKBONES.get(backbone.name) if is_whole else None
    listed = {_digest_in(url)} if url else set()
    return check_file(file, listed, backbone.name, f"run: workbench weights {backbone.name} FILE")


def check_published(file: Path, experiment: Experiment) -> dict[str, str]:
    """Return facts about a file with published weights of a detector, for ``train.json``.

    The facts are name and SHA-256 of the file, and, if they are known, ``weights`` and ``publisher``: the name in
    ``released.yaml`` and its publisher. The file's name without suffix decides, or else a listed digest.

    Raises:
        WorkbenchError: the file cannot be read, has the name of weights of other rows or of an older geometry, or
            weights are listed for this experiment (on COCO), all with other digests.
    """
    released = read_released()
    listed = {name: weights for name, weights in released.items() if _is_of(weights, experiment)}
    if named := released.get(file.stem):
        refuse_older_geometry(str(file), named)
        if listed and file.stem not in listed:
            raise WorkbenchError(
                f"{file}: this is the name of the weights of {', '.join(named.rows)}, not of this run "
                f"({' or '.join(listed)}); import the file with --run {next(iter(named.rows))}, or rename it"
            )
        listed = {file.stem: named} if listed else {}
    digests = {weights.sha256: name for name, weights in listed.items() if weights.sha256}
    # Weights without a listed digest may be in any file.
    required = set(digests) if len(digests) == len(listed) else set()
    names = ", ".join(digests.values()) or "a detector"
    facts = check_file(file, required, names, f"run: workbench weights {names} FILE")
    of_digest = (name for digits, name in digests.items() if facts["sha256"].startswith(digits))
    name = file.stem if named else next(of_digest, None)
    return facts | ({"weights": name, "publisher": released[name].publisher} if name else {})


def refuse_older_geometry(place: str, weights: Released) -> None:
    """Raise a WorkbenchError if published weights have a geometry that the detectors here do not have."""
    if weights.geometry is not None:
        raise WorkbenchError(
            f"{place}: weights of the geometry of {weights.geometry.replace('mmd', 'MMD')}, which the detectors here "
            "do not have yet, so that their AP would be lower without an error; use weights of MMDetection 2 or 3"
        )


def _is_of(weights: Released, experiment: Experiment) -> bool:
    """Whether published weights are listed for an experiment, with COCO or with another digest of the data."""
    tables = catalogue().rows
    run = (row for row in weights.rows if read_table(tables[row]).rows[row].base)  # without rows from the literature
    stated = (find_row(row, "coco").experiment for row in run)
    return any(row.model_copy(update={"data": experiment.data}) == experiment for row in stated)


def check_file(file: Path, listed: set[str], name: str, remedy: str) -> dict[str, str]:
    """Return name and SHA-256 of a file of weights.

    Args:
        listed: first digits of the SHA-256, one of which the file must have; empty if no digest is listed.
        name: name of the weights in the message.

    Raises:
        WorkbenchError: the file cannot be read, or has another digest.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):  # to open a named pipe would wait for ever
            raise OSError(errno.EINVAL, "a pipe or a device, not a file")
        with file.open("rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise WorkbenchError(f"{file}: weights of {name} cannot be read ({error.strerror}); {remedy}") from None
    if listed and not any(actual.startswith(digits) for digits in listed):
        raise WorkbenchError(
            f"{file}: SHA-256 {actual}, but {' or '.join(sorted(listed))} is listed for {name}; {remedy}"
        )
    return {"file": file.name, "sha256": actual}


def _digest_beside(file: Path) -> set[str]:
    """SHA-256 in the facts beside a file of weights that were pretrained on drawn objects; empty without facts."""
    facts = file.with_suffix(".json")
    digest = read_json(facts, "facts about the weights").get("sha256") if facts.is_file() else None
    return {digest} if isinstance(digest, str) else set()


def _digest_in(url: str) -> str:
    """First digits of the SHA-256 in a file name such as ``resnet50-0676ba61.pth``."""
    return url.rsplit("-", 1)[1].removesuffix(".pth")


def _download(url: str, file: Path) -> None:
    """Copy the content of an address into a file; raise OSError if the server stops or the content is incomplete."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, file.open("wb") as target:
        shutil.copyfileobj(response, target)
        received, stated = target.tell(), int(response.headers.get("Content-Length") or -1)
    if stated not in (-1, received):
        raise OSError(f"{received} bytes of {stated}")


def _source(name: str, file: Path) -> tuple[str, str | None]:
    """Address of a file, and the first digits of its SHA-256 or None if no digest is published."""
    if name in BACKBONES:
        return BACKBONES[name], _digest_in(BACKBONES[name])
    released = read_released()
    choose(name, [*BACKBONES, *released], "weights", "workbench weights")
    weights = released[name]
    refuse_older_geometry(name, weights)
    if weights.url is None:
        raise WorkbenchError(
            f"{name}: the address of these weights is unknown; download them from their publishers "
            f"({weights.publisher}) to {file}, or add the address to experiments/*/released.yaml"
        )
    return weights.url, weights.sha256
