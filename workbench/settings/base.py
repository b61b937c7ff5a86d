"""Base class of every group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings. It is frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
