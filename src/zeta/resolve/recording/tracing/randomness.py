"""torch's random operations, expressed as arithmetic on uniform and normal values."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from zeta.base import dtypes
from zeta.errors import RecordingError
from zeta.fans import Axes
from zeta.initializers import Initializer, Normal, TruncatedNormal, Uniform
from zeta.resolve.recording.sources import Source
from zeta.resolve.recording.tracing.graph import Node, Random, cast, full, reachable, reshape, value_of
from zeta.resolve.recording.tracing.schemas import name_of, named

NodeOf = Callable[[Any], Any]


@functools.lru_cache(maxsize=4096)
def is_random(func: OpOverload) -> bool:
    """Whether torch draws from a generator in this operation."""
    return torch.Tag.nondeterministic_seeded in func.tags


@dataclass(frozen=True, kw_only=True)
class Place:
    """The context of a random draw: the line, and the state of the generator, which identifies equal draws.

    ``known`` has the leaves made so far, by what decides their values in torch: the generator's state, the number of
    leaves drawn from it, and the distribution. So a constructor that seeds twice with the same number draws the same
    values twice, if it draws the same distribution, shape and dtype. Another distribution or shape after the same seed,
    for which torch uses the same random numbers, gets independent values here.
    """

    source: Source | None
    state: bytes
    known: dict[Any, Node]
    numbers: Iterator[int] = field(default_factory=itertools.count)


def placed(generator: torch.Generator, known: dict[Any, Node], source: Source | None, *drawn: Any) -> Place:
    """The context of a draw. Moves the generator to a new state, which depends on the old one and on ``drawn``."""
    with torch._C.DisableTorchFunction():  # reads the bytes without an operation, which other modes would see
        state = generator.get_state()
        digest = hashlib.blake2b(ctypes.string_at(state.data_ptr(), state.nbytes), digest_size=16).digest()
    moved = hashlib.blake2b(digest + repr(drawn).encode(), digest_size=7).digest()
    generator.manual_seed(int.from_bytes(moved, "little"))
    return Place(source=source, state=digest, known=known)


def drawn(
    initializer: Initializer, shape: tuple[int, ...], dtype: torch.dtype, at: Place, axes: Axes | None = None
) -> Node:
    """The node of a random leaf; an existing one with the same state and distribution, if there is one."""
    key = (at.state, next(at.numbers), initializer, shape, dtype, axes)
    if key not in at.known:
        content = Random(initializer=initializer, axes=axes)
        at.known[key] = Node(op="random", content=content, shape=shape, dtype=dtype, source=at.source)
    return at.known[key]


def _op(name: str, node: Node, *others: Any, dtype: torch.dtype | None = None) -> Node:
    operands = (node, *others)
    return Node(op=name, operands=operands, shape=node.shape, dtype=dtype or node.dtype, source=node.source)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in. In 8 bits, functions of a value would be infinite, or miss most of their range."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def uniform(low: float, high: float, shape: tuple[int, ...], dtype: torch.dtype, at: Place) -> Node:
    """Uniform values below ``high`` in any dtype; a constant if ``low == high``. Complex values: each part is so."""
    if low == high:
        return full(low, shape, dtype, at.source)
    if dtype.is_complex:
        if low == -high:  # the law of a complex value has half of its variance in either part
            return drawn(Uniform(float(low) * math.sqrt(2), float(high) * math.sqrt(2)), shape, dtype, at)
        return _of_parts(uniform(low, high, (*shape, 2), dtype.to_real(), at), shape, dtype)
    values = drawn(Uniform(float(low), float(high)), shape, dtype, at)
    if dtype.itemsize >= 4:
        return values
    return _op("clamp_max", values, dtypes.below(high, dtype))


def normal(mean: float, std: float, shape: tuple[int, ...], dtype: torch.dtype, at: Place) -> Node:
    """Normal values; a constant if ``std == 0``. Complex parts have half of the variance each, and the same mean."""
    if std == 0 and not dtype.is_complex:
        return full(float(mean), shape, dtype, at.source)
    if dtype.is_complex and mean != 0:
        parts = normal(mean, std * math.sqrt(0.5), (*shape, 2), dtype.to_real(), at)
        return _of_parts(parts, shape, dtype)
    return drawn(Normal(float(std), float(mean)), shape, dtype, at)


def _of_parts(parts: Node, shape: tuple[int, ...], dtype: torch.dtype) -> Node:
    """Complex values from their real and imaginary parts in the last dimension."""
    node = Node(op="bits", operands=(parts,), shape=(*shape, 1), dtype=dtype, source=parts.source)
    return reshape(node, shape)


def integers(low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype, at: Place) -> Node:
    """Whole numbers from ``low`` to ``high - 1``."""
    count = high - low
    if count <= _EXACT:
        found = _op("floor", uniform(0.0, float(count), shape, torch.float64, at))
        return cast(_op("add", found, int(low)), dtype)
    # more than fp64 can represent: the upper and the lower 32 bits are drawn separately
    upper, lower = (
        cast(_op("floor", uniform(0.0, float(n), shape, torch.float64, at)), torch.int64) for n in (count >> 32, 2**32)
    )
    return cast(_op("add", _op("add", _op("mul", upper, 2**32), lower), int(low)), dtype)


#: fp64 represents every integer up to this one
_EXACT: Final = 2**53


def bernoulli(probability: Any, shape: tuple[int, ...], dtype: torch.dtype, at: Place) -> Node:
    """Ones with the given probability (a number or a node), else zeros."""
    unit = uniform(0.0, 1.0, shape, torch.float32, at)
    return cast(_op("lt", unit, probability, dtype=torch.bool), dtype)


def permutation(n: int, dtype: torch.dtype, at: Place) -> Node:
    """A random permutation of ``n`` numbers: the sorting order of ``n`` uniform values."""
    return cast(_op("argsort", uniform(0.0, 1.0, (n,), torch.float64, at), dtype=torch.int64), dtype)


def drawn_in_place(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], node_of: NodeOf, at: Place
) -> Node | None:
    """What ``tensor.<func>(...)`` fills its tensor with, or ``None`` if it is not a random fill that is known."""
    fill = _FILLS.get(name_of(func).split(".")[1])
    if fill is None:
        return None
    given = named(func, args, kwargs)  # by name, as None may be left out or mean something
    given.pop("generator", None)
    target: Tensor = given.pop("self")
    return fill(tuple(target.shape), target.dtype, at, **{_PLAIN.get(key, key): node_of(x) for key, x in given.items()})


#: names of arguments that Python keeps for itself
_PLAIN: Final = {"from": "low", "to": "high"}


Fill = Callable[..., Node]


def _uniform_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, low: float = 0.0, high: float = 1.0) -> Node:
    return uniform(low, high, shape, dtype, at)


def _normal_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, mean: float = 0.0, std: float = 1.0) -> Node:
    return normal(mean, std, shape, dtype, at)


def _log_normal_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, mean: float = 1.0, std: float = 2.0) -> Node:
    return cast(_op("exp", normal(mean, std, shape, _wide(dtype), at)), dtype)


def _exponential_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, lambd: float = 1.0) -> Node:
    # -log(1 - u)/lambda with u in [0, 1), which is never infinite
    unit = uniform(0.0, 1.0, shape, _wide(dtype), at)
    return cast(_op("mul", _op("log1p", _op("neg", unit)), -1.0 / lambd), dtype)


def _cauchy_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, median: float = 0.0, sigma: float = 1.0) -> Node:
    angle = uniform(-math.pi / 2, math.pi / 2, shape, _wide(dtype), at)
    return cast(_op("add", _op("mul", _op("tan", angle), float(sigma)), float(median)), dtype)


def _geometric_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, p: float) -> Node:
    log = _op("log1p", _op("neg", uniform(0.0, 1.0, shape, _wide(dtype), at)))
    trials = _op("ceil", _op("div", log, math.log1p(-p)))
    return cast(_op("clamp_min", trials, 1), dtype)


def _bernoulli_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, p: Any = 0.5) -> Node:
    return bernoulli(p, shape, dtype, at)


def _random_(shape: tuple[int, ...], dtype: torch.dtype, at: Place, low: int = 0, high: int | None = None) -> Node:
    return integers(low, _end_of(dtype) if high is None else high, shape, dtype, at)


def _end_of(dtype: torch.dtype) -> int:
    """The exclusive upper limit of ``random_()``: above the largest integer, or where the dtype begins to have gaps."""
    if dtype is torch.bool:
        return 2
    if not dtype.is_floating_point:
        return int(torch.iinfo(dtype).max) + 1
    return round(2 / torch.finfo(dtype).eps) + 1


_FILLS: Final[dict[str, Fill]] = {
    "uniform_": _uniform_,
    "normal_": _normal_,
    "log_normal_": _log_normal_,
    "exponential_": _exponential_,
    "cauchy_": _cauchy_,
    "geometric_": _geometric_,
    "bernoulli_": _bernoulli_,
    "random_": _random_,
}


def made(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], node_of: NodeOf, at: Place) -> Node | None:
    """The node of what a random operation makes; ``None`` if nobody knows how."""
    given = named(func, args, kwargs)
    like = given.get("self")
    shape = tuple(given.get("size", ()) if like is None else like.shape)
    whole = given.get("dtype") or (torch.int64 if like is None else like.dtype)
    dtype = given.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
    match name_of(func).split(".")[1]:
        case "rand" | "rand_like":
            return uniform(0.0, 1.0, shape, dtype, at)
        case "randn" | "randn_like":
            return normal(0.0, 1.0, shape, dtype, at)
        case "randint" | "randint_like" if not isinstance(given["high"], Tensor):
            return integers(int(given.get("low", 0)), int(given["high"]), shape, whole, at)
        case "randperm":
            return permutation(int(given["n"]), whole, at)
        case "bernoulli":
            assert like is not None
            return bernoulli(given["p"] if "p" in given else node_of(like), shape, dtype, at)
        case "normal" if "size" in given:
            return normal(given.get("mean", 0.0), given.get("std", 1.0), shape, dtype, at)
        case "normal":
            return _normal_of_tensors(given, node_of, at)
    return None


def _normal_of_tensors(given: dict[str, Any], node_of: NodeOf, at: Place) -> Node | None:
    mean, std = given.get("mean", 0.0), given.get("std", 1.0)
    shapes = [tuple(item.shape) for item in (mean, std) if isinstance(item, Tensor)]
    if not shapes:
        return None
    shape = tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    dtype = next(item.dtype for item in (mean, std) if isinstance(item, Tensor))
    z = drawn(Normal(), shape, dtype, at)
    return _op("add", _op("mul", z, node_of(std)), node_of(mean))


# -- freezing --------------------------------------------------------------------------------------------------------


def frozen(root: Node, drawn: dict[int, Tensor]) -> Tensor:
    """The value of a node whose random leaves are drawn by torch, once each, and added to ``drawn``."""
    values: dict[int, Tensor] = {}
    for node in reachable([root]):
        if node.op == "random":
            if node.serial not in drawn:
                generator = torch.Generator("cpu").manual_seed(len(drawn))
                drawn[node.serial] = _torch_draw(node, generator)
            values[node.serial] = drawn[node.serial]
        else:
            values[node.serial] = value_of(node, values)
    return values[root.serial]


def _torch_draw(node: Node, generator: torch.Generator) -> Tensor:
    law: Initializer = node.content.initializer
    empty = torch.empty(node.shape, dtype=node.dtype, device="cpu")
    match law:
        case Uniform():
            return empty.uniform_(law.low, law.high, generator=generator)
        case Normal():
            return empty.normal_(law.mean, law.std, generator=generator)
        case TruncatedNormal():
            return torch.nn.init.trunc_normal_(empty, law.mean, law.std, *law.bounds(), generator=generator)
    raise RecordingError(f"a value of {law} was read ({node.source}), which cannot be frozen")
