"""Translate torch's operations to the closed language: the result of each operation, as a node.

Most operations of the language have torch's names and arguments. This module translates the rest: other spellings, and
operations that are several of the language. Anything else is not recordable: a new
operation goes into ``zeta.base.language.operations``, a random one into ``randomness``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch._ops import OpOverload

from zeta.base.language.layouts import Box, strides_of
from zeta.base.language.operations import ATTRIBUTE_KINDS, OPERATIONS, Operation, is_inexact
from zeta.base.reading import shown
from zeta.errors import RecordingError
from zeta.resolve.recording.sources import Source
from zeta.resolve.recording.tracing.graph import Node, cast, cut, expand, full, make, permute, reshape, viewed

#: arguments about the place and memory layout of the result, which do not affect its values
PLACES: Final = (
    "device", "layout", "pin_memory", "non_blocking", "generator", "memory_format", "out", "driver", "check_errors",
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def base_name(func: OpOverload) -> str:
    """The operation's name without namespace, overload and the underscore of in-place versions."""
    name = func._schema.name.partition("::")[2]
    return name if name.startswith("__") else name.removesuffix("_")


def lowered(
    func: OpOverload, arguments: Mapping[str, Any], shape: tuple[int, ...], dtype: torch.dtype, part: int | None,
    source: Source | None,
) -> Node:  # fmt: skip
    """The node of an operation's result of ``shape`` and ``dtype``; ``part`` is its number if there are several.

    ``arguments`` are the given arguments by name, with nodes instead of tensors.

    Raises ``RecordingError`` for operations that the language does not have.
    """
    name = base_name(func)
    given = {key: value for key, value in arguments.items() if key not in PLACES and value is not None}
    special = _SPECIAL.get(name)
    if special is not None:
        node = special(given, shape, dtype, source)
    else:
        name = _NAMES.get(name, name)
        operation = OPERATIONS.get(name) if func.namespace == "aten" else None
        if operation is None:
            raise RecordingError(f"{func} is no operation of programs ({source}; docs/programs.md lists them)")
        node = _same(operation, given, shape, dtype, part, source)
    return node if node.source == source else replace(copy(node), source=source)


def copy(node: Node) -> Node:
    """The same values, as another node."""
    return make("copy", node, like=node)


def _same(
    operation: Operation, given: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, part: int | None,
    source: Source | None,
) -> Node:  # fmt: skip
    """An operation that the language has with the same names."""
    operands = [given.pop(name, None) for name in operation.operands]
    if operation.casts:
        given.pop("dtype", None)
    if operation.creates:
        given.pop("dtype", None)
    if part is not None and "part" in operation.attributes:
        given["part"] = part
    attributes = {key: _plain(value) for key, value in given.items()}
    for key, value in attributes.items():
        kind = operation.attributes.get(key)
        if kind is None or not ATTRIBUTE_KINDS[kind](value):
            got = "a tensor" if isinstance(value, Node) else shown(value)
            raise RecordingError(f"{operation.name} was given {got} for {key}, which a plan cannot hold ({source})")
    if operation.elementwise:
        operands = _inexact(operation, operands, dtype)
    return Node(
        op=operation.name,
        operands=tuple(operands),
        attributes=tuple(sorted(attributes.items())),
        shape=shape,
        dtype=dtype,
        source=source,
    )


def _inexact(operation: Operation, operands: Sequence[Any], dtype: torch.dtype) -> list[Any]:
    """Cast integer operands to the floating-point dtype in which torch computes: its default dtype.

    In comparisons, this is done only if an operand is a float.
    """
    if any(isinstance(operand, Node) and is_inexact(operand.dtype) for operand in operands):
        return list(operands)
    if not is_inexact(dtype):
        if operation.name not in _COMPARISONS or not any(isinstance(operand, float) for operand in operands):
            return list(operands)
        dtype = torch.get_default_dtype()
    first = 1 if operation.name == "where" else 0  # the condition stays
    chosen = [cast(operand, dtype) if isinstance(operand, Node) else operand for operand in operands[first:]]
    if operation.name == "where":
        chosen = [full(x, (), dtype, None) if not isinstance(x, Node) else x for x in chosen]
    return [*operands[:first], *chosen]


