"""Weights that others have trained: fetched once, checked by digest, or taken from a file that the user supplies."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

from workbench.settings.released import read_released
from workbench.support.errors import WorkbenchError, one_line
from workbench.support.strict_yaml import choose

BACKBONES = {
    # The "V1" weights of torchvision, with which the paper's numbers were made.
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
    # Those of timm and torchvision are others.
    "resnext101_32x4d": "https://download.openmmlab.com/pretrain/third_party/resnext101_32x4d-a5af3160.pth",
    "resnext101_64x4d": "https://download.openmmlab.com/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth",
    "res2net101d": "https://download.openmmlab.com/pretrain/third_party/res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
}
"""ImageNet weights; a file's name carries the start of its SHA-256."""
TIMEOUT = 60
"""Seconds of silence after which a server is given up."""


def fetch_weights(name: str, file: Path) -> None:
    """Put the ImageNet weights of a backbone, or the published ones of a detector, at ``file``.

    Raises:
        WorkbenchError: an unknown name, no address or no connection, or a file that is not what it should be.
    """
    url, digest = _source(name, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial")
    try:
        _download(url, temporary)
        with temporary.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if digest is not None and not found.startswith(digest):
            raise WorkbenchError(
                f"{url}: digest {found[: len(digest)]}, not {digest}; try again, or put a file that you trust at {file}"
            )
        os.replace(temporary, file)
    except (OSError, HTTPException) as error:  # the latter where what answers is no web server
        raise WorkbenchError(
            f"{url}: cannot be fetched ({one_line(error)}); where there is no connection, put that file at {file}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _download(url: str, file: Path) -> None:
    """Copy what an address holds into a file; raises OSError where it falls silent or ends too early."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, file.open("wb") as target:
        shutil.copyfileobj(answer, target)
        found, stated = target.tell(), int(answer.headers.get("Content-Length") or -1)
    if stated not in (-1, found):
        raise OSError(f"{found} bytes of {stated}")


def _source(name: str, file: Path) -> tuple[str, str | None]:
    """The address of a file and how its SHA-256 begins."""
    if name in BACKBONES:
        return BACKBONES[name], BACKBONES[name].rsplit("-", 1)[1].removesuffix(".pth")
    released = read_released()
    choose(name, [*BACKBONES, *released], "weights", "workbench weights")
    weights = released[name]
    if weights.url is None:
        raise WorkbenchError(
            f"{name}: no address of these weights is known; fetch them from their publishers ({weights.publisher}) and "
            f"put them at {file}, or name the address in experiments/*/released.yaml"
        )
    return weights.url, weights.sha256
