"""Download of ImageNet weights and of published detectors, with a check of the file's digest."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

from workbench.settings.released import read_released
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.files import move_into_place
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
                f"{url}: digest {actual[: len(digest)]}, not {digest}; try again, or put a trusted file at {file}"
            )
        move_into_place(temporary, file)
    except (OSError, HTTPException) as error:  # HTTPException: the answer is not HTTP
        raise WorkbenchError(
            f"{url}: cannot download it ({one_line(error)}); try again, or put this file at {file} yourself"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


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
        return BACKBONES[name], BACKBONES[name].rsplit("-", 1)[1].removesuffix(".pth")
    released = read_released()
    choose(name, [*BACKBONES, *released], "weights", "workbench weights")
    weights = released[name]
    if weights.url is None:
        raise WorkbenchError(
            f"{name}: the address of these weights is unknown; download them from their publishers "
            f"({weights.publisher}) to {file}, or add the address to experiments/*/released.yaml"
        )
    return weights.url, weights.sha256