_COMPARISONS: Final = ("eq", "ne", "lt", "le", "gt", "ge")


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


# -- operations with other spellings -----------------------------------------------------------------------------------

_NAMES: Final = {
    "special_erf": "erf", "special_expit": "sigmoid", "absolute": "abs", "divide": "div", "multiply": "mul",
    "true_divide": "div", "subtract": "sub", "negative": "neg",
    "_conj_physical": "conj_physical", "__lshift__": "bitwise_left_shift", "__rshift__": "bitwise_right_shift",
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor",
}  # fmt: skip

Given = dict[str, Any]
Lowering = Callable[[Given, tuple[int, ...], torch.dtype, Source | None], Node]


def _of_full(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    value = given.get("fill_value", given.get("s"))
    if isinstance(value, Node):
        return replace(expand(copy(cast(value, dtype)), shape), source=source)
    return full(value, shape, dtype, source)


def _of_number(value: int) -> Lowering:
    return lambda given, shape, dtype, source: full(value, shape, dtype, source)


def _of_copy(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    return cast(expand(given["self"], shape), dtype)


def _of_reshaped(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    return reshape(given["self"], shape)


def _of_permuted(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    return permute(given["self"], [dim % len(shape) for dim in given["dims"]])


def _of_expanded(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    return expand(given["self"], shape)


def _of_repeat(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    x, repeats = given["self"], given["repeats"]
    inner = (1,) * (len(repeats) - len(x.shape)) + x.shape
    once = reshape(x, [n for extent in inner for n in (1, extent)])
    return reshape(expand(once, [n for pair in zip(repeats, inner, strict=True) for n in pair]), shape)


def _of_stack(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    dim = given.get("dim", 0) % len(shape)
    parts = [reshape(part, (*shape[:dim], 1, *shape[dim + 1 :])) for part in given["tensors"]]
    return _joined(parts, dim, shape, dtype, source)


def _of_cat(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    dim = given.get("dim", 0) % len(shape)
    # torch ignores empty one-dimensional tensors, whatever the shapes of the others
    parts = [part for part in given["tensors"] if len(part.shape) == len(shape)]
    return _joined(parts, dim, shape, dtype, source)


def _joined(parts: list[Node], dim: int, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    operands = tuple(cast(part, dtype) for part in parts)
    return Node(op="cat", operands=operands, attributes=(("dim", dim),), shape=shape, dtype=dtype, source=source)


def _of_arange(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    named = (("end", given["end"]), ("start", given.get("start", 0)), ("step", given.get("step", 1)))
    return Node(op="arange", attributes=named, shape=shape, dtype=dtype, source=source)


def _of_eye(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    return Node(op="eye", attributes=(("m", shape[1]), ("n", shape[0])), shape=shape, dtype=dtype, source=source)


def _of_indexed(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    indices, dims = _indices(given)
    operands = (given["self"], *indices)
    return Node(op="index", operands=operands, attributes=(("dims", dims),), shape=shape, dtype=dtype, source=source)


def _of_index_put(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    indices, dims = _indices(given)
    named = (("accumulate", bool(given.get("accumulate", False))), ("dims", dims))
    operands = (given["self"], given["values"], *indices)
    return Node(op="index_put", operands=operands, attributes=named, shape=shape, dtype=dtype, source=source)


def _indices(given: Given) -> tuple[list[Node], tuple[int, ...]]:
    """The indices, and the position of each in torch's list; a mask has one position for all its dimensions."""
    placed = [(place, index) for place, index in enumerate(given["indices"]) if index is not None]
    return [index for _, index in placed], tuple(place for place, _ in placed)


def _of_embedding(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    operands = (given["weight"], given["indices"])
    return Node(op="index", operands=operands, attributes=(("dims", (0,)),), shape=shape, dtype=dtype, source=source)


def _of_scatter(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    if "reduce" in given:
        raise RecordingError(f"scatter with reduce={given['reduce']!r} is no operation of programs ({source})")
    value = given["src"] if "src" in given else given["value"]
    operands = (given["self"], given["index"], value)
    return Node(
        op="scatter", operands=operands, attributes=(("dim", given["dim"]),), shape=shape, dtype=dtype, source=source
    )


def _of_round(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    named = {key: value for key, value in given.items() if key == "decimals" and value}
    return replace(make("round", given["self"], like=given["self"], **named), source=source)


def _of_flat_take(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    flat = reshape(given["self"], (given["self"].numel,))
    return _of_embedding({"weight": flat, "indices": given["index"]}, shape, dtype, source)


def _of_std(name: str) -> Lowering:
    def lowering(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
        if "unbiased" in given:
            given["correction"] = int(given.pop("unbiased"))
        return _same(OPERATIONS[name], given, shape, dtype, None, source)

    return lowering


def _of_diagonal(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    x, offset = given["self"], given.get("offset", 0)
    first, second = (given.get(key, default) % len(x.shape) for key, default in (("dim1", 0), ("dim2", 1)))
    strides = list(strides_of(x.shape))
    start = offset * strides[second] if offset >= 0 else -offset * strides[first]
    along = strides[first] + strides[second]
    kept = [stride for dim, stride in enumerate(strides) if dim not in (first, second)]
    return viewed(x, shape, (*kept, along), start)


def _of_quarter_turns(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    x, turns = given["self"], given.get("k", 1) % 4
    first, second = (dim % len(shape) for dim in given.get("dims", (0, 1)))
    swapped = list(range(len(shape)))
    swapped[first], swapped[second] = second, first
    flipped = {0: (), 1: (second,), 2: (first, second), 3: (first,)}[turns]
    node = make("flip", x, like=x, dims=flipped) if flipped else x
    return permute(node, swapped) if turns % 2 else node


def _of_padding(given: Given, shape: tuple[int, ...], dtype: torch.dtype, source: Source | None) -> Node:
    pad = tuple(given["pad"])
    node = given["self"]
    if all(n == 0 for n in pad):
        return node  # type: ignore[no-any-return]
    if all(n <= 0 for n in pad):
        starts = (*(0,) * (len(shape) - len(pad) // 2), *(-n for n in pad[-2::-2]))
        return cut(node, replace(Box.whole(shape), starts=starts))
    return _same(OPERATIONS["constant_pad_nd"], given, shape, dtype, None, source)


_SPECIAL: Final[dict[str, Lowering]] = {
    **dict.fromkeys(("full", "full_like", "new_full", "scalar_tensor"), _of_full),
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros"), _of_number(0)),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), _of_number(1)),
    **dict.fromkeys(
        ("clone", "_to_copy", "detach", "alias", "contiguous", "_pin_memory", "positive", "detach_copy", "alias_copy",
         "lift_fresh_copy"),
        _of_copy,
    ),
    **dict.fromkeys(
        ("view", "_unsafe_view", "view_copy", "_reshape_copy", "squeeze_copy", "unsqueeze_copy"), _of_reshaped
    ),
    "permute_copy": _of_permuted,
    "expand_copy": _of_expanded,
    "repeat": _of_repeat,
    "stack": _of_stack,
    "cat": _of_cat,
    "concat": _of_cat,
    "arange": _of_arange,
    "eye": _of_eye,
    **dict.fromkeys(("index", "_unsafe_index"), _of_indexed),
    **dict.fromkeys(("index_put", "_unsafe_index_put", "_index_put_impl"), _of_index_put),
    "diagonal_copy": _of_diagonal,
    "rot90": _of_quarter_turns,
    "embedding": _of_embedding,
    "scatter": _of_scatter,
    "round": _of_round,
    "take": _of_flat_take,
    "std": _of_std("std"),
    "var": _of_std("var"),
    "constant_pad_nd": _of_padding,
}  # fmt: skip
