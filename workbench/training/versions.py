"""Versions of the code with which a training made its steps. The code may change before a training is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from workbench.support.code_digest import code_digest
from workbench.support.provenance import git_commit

UNKNOWN = {"first_step": 1, "code_digest": "unknown", "git_commit": "unknown"}
"""Version of a checkpoint that states none, because an earlier version of the workbench wrote it."""


def present_version(experiment: BaseModel) -> dict[str, Any]:
    """Version of the code that this process has loaded, from the first step on."""
    return {"first_step": 1, "code_digest": code_digest(experiment), "git_commit": git_commit()}


def code_facts(versions: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts about the code of a training for ``train.json``.

    The digest of several versions has the parts of each, so it equals the digest of none of them.
    """
    versions = list(versions)
    parts = dict.fromkeys(part for version in versions for part in version["code_digest"].split())
    last = versions[-1]["git_commit"]
    return {"git_commit": last, "code_digest": " ".join(parts), "versions_of_code": versions}
