"""Facts from the schemas of torch's operations: names of arguments, written arguments, out-of-place versions."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

import torch
from torch._ops import OpOverload

#: what torch does to a tensor that it just made of data
LIFTS: Final = ("aten.lift_fresh.default", "aten.lift.default", "aten.lift_fresh_copy.default")
#: what writes to arguments of which the schema does not say so
WRITING_UNSAID: Final = frozenset(
    f"aten.{name}.{version}"
    for name in ("native_batch_norm", "batch_norm_update_stats", "cudnn_batch_norm", "miopen_batch_norm")
    for version in ("default", "out")
)
#: what gives a tensor another form, or other memory
REARRANGING: Final = (
    "aten.set_.source_Tensor", "aten.set_.source_Storage", "aten.set_.source_Storage_storage_offset",
    "aten.t_.default", "aten.transpose_.default", "aten.squeeze_.default", "aten.squeeze_.dim",
    "aten.squeeze_.dims", "aten.unsqueeze_.default", "aten.as_strided_.default", "aten.detach_.default",
)  # fmt: skip
#: what makes memory without values
UNINITIALIZED: Final = frozenset(
    f"aten.{name}"
    for name in (
        "empty.memory_format", "empty_like.default", "empty_strided.default", "new_empty.default",
        "new_empty_strided.default", "empty_permuted.default",
    )
)  # fmt: skip


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
    plain = packet.replace("__i", "__") if packet.startswith("__") else packet.removesuffix("_")
    found = getattr(getattr(torch.ops, namespace), plain, None)
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
