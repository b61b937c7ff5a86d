"""ImageNet weights of backbones: fetched once, checked by digest, or taken from a file that the user supplies."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from workbench.errors import WorkbenchError

# The "V1" weights, with which the paper's numbers were made; the file's name carries the start of its SHA-256.
TORCHVISION = {"resnet50": "resnet50-0676ba61.pth"}
SOURCE = "https://download.pytorch.org/models/"


def fetch_weights(name: str, file: Path) -> None:
    """Put the weights of a backbone at ``file``.

    Raises:
        WorkbenchError: unknown backbone, no connection, or a file that is not what it should be.
    """
    if name not in TORCHVISION:
        raise WorkbenchError(f"no known weights for backbone '{name}' (known: {', '.join(TORCHVISION)})")
    url = SOURCE + TORCHVISION[name]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".partial")
    try:
        urllib.request.urlretrieve(url, temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        expected = TORCHVISION[name].split("-")[1].split(".")[0]
        if not digest.startswith(expected):
            raise WorkbenchError(f"{url}: digest {digest[:8]}, not {expected}; try again")
        os.replace(temporary, file)
    except OSError as error:
        raise WorkbenchError(
            f"{url}: cannot be fetched ({error}); where there is no connection, put {TORCHVISION[name]} at {file}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
