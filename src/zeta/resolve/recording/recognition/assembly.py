"""Turn simplified nodes into initializers: assign each random draw to a parameter, and build the steps of programs."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.errors import RecordingError, ZetaError
from zeta.fans import Axes
from zeta.initializers import Constant, Data, Draw, Identity, Initializer, Program, Ref, Step, Uniform
from zeta.initializers.program import DRAWS_PER_LEAF, constant
from zeta.resolve.recording.recognition.leaves import Leaf, Simple, computed, leaf_node, leaf_of
from zeta.resolve.recording.recognition.simplify import Simplified
from zeta.resolve.recording.tracing import LARGEST_DATA, Node


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """The result for one parameter: its initializer, with axes and padding row."""

    initializer: Initializer
    axes: Axes | None = None
    padding_idx: int | None = None


def recognize(roots: dict[str, Node], frozen: dict[int, Tensor]) -> tuple[dict[str, Recognized], dict[str, str]]:
    """Return the initializer of each named node, and the problem of each that has none.

    Random leaves in ``frozen`` become data. A draw that several nodes share is drawn once, under one name. The result
    does not depend on the order in which the nodes were made.
    """
    simple = Simplified(list(roots.values()), frozen)
    results = _settled({name: simple[node] for name, node in roots.items()})
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
    """The parameter name and number under which a random leaf is drawn."""

    name: str
    number: int


def _settled(results: dict[str, Simple]) -> dict[str, Simple]:
    """Drop the formula of every result that is a law, if no other result uses the same draw.

    Results that depend on each other, such as a draw and its negative, stay formulas of one draw.
    """
    draws = {name: _random_leaves(result) for name, result in results.items()}
    seen: defaultdict[int, list[Simple]] = defaultdict(list)
    for name, nodes in draws.items():
        for node in nodes:
            seen[node.serial].append(results[name])
    bare: dict[int, Simple] = {}  # by identity, so that results that are the same object stay so
    for name, result in results.items():
        law = _law_and_padding(result)
        if law is not None and all(other is result for node in draws[name] for other in seen[node.serial]):
            bare[id(result)] = _without_formula(result)
    return {name: bare.get(id(result), result) for name, result in results.items()}


def _owners(results: dict[str, Simple]) -> dict[int, _Place]:
    """The place of each random leaf.

    Its name is that of the parameter that consists of it alone, else the alphabetically first one that uses it. Its
    number is its position in that parameter's program.
    """
    used = {name: _random_leaves(result) for name, result in results.items()}
    owner: dict[int, str] = {}
    for name in sorted(used, key=lambda name: (not _is_bare(results[name]), name)):
        for node in used[name]:
            owner.setdefault(node.serial, name)
    return {
        node.serial: _Place(name=name, number=number)
        for name, nodes in used.items()
        for number, node in enumerate(nodes)
        if owner[node.serial] == name
    }


def _law_and_padding(result: Simple) -> tuple[Leaf, int | None] | None:
    """The law of a result, and its row of zeros, if any; ``None`` if the result is not a law."""
    return (result, None) if isinstance(result, Leaf) else _padded(result)


def _is_bare(result: Simple) -> bool:
    law = _law_and_padding(result)
    return law is not None and law[0].formula is None


def _without_formula(result: Simple) -> Simple:
    if isinstance(result, Leaf):
        return replace(result, formula=None)
    base, value = result.operands
    return replace(result, operands=(leaf_node(replace(base.content, formula=None), base.serial), value))


def _random_leaves(result: Simple) -> list[Node]:
    """The random nodes of a result, in the order of its program."""
    found = [leaf.drawn for leaf in map(leaf_of, _ordered(result)) if leaf is not None and leaf.drawn is not None]
    return list({node.serial: node for node in found}.values())


def _ordered(root: Simple) -> list[Simple]:
    """All nodes of a result's program, operands first, in an order that depends only on the structure of the graph."""
    order: list[Simple] = []
    seen: set[int] = set()
    waiting: list[tuple[Simple, bool]] = [(computed(root), False)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            used = [] if isinstance(node, Leaf) else list(node.nodes)
            waiting.extend((computed(operand), False) for operand in reversed(used))
    return order


def _padded(result: Node) -> tuple[Leaf, int] | None:
    """A law with one row of zeros."""
    if result.op != "update":
        return None
    base, value = result.operands
    leaf, zero = leaf_of(base), leaf_of(value)
    if leaf is None or zero is None or zero.initializer != constant(0.0) or len(result.shape) < 1:
        return None
    starts = result.attribute("starts")
    if value.shape != (1, *result.shape[1:]) or any(starts[1:]):
        return None
    return leaf, starts[0]


def _result(name: str, result: Simple, owners: dict[int, _Place]) -> Recognized:
    law = _law_and_padding(result)
    if law is not None and law[0].formula is None:
        leaf, row = law
        if leaf.drawn is None or owners[leaf.drawn.serial] == _Place(name=name, number=0):
            return Recognized(initializer=_without_noise(leaf.initializer), axes=leaf.axes, padding_idx=row)
    return Recognized(initializer=_program(name, result, owners))


def _without_noise(initializer: Initializer) -> Initializer:
    """Round uniform bounds to fp32 if they differ from an fp32 number only in the last digits of fp64.

    A bound of 1/8 that is computed as 0.12499999999999999 would exclude the bf16 number 1/8.
    """
    if not isinstance(initializer, Uniform):
        return initializer
    near = [dtypes.rounded(bound, torch.float32) for bound in initializer.bounds()]
    exact = [a if math.isclose(a, b, rel_tol=1e-15) else b for a, b in zip(near, initializer.bounds(), strict=True)]
    return Uniform(*exact)


def _program(name: str, root: Simple, owners: dict[int, _Place]) -> Program:
    numbers: dict[int, int] = {}
    merged: dict[tuple[Step, str], int] = {}
    steps: list[Step] = []
    ordered = _ordered(root)
    for node in ordered:
        step = _step(name, node, numbers, owners)
        # -0.0 and 0.0 are equal, and 1 and True
        form = (step, repr((step.operands, step.attributes)))
        known = merged.get(form)
        if known is None:
            known = merged[form] = len(steps)
            steps.append(step)
        numbers[id(node)] = known
    assert numbers[id(ordered[-1])] == len(steps) - 1  # the result is the last step
    return Program(tuple(steps))


def _step(name: str, node: Simple, numbers: dict[int, int], owners: dict[int, _Place]) -> Step:
    leaf = leaf_of(node)
    if leaf is not None:
        return _leaf_step(name, leaf, owners)
    assert isinstance(node, Node)
    match node.op:
        case "unknown":
            raise RecordingError(str(node.content))
        case "uninitialized":
            raise RecordingError(f"never gets a value: it is memory as the constructor found it ({node.source})")
        case "data":
            tensor = node.content
            if tensor.nbytes > LARGEST_DATA:
                raise RecordingError(
                    f"is data of {tensor.nbytes:,} bytes ({node.source}); a plan holds at most {LARGEST_DATA:,}. "
                    "Give it a fallback rule, such as Zeros(), and load it after materializing"
                )
            return Step(op="data", leaf=Data.of(tensor), shape=node.shape, dtype=node.dtype)
    operands = tuple(Ref(numbers[id(computed(x))]) if isinstance(x, Node) else x for x in node.operands)
    return Step(op=node.op, operands=operands, attributes=node.attributes, shape=node.shape, dtype=node.dtype)


def _leaf_step(name: str, leaf: Leaf, owners: dict[int, _Place]) -> Step:
    if leaf.drawn is None and isinstance(leaf.initializer, Constant):
        value: float | int = leaf.initializer.value
        if not leaf.dtype.is_floating_point and not leaf.dtype.is_complex:
            value = int(value)
        named = (("size", leaf.shape), ("value", value))
        return Step(op="full", attributes=named, shape=leaf.shape, dtype=leaf.dtype)
    if leaf.drawn is None and leaf.initializer == Identity():
        n, m = leaf.shape
        return Step(op="eye", attributes=(("m", m), ("n", n)), shape=leaf.shape, dtype=leaf.dtype)
    place = _Place(name=name, number=0) if leaf.drawn is None else owners[leaf.drawn.serial]
    draw = Draw(
        leaf.initializer,
        place.number * DRAWS_PER_LEAF,
        None if place.name == name else place.name,
        leaf.axes,
    )
    return Step(op="draw", leaf=draw, shape=leaf.shape, dtype=leaf.dtype)
