"""Rules for parts: views that are read, views that are written, and what is put together of parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from zeta.initializers.program import constant
from zeta.operations import Box, box_of
from zeta.recognition.leaves import IID, Leaf, Simple, Simplifier, leaf_node, leaf_of
from zeta.tracing import Node, Source


def read(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A view: of a constant, a constant; of values that are drawn on their own and used here only, as many others."""
    source = args[0]
    if not isinstance(source, Leaf):
        return _part_of_write(node, source)
    if source.is_constant:
        return replace(source, shape=node.shape)
    box = box_of(source.shape, *node.args[1:])
    if box is None or not isinstance(source.initializer, IID) or not simplifier.used_once(node.args[0]):
        return None
    # used once: which of the values these are does not matter
    return replace(source, shape=node.shape)


def _part_of_write(node: Node, source: Node) -> Simple | None:
    """A view of exactly what was written last."""
    if source.op != "write":
        return None
    value, strides, offset = source.args[1:]
    if node.args[1:] == (value.shape, strides, offset):
        return value.args[0] if value.op == "leaf" else value  # type: ignore[no-any-return]
    return None


def written(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """Drop what a later write covers; the same law in every part is that law as a whole."""
    base, writes = _chain(simplifier, node)
    kept: list[_Write] = []
    for write in reversed(writes):
        later = [other.box for other in kept if other.box is not None]
        if write.box is None or not _covered(write.box, later):
            kept.insert(0, write)
    boxes = [write.box for write in kept if write.box is not None]
    if len(boxes) == len(kept) and _covered(Box.whole(node.shape), boxes):
        merged = _one_law(simplifier, node, [simplifier.nodes[write.value.serial] for write in kept])
        if merged is not None:
            return merged
        base = Leaf(initializer=constant(0.0), shape=node.shape, dtype=node.dtype)  # nothing of it is left
    if isinstance(base, Leaf) and base.is_constant:
        values = [leaf_of(write.value) for write in kept]
        if all(value is not None and value.initializer == base.initializer for value in values):
            return base
    result = base if isinstance(base, Node) else leaf_node(base, -1)
    for write in kept:
        result = Node(
            op="write",
            args=(result, write.value, *write.view),
            shape=node.shape,
            dtype=node.dtype,
            source=write.source,
            serial=node.serial,
        )
    return result


@dataclass(frozen=True, kw_only=True)
class _Write:
    """One write in simplified form; ``value`` has the serial number of the node that was written."""

    value: Node
    view: tuple[Any, ...]
    box: Box | None
    source: Source | None


def _chain(simplifier: Simplifier, node: Node) -> tuple[Simple, list[_Write]]:
    """What was written over, and the writes that led to a node, the first first."""
    value = simplifier[node.args[1]]
    written = value if isinstance(value, Node) else leaf_node(value, node.args[1].serial)
    base = simplifier[node.args[0]]
    writes = [_write(node, written, node.args[2:])]
    while isinstance(base, Node) and base.op == "write" and len(writes) < _LONGEST_CHAIN:
        writes.insert(0, _write(base, base.args[1], base.args[2:]))
        base = base.args[0]
        base = leaf_of(base) or base
    return base, writes


def _write(node: Node, value: Node, view: tuple[Any, ...]) -> _Write:
    return _Write(value=value, view=view, box=box_of(node.shape, value.shape, *view), source=node.source)


_LONGEST_CHAIN: Final = 64


def _covered(target: Box, boxes: list[Box]) -> bool:
    """Whether boxes leave nothing of a box uncovered; looked for along one dimension at a time."""
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
    """Parts of one law, end to end."""
    return _one_law(simplifier, node, list(node.args[0]))


def _one_law(simplifier: Simplifier, node: Node, parts: list[Node]) -> Leaf | None:
    """The law that all parts of a tensor have, each drawn on its own and used here only."""
    leaves = [leaf for part in parts if (leaf := leaf_of(simplifier[part])) is not None]
    first = leaves[0] if leaves else None
    if first is None or len(leaves) < len(parts) or any(leaf.initializer != first.initializer for leaf in leaves):
        return None
    if first.is_constant:
        return replace(first, shape=node.shape)
    if not isinstance(first.initializer, IID) or len({id(leaf.drawn) for leaf in leaves}) < len(leaves):
        return None
    alone = all(map(simplifier.used_once, parts))
    return replace(first, shape=node.shape) if alone else None
