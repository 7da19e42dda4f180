"""The options of the commands as plain texts, before they are parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: the default of --max-shard-size; equal to that of zeta.save, whose module would import torch
MAX_SHARD_SIZE: Final = "50GB"

#: the values of --rows and of --depth
ROWS: Final = ("recorded", "mean", "zeros")
DEPTHS: Final = ("identity", "stack", "interleave")

#: the values of --how of zeta scale
SCHEMES: Final = ("sp", "mup", "completep", "megatron-mup", "spectral", "umup")

#: the values of --level
LEVELS: Final = ("fast", "full")

#: the names that --dtype takes in addition to torch's, in lower case; the others are torch's, as completion offers them
DTYPES: Final = {
    "bfloat16": "bfloat16", "float16": "float16", "float32": "float32", "float64": "float64",
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64",
    "f16": "float16", "f32": "float32", "f64": "float64",
    "half": "float16", "float": "float32", "double": "float64",
    "fp8_e4m3": "float8_e4m3fn", "f8_e4m3": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2", "f8_e5m2": "float8_e5m2",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model, and how it is initialized: by a recipe, by rules, or recorded."""

    model: str
    recipe: str | None = None
    options: tuple[str, ...] = ()
    rules: Path | None = None
    override: Path | None = None
    kwargs: str = "{}"
    dtype: str | None = None
    cast_buffers: bool = False
    device: str | None = None
    fallback: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """A checkpoint, the model that it is adapted to, and how."""

    source: Path
    model: str | None
    kwargs: str
    how: str
    options: tuple[str, ...]
    fallback: str | None
    vocab: int | None
    rows: str
    noise: float | None
    layers: int | None
    depth: str
    allow: tuple[str, ...]
    name_map: tuple[str, ...]
    prefix: str | None
    dtype: str | None


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """Two sizes of a model, the scheme, and an optimizer."""

    model: str
    base: str
    target: str
    how: str
    optimizer: str
    lr: float
    weight_decay: float
    roles: tuple[str, ...]
    depth: str | None
    alpha: float
    multipliers: bool
    attention: bool
    recipe: str | None
    fallback: str | None


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of a check, and the files to write."""

    batch: str | None = None
    loss: str | None = None
    level: str = "fast"
    suppress: tuple[str, ...] = ()
    html: Path | None = None
    sarif: Path | None = None
    widths: str | None = None
    depths: str | None = None
    how: str = "sp"
    lr: float = 1e-3
