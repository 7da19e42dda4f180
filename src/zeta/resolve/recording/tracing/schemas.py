"""Facts from the schemas of torch's operations: names of arguments, written arguments, out-of-place versions."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch._ops import OpOverload


@functools.lru_cache(maxsize=4096)
def name_of(func: OpOverload) -> str:
    """``aten.<name>.<overload>``."""
    return func._schema.name.replace("::", ".") + "." + (func._overloadname or "default")


@functools.lru_cache(maxsize=4096)
def arguments_of(func: OpOverload) -> tuple[str, ...]:
    """The names of an operation's arguments."""
    return tuple(argument.name for argument in func._schema.arguments)


def named(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All given arguments by their names."""
    return {**dict(zip(arguments_of(func), args, strict=False)), **kwargs}


@functools.lru_cache(maxsize=4096)
def _mutated(func: OpOverload) -> tuple[tuple[int, str], ...]:
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def written_arguments(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operation writes."""
    return [args[n] if n < len(args) else kwargs.get(name) for n, name in _mutated(func)]


@functools.lru_cache(maxsize=4096)
def functional(func: OpOverload) -> OpOverload | None:
    """The out-of-place version of an operation that writes in place or to ``out``."""
    namespace, packet = func._schema.name.split("::")
    found = getattr(getattr(torch.ops, namespace), packet.removesuffix("_"), None)
    if found is None:
        return None
    for version in found.overloads():
        candidate = getattr(found, version)
        if not candidate._schema.is_mutable and _signature(candidate) == _signature(func):
            return candidate  # type: ignore[no-any-return]
    return None


def _signature(func: OpOverload) -> list[str]:
    """The types of the arguments that decide a value."""
    left_out = ("out", "dtype", "device", "layout", "pin_memory")
    return [re.sub(r"\(.*?\)", "", str(a.type)) for a in func._schema.arguments if a.name not in left_out]
