"""From simplified nodes to initializers: who owns which randomness, and the steps of what stays a program."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zeta import dtypes
from zeta.errors import RecordingError, ZetaError
from zeta.fans import Axes
from zeta.initializers import (
    Constant,
    Data,
    Draw,
    Identity,
    Initializer,
    Program,
    Ref,
    Step,
    Uniform,
)
from zeta.initializers.program import DRAWS_PER_LEAF, constant
from zeta.operations import box_of
from zeta.recognition.leaves import Leaf, Simple, leaf_of
from zeta.recognition.simplify import Simplified
from zeta.tracing import LARGEST_DATA, Node


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """What one parameter gets: its initializer, and what belongs to it."""

    initializer: Initializer
    axes: Axes | None = None
    padding_idx: int | None = None


def recognize(roots: dict[str, Node], frozen: dict[int, Tensor]) -> tuple[dict[str, Recognized], dict[str, str]]:
    """Tell each named node's initializer; and for those that have none, why.

    Random leaves that are ``frozen`` are data. A value that several of them share is drawn once, under one name.
    Nothing depends on the order in which the nodes were made.
    """
    simple = Simplified(list(roots.values()), frozen)
    results = {name: simple[node] for name, node in roots.items()}
    owners = _owners(results)
    found: dict[str, Recognized] = {}
    problems: dict[str, str] = {}
    for name, result in results.items():
        try:
            found[name] = _result(name, result, owners)
        except ZetaError as error:
            problems[name] = str(error)
    return found, problems


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Under which name and number a random leaf is drawn."""

    name: str
    number: int


def _owners(results: dict[str, Simple]) -> dict[int, _Place]:
    """The place of each random leaf.

    Its name is that of the parameter which it is all of, else the first in the alphabet of those that use it. Its
    number is its place in that parameter's program, as the program itself is ordered.
    """
    used: dict[str, list[Node]] = {name: _random_leaves(result) for name, result in results.items()}
    owner: dict[int, str] = {}
    for name in sorted(used, key=lambda name: (not _plain(results[name]), name)):
        for node in used[name]:
            owner.setdefault(node.serial, name)
    return {
        node.serial: _Place(name=name, number=number)
        for name, nodes in used.items()
        for number, node in enumerate(nodes)
        if owner[node.serial] == name
    }


def _plain(result: Simple) -> bool:
    return isinstance(result, Leaf) or _padded(result) is not None


def _random_leaves(result: Simple) -> list[Node]:
    """The random nodes that a result uses, in the order of its program."""
    found = [leaf.drawn for leaf in map(leaf_of, _ordered(result)) if leaf is not None and leaf.drawn is not None]
    return list({node.serial: node for node in found}.values())


