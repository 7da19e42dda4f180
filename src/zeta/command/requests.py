"""The options of the commands as plain texts, before they are parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: the default of --max-shard-size; equal to that of zeta.save, whose module would import torch
MAX_SHARD_SIZE: Final = "50GB"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model, and how it is initialized: by a recipe, by rules, or recorded."""

    model: str
    recipe: str | None = None
    rules: Path | None = None
    kwargs: str = "{}"
    dtype: str | None = None
    cast_buffers: bool = False
    device: str | None = None
    fallback: str | None = None


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of a check, and the files to write."""

    batch: str | None = None
    loss: str | None = None
    level: str = "fast"
    suppress: tuple[str, ...] = ()
    html: Path | None = None
    json: Path | None = None
    sarif: Path | None = None
