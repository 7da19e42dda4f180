"""The settings of a transformers model, which its ``from_pretrained`` needs in addition to the tensors.

transformers itself is not imported: the model has everything. What its methods return is parsed with the limits of any
configuration before it is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from torch import nn

from zeta.base import dtypes
from zeta.base.reading import LARGEST_SETTINGS, parse_json, shown
from zeta.base.sources import folder
from zeta.errors import FormatError, notice
from zeta.resolve.plans import Plan
from zeta.resolve.slots import type_name, unwrap
from zeta.rules import Kind

CONFIG: Final = "config.json"
GENERATION: Final = "generation_config.json"
SETTINGS: Final = (CONFIG, GENERATION)
#: the files that may be copied from another checkpoint: those of tokenizers and processors
COPIED: Final = tuple(name for name in folder.SETTINGS if name not in SETTINGS)
#: how the tensors of the checkpoint that a configuration is from are quantized
_QUANTIZATION: Final = "quantization_config"
#: the file that has its tensors, where this is not the usual one; ``save_pretrained`` does not write it either
_ANOTHER_FILE: Final = "transformers_weights"


def settings_of(model: nn.Module, plan: Plan) -> dict[str, str]:
    """The texts of the settings files by name, as ``save_pretrained`` writes them; empty for other models.

    ``config.json`` has the model's class and the dtype that most of the planned parameters have. It says neither that
    plain numbers are quantized, which a notice says, nor which file has the tensors. If the configuration cannot be
    written as JSON, a notice says why, and the result is empty.
    """
    inner: Any = unwrap(model) if isinstance(model, nn.Module) else None
    if inner is None or not _has_config(inner):
        return {}
    try:
        config = _object(inner.config.to_json_string)
        if not getattr(inner, "is_quantized", False) and (left_out := _unquantized(config)):
            notice(
                f"{CONFIG} is written without {' and '.join(left_out)}: the model's parameters are plain numbers, and "
                "from_pretrained would read them as quantized ones. Quantize the model when it is loaded"
            )
        config.pop(_ANOTHER_FILE, None)
        config["architectures"] = [type_name(inner)]
        if (dtype := _dtype_of(plan)) is not None:
            config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
        settings = {CONFIG: _text(config)}
        generation: Any = getattr(inner, "generation_config", None)
        if callable(getattr(type(generation), "to_json_string", None)):
            settings[GENERATION] = _text(_object(generation.to_json_string, without=("compile_config",)))
    except FormatError as error:
        notice(
            f"{' and '.join(SETTINGS)} are not written, so that from_pretrained will need them from elsewhere: the "
            f"model's configuration {error}"
        )
        return {}
    return settings


def differences(earlier: str | None, now: str | None) -> list[str]:
    """How two texts of one settings file differ, in words; ``None`` stands for no file."""
    if earlier == now:
        return []
    if earlier is None or now is None:
        return ["was not asked for, and is now" if earlier is None else "was asked for, and is not now"]
    try:
        one, two = parse_json(earlier), parse_json(now)
    except FormatError as error:
        return [f"cannot be read: {error}"]
    if not isinstance(one, dict) or not isinstance(two, dict):
        return ["is no JSON object"]
    missing = object()
    pairs = {key: (one.get(key, missing), two.get(key, missing)) for key in {**one, **two}}
    changed = [
        f"{shown(key)} was {_value(before, missing)}, and is {_value(after, missing)} now"
        for key, (before, after) in pairs.items()
        if before != after
    ]
    return changed or ["has the same values in another form"]


def _value(value: Any, missing: object) -> str:
    return "not there" if value is missing else shown(value)


def _has_config(model: nn.Module) -> bool:
    """Whether ``from_pretrained`` of the model's own class builds this model from its configuration."""
    kind, config = type(model), getattr(model, "config", None)
    expected = getattr(kind, "config_class", None)  # of the class: wrappers pass on an attribute of the inner model
    return (
        isinstance(expected, type)
        and isinstance(config, expected)
        and callable(getattr(expected, "to_json_string", None))
        and callable(getattr(kind, "from_pretrained", None))
        and not getattr(model, "_hf_peft_config_loaded", False)  # the names of adapters are not those of the class
    )


def _object(to_json_string: Callable[[], Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    try:
        text = to_json_string()
    except Exception as error:
        raise FormatError(f"cannot be written as JSON: {type(error).__name__}: {error}") from error
    data = parse_json(text)
    if not isinstance(data, dict):
        raise FormatError(f"is no JSON object, but {shown(data)}")
    return {key: value for key, value in data.items() if key not in without}


def _unquantized(data: dict[str, Any], place: str = "") -> list[str]:
    """Remove what says that tensors are quantized, at any depth, and return where it was."""
    found = [f"{place}{_QUANTIZATION}"] if data.pop(_QUANTIZATION, None) else []
    for name, value in data.items():
        if isinstance(value, dict):
            found += _unquantized(value, f"{place}{name}.")
    return found


def _text(data: dict[str, Any]) -> str:
    text = json.dumps(data, indent=2, sort_keys=True) + "\n"
    if len(text) > LARGEST_SETTINGS:
        raise FormatError(f"has {len(text):,} bytes as JSON; at most {LARGEST_SETTINGS:,} are written")
    return text


def _dtype_of(plan: Plan) -> str | None:
    """The dtype of most elements of floating-point parameters; others stay in fp32, which the model's class knows."""
    counts: Counter[str] = Counter()
    for entry in plan:
        if entry.kind is not Kind.BUFFER and entry.dtype in dtypes.REAL:
            counts[dtypes.name_of(entry.dtype)] += entry.numel
    return counts.most_common(1)[0][0] if counts else None