def _ordered(root: Simple) -> list[Simple]:
    """All nodes of a result, arguments first, in an order that depends on the graph's form alone."""
    if isinstance(root, Leaf):
        return [root]
    order: list[Simple] = []
    seen: set[int] = set()
    waiting: list[tuple[Node, bool]] = [(root, False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            waiting.extend((used, False) for used in reversed(list(node.nodes)))
    return order


def _padded(result: Simple) -> tuple[Leaf, int] | None:
    """A law with one row of zeros."""
    if not isinstance(result, Node) or result.op != "write":
        return None
    base, value, *view = result.args
    leaf, zero = leaf_of(base), leaf_of(value)
    if leaf is None or zero is None or zero.initializer != constant(0.0) or len(result.shape) < 1:
        return None
    box = box_of(result.shape, value.shape, *view)
    if box is None or box.sizes != (1, *result.shape[1:]) or any(box.starts[1:]):
        return None
    return leaf, box.starts[0]


def _result(name: str, result: Simple, owners: dict[int, _Place]) -> Recognized:
    padded = _padded(result)
    leaf, row = padded if padded is not None else (result, None)
    if isinstance(leaf, Leaf):
        own = leaf.drawn is None or owners[leaf.drawn.serial] == _Place(name=name, number=0)
        if own:
            return Recognized(initializer=_meant(leaf.initializer), axes=leaf.axes, padding_idx=row)
    return Recognized(initializer=_program(name, result, owners))


def _meant(initializer: Initializer) -> Initializer:
    """Uniform bounds without the last digits of fp64, where these miss a number of fp32.

    A bound of 1/8 that comes out as 0.12499999999999999 would keep a bf16 parameter from its last number, 1/8.
    """
    if not isinstance(initializer, Uniform):
        return initializer
    near = [dtypes.rounded(bound, torch.float32) for bound in initializer.bounds()]
    exact = [a if math.isclose(a, b, rel_tol=1e-15) else b for a, b in zip(near, initializer.bounds(), strict=True)]
    return Uniform(*exact)


def _program(name: str, root: Simple, owners: dict[int, _Place]) -> Program:
    numbers: dict[int, int] = {}
    merged: dict[Step, int] = {}
    steps: list[Step] = []
    ordered = _ordered(root)
    for node in ordered:
        step = _step(name, node, numbers, owners)
        known = merged.get(step)
        if known is None:
            known = merged[step] = len(steps)
            steps.append(step)
        numbers[id(node)] = known
    if numbers[id(ordered[-1])] != len(steps) - 1:
        steps.append(
            Step(op="aten.clone.default", args=(Ref(numbers[id(ordered[-1])]),), shape=root.shape, dtype=root.dtype)
        )
    return Program(tuple(steps))


def _step(name: str, node: Simple, numbers: dict[int, int], owners: dict[int, _Place]) -> Step:
    leaf = leaf_of(node)
    if leaf is not None:
        return _leaf_step(name, leaf, owners)
    assert isinstance(node, Node)
    match node.op:
        case "unknown":
            raise RecordingError(str(node.args[0]))
        case "uninitialized":
            raise RecordingError(f"never gets a value: it is memory as the constructor found it ({node.source})")
        case "data":
            tensor = node.args[0]
            if tensor.nbytes > LARGEST_DATA:
                raise RecordingError(
                    f"is data of {tensor.nbytes:,} bytes ({node.source}); a plan holds at most {LARGEST_DATA:,}. "
                    "Give it a fallback rule, such as Zeros(), and load it after materializing"
                )
            return Step(op="data", args=(Data.of(tensor),), shape=node.shape, dtype=node.dtype)

    def argument(value: Any) -> Any:
        if isinstance(value, Node):
            return Ref(numbers[id(value)])
        if isinstance(value, list | tuple):
            return tuple(argument(item) for item in value)
        if isinstance(value, torch.Size):
            return tuple(value)
        if value is None or isinstance(value, bool | int | float | complex | str | torch.dtype | torch.memory_format):
            return value
        raise RecordingError(f"{node.op} was given {value!r}, which a plan cannot hold ({node.source})")

    if node.op not in ("read", "write", "item") and not node.op.startswith("aten."):
        raise RecordingError(f"{node.op} is not one of torch's own operations ({node.source})")
    return Step(
        op=node.op,
        args=tuple(argument(value) for value in node.args),
        kwargs=tuple(sorted((key, argument(value)) for key, value in node.kwargs.items())),
        shape=node.shape,
        dtype=node.dtype,
    )


def _leaf_step(name: str, leaf: Leaf, owners: dict[int, _Place]) -> Step:
    if leaf.drawn is None and isinstance(leaf.initializer, Constant):
        value: float | int = leaf.initializer.value
        if not leaf.dtype.is_floating_point and not leaf.dtype.is_complex:
            value = int(value)
        return Step(
            op="aten.full.default",
            args=(leaf.shape, value),
            kwargs=(("dtype", leaf.dtype),),
            shape=leaf.shape,
            dtype=leaf.dtype,
        )
    if leaf.drawn is None and leaf.initializer == Identity():
        kwargs = (("dtype", leaf.dtype),)
        return Step(op="aten.eye.m", args=leaf.shape, kwargs=kwargs, shape=leaf.shape, dtype=leaf.dtype)
    place = _Place(name=name, number=0) if leaf.drawn is None else owners[leaf.drawn.serial]
    draw = Draw(
        leaf.initializer,
        place.number * DRAWS_PER_LEAF,
        None if place.name == name else place.name,
        leaf.axes,
    )
    return Step(op="draw", args=(draw,), shape=leaf.shape, dtype=leaf.dtype)
