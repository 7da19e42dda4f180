"""Parse the options of the command line: from texts to values."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zeta import recipes
from zeta.base import dtypes
from zeta.base.reading import parse_json, shown
from zeta.command.loading import load_model, record_model, with_buffers
from zeta.command.requests import DTYPES, ModelOptions
from zeta.compute.stream.random import check_seed
from zeta.errors import FormatError, SpecError, UsageError
from zeta.resolve.casting import cast
from zeta.resolve.planning import plan
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import Fallback
from zeta.rules.file import read_rules


def planned(asked: ModelOptions) -> tuple[nn.Module, Plan]:
    """The model that the options name, and its plan: from a recipe or rules, or recorded. Raises ``UsageError``."""
    recipe, rules, device = asked.recipe, asked.rules, asked.device
    if recipe is not None and rules is not None:
        raise UsageError("--recipe and --rules exclude each other; give one of them")
    if recipe is not None and recipe not in recipes.names():
        raise UsageError(f"unknown recipe {recipe!r}: expected one of {', '.join(recipes.names())}")
    if asked.options and recipe is None:
        raise UsageError("--option is an option of a recipe; give --recipe too")
    arguments, dtype = arguments_of(asked.kwargs), dtype_of(asked.dtype)
    if asked.cast_buffers and dtype is None:
        raise UsageError("--cast-buffers extends --dtype to buffers; give --dtype too")
    if recipe is None and rules is None:
        if device is not None:
            raise UsageError(
                "--device is where a model is built for --recipe or --rules; without them its constructor is recorded, "
                "which allocates nothing anywhere. Leave --device out"
            )
        built, decided = record_model(asked.model, arguments, fallback_of(asked.fallback))
        if asked.override is not None:
            decided = decided.override(read_rules(asked.override, built), built)
    else:
        if asked.override is not None:
            raise UsageError("--override changes what is recorded; with --recipe or --rules, put a rule first instead")
        if device not in (None, "meta", "cpu"):
            raise UsageError(f"--device must be meta or cpu, got {device!r}")
        if asked.fallback is not None:
            raise UsageError("--fallback is for recording; with --recipe or --rules, add a rule instead")
        built = load_model(asked.model, arguments, device or "meta")
        how = read_rules(rules, built) if rules is not None else str(recipe)
        decided = plan(built, how, options_of(asked.options))
        decided = with_buffers(decided, built, lambda: record_model(asked.model, arguments)[1])
    return built, cast(decided, built, dtype, buffers=asked.cast_buffers)


def arguments_of(kwargs: str, option: str = "--kwargs") -> dict[str, Any]:
    """The arguments of the model's constructor, from an object in JSON."""
    try:
        arguments = parse_json(kwargs)
    except FormatError as error:
        raise UsageError(f"{option} is not JSON: {error}; expected something like '{{\"n_layer\": 2}}'") from None
    if not isinstance(arguments, dict):
        raise UsageError(f"{option} must be a JSON object, got {shown(arguments)}")
    return arguments


def options_of(given: tuple[str, ...]) -> dict[str, Any]:
    """The options of a recipe, ``KEY=VALUE`` each; a value that is no JSON is a text."""
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--option must be KEY=VALUE, such as zero_init_residual=true, got {text!r}")
        found[key] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """A value in JSON, or else the text itself."""
    try:
        return parse_json(text)
    except FormatError:
        return text


def dtype_of(name: str | None) -> torch.dtype | None:
    """The dtype that ``--dtype`` names, in torch's or another usual way; ``None`` if it is not given."""
    if name is None:
        return None
    plain = name.strip().lower().removeprefix("torch.")
    try:
        dtype = dtypes.dtype_named(DTYPES.get(plain, plain))
    except SpecError:
        raise UsageError(
            f"--dtype: unknown dtype {name!r}; expected one such as bfloat16 (bf16), float16 (fp16) or float32 (fp32)"
        ) from None
    if dtype not in dtypes.REAL:
        raise UsageError(f"--dtype must be a floating-point dtype, got {name!r}")
    return dtype


def fallback_of(text: str | None) -> Fallback | None:
    """The value of ``--fallback``: rules from a file, or ``"real"``."""
    if text == "real":
        return "real"
    return None if text is None else read_rules(Path(text), None)


def parsed_seed(text: str) -> int:
    """The seed that ``--seed`` gives; a random one for ``random``."""
    if text == "random":
        return secrets.randbits(64)  # not torch's generator, which has the same state at the start of every process
    try:
        return check_seed(int(text, 0))
    except ValueError:
        raise UsageError(f"--seed must be a whole number from 0 to 2^64 - 1, or 'random', got {text!r}") from None
