"""Rules for parts of tensors: views that are read, views that are written, and concatenations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from zeta.base.language.layouts import Box
from zeta.initializers.program import constant
from zeta.resolve.recording.recognition.leaves import IID, Leaf, Simple, Simplifier, leaf_node, leaf_of
from zeta.resolve.recording.tracing import Node, Source


def cut(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A view of a constant is a constant; a slice of independent values has the same law."""
    source = args[0]
    if not isinstance(source, Leaf):
        return _part_of_update(node, source)
    if source.is_constant:
        return source.derived(shape=node.shape)
    independent = node.op == "slice" and isinstance(source.initializer, IID)  # a strided view may repeat elements
    return source.derived(shape=node.shape) if independent else None


def turned(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A permutation of a constant, or of independent values, has the same law."""
    source = args[0]
    if not isinstance(source, Leaf):
        return None
    same = source.is_constant or isinstance(source.initializer, IID)
    return source.derived(shape=node.shape) if same else None


def _part_of_update(node: Node, source: Node) -> Simple | None:
    """A view of exactly the part that was written last is the written value."""
    if source.op != "update" or node.op != "slice":
        return None
    value = source.operands[1]
    same = all(node.attribute(name) == source.attribute(name) for name in ("starts", "steps"))
    if same and node.shape == value.shape:
        return leaf_of(value) or value
    return None


def written(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """Drop writes that later ones cover. If every part has the same law, the whole tensor has it."""
    base, writes = _chain(simplifier, node)
    kept: list[_Write] = []
    law: Leaf | None = None
    for write in reversed(writes):
        if not _covered(write.box, [other.box for other in kept]):
            kept.insert(0, write)
    if _covered(Box.whole(node.shape), [write.box for write in kept]):
        law = _one_law(simplifier, node, [simplifier.nodes[write.value.serial] for write in kept])
        nothing = Leaf(initializer=constant(0.0), shape=node.shape, dtype=node.dtype)
        base = leaf_node(nothing, base.serial)  # the base is completely overwritten
    leaf = leaf_of(base)
    if leaf is not None and leaf.is_constant:
        values = [leaf_of(write.value) for write in kept]
        if all(value is not None and value.initializer == leaf.initializer for value in values):
            return leaf
    result = base
    for write in kept:
        named = (("starts", write.box.starts), ("steps", write.box.steps))
        result = replace(node, operands=(result, write.value), attributes=named, source=write.source)
    return result if law is None else replace(law, formula=None if law.is_constant else result)


@dataclass(frozen=True, kw_only=True)
class _Write:
    """One write in simplified form; ``value`` has the serial number of the node that was written."""

    value: Node
    box: Box
    source: Source | None


def _chain(simplifier: Simplifier, node: Node) -> tuple[Node, list[_Write]]:
    """The base of a chain of writes, and the writes in order."""
    base, value = (_in_place_of(operand, simplifier[operand]) for operand in node.operands)
    writes = [_write(node, value)]
    while base.op == "update" and len(writes) < _LONGEST_CHAIN:
        writes.insert(0, _write(base, base.operands[1]))
        base = base.operands[0]
    return base, writes


def _in_place_of(node: Node, simple: Simple) -> Node:
    return simple if isinstance(simple, Node) else leaf_node(simple, node.serial)


def _write(node: Node, value: Node) -> _Write:
    starts, steps = node.attribute("starts"), node.attribute("steps")
    box = Box(starts=starts, sizes=value.shape, steps=steps, order=tuple(range(len(starts))))
    return _Write(value=value, box=box, source=node.source)


_LONGEST_CHAIN: Final = 64


def _covered(target: Box, boxes: list[Box]) -> bool:
    """Whether the boxes cover the target completely. Only coverage along a single dimension is recognized."""
    return any(_covered_along(dim, target, boxes) for dim in range(len(target.sizes)))


def _covered_along(dim: int, target: Box, boxes: list[Box]) -> bool:
    across = [d for d in range(len(target.sizes)) if d != dim]
    marks = bytearray(max((box.stops[dim] for box in boxes), default=0))
    for box in boxes:
        if all(
            box.steps[d] == 1 and box.starts[d] <= target.starts[d] and target.stops[d] <= box.stops[d] for d in across
        ):
            marks[box.starts[dim] : box.stops[dim] : box.steps[dim]] = b"\1" * box.sizes[dim]
    wanted = marks[target.starts[dim] : target.stops[dim] : target.steps[dim]]
    return len(wanted) == target.sizes[dim] and all(wanted)


def joined(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A concatenation of parts with the same law has that law."""
    return _one_law(simplifier, node, list(node.operands))


def _one_law(simplifier: Simplifier, node: Node, parts: list[Node]) -> Leaf | None:
    """The common law of all parts of a tensor, if they are independent and used only here."""
    leaves = [leaf for part in parts if (leaf := leaf_of(simplifier[part])) is not None]
    first = leaves[0] if leaves else None
    if first is None or len(leaves) < len(parts) or any(leaf.initializer != first.initializer for leaf in leaves):
        return None
    if first.is_constant:
        return first.derived(shape=node.shape)
    if not isinstance(first.initializer, IID) or len({id(leaf.drawn) for leaf in leaves}) < len(leaves):
        return None
    alone = all(map(simplifier.used_once, parts))
    return first.derived(shape=node.shape) if alone else None
