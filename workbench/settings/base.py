"""Base class of every group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A group of settings. It is frozen, and an unknown key is an error.

    A value has the type of its field: a text is not a number, true is not 1, and numbers are finite. A field for a list
    or for a path states ``strict=False``, because YAML and JSON have no tuples and no paths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
