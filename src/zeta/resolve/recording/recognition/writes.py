"""Rules for parts of tensors: views that are read, views that are written, and concatenations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base.language import layouts
from zeta.base.language.layouts import Box
from zeta.initializers import Constant
from zeta.initializers.program import constant
from zeta.resolve.recording.recognition.leaves import (
    IID,
    Leaf,
    Simple,
    Simplifier,
    constant_leaf,
    leaf_node,
    leaf_of,
)
from zeta.resolve.recording.tracing import LARGEST_DATA, Node


def cut(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A view of a constant is a constant; a slice of independent values has the same law."""
    source = args[0]
    if not isinstance(source, Leaf):
        return _part_of_data(node, source) or _part_of_updates(simplifier, node, source)
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


def _part_of_data(node: Node, source: Node) -> Node | None:
    """A view of data that is too large for a plan, if what it sees is not."""
    if source.op != "data" or not source.content.nbytes > LARGEST_DATA >= node.numel * node.dtype.itemsize:
        return None
    look = layouts.cut if node.op == "slice" else layouts.strided
    part = look(source.content, **dict(node.attributes)).clone(memory_format=torch.contiguous_format)
    return replace(node, op="data", operands=(), attributes=(), content=part)


def _part_of_updates(simplifier: Simplifier, node: Node, source: Node) -> Simple | None:
    """A view of what was written: of the last write that it sees, or of what lies below those that it does not."""
    if node.op != "slice":
        return None
    box = _box(node, node.shape)
    below = source
    for _ in range(_WINDOW):
        if below.op != "update":
            break
        value = below.operands[1]
        over = _box(below, value.shape)
        if (over.starts, over.sizes, over.steps) == (box.starts, box.sizes, box.steps):
            return leaf_of(value) or value
        if not _apart(over, box):
            break
        below = below.operands[0]
    leaf = leaf_of(below)
    if leaf is not None:
        return cut(simplifier, node, [leaf])
    if below.op == "data" and node.numel == 1:
        return constant_leaf(layouts.cut(below.content, **dict(node.attributes)).item(), node)
    return None if below is source else replace(node, operands=(below,))


def written(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """Drop what a later write covers; the same law in every part is that law as a whole.

    Many writes of what is known, as in a loop over elements, are data.
    """
    base, value = (_in_place_of(operand, simplifier[operand]) for operand in node.operands)
    memory = simplifier.memories.pop(base.serial, None) or _Memory(base)
    result = memory.write(node, value)
    law: Leaf | None = None
    if memory.is_hidden:
        law = _one_law(simplifier, node, (simplifier.nodes[write.value.serial] for write in memory.kept))
    leaf = leaf_of(memory.base)
    if leaf is not None and leaf.is_constant:
        values = (leaf_of(write.value) for write in memory.kept)
        if all(value is not None and value.initializer == leaf.initializer for value in values):
            return leaf
    if law is not None:
        return replace(law, formula=None if law.is_constant else result)
    known = memory.known() if len(memory.kept) >= _WINDOW else None
    if known is not None:
        return replace(node, op="data", operands=(), attributes=(), content=known)
    simplifier.memories[node.serial] = memory
    return result


#: how many writes back one is looked for that others cover, or that a view sees
_WINDOW: Final = 64
#: the largest tensor of which it is marked which elements were written to
_MOST_MARKED: Final = 2**22


@dataclass(frozen=True, kw_only=True)
class _Write:
    """One write in simplified form, and the node of the memory after it.

    ``value`` has the serial number of the node that was written.
    """

    value: Node
    box: Box
    after: Node


class _Memory:
    """What shows of a memory: a base, and those writes over it of which something is left, the first first."""

    def __init__(self, base: Node) -> None:
        self.kept: list[_Write] = []
        while base.op == "update":
            value = base.operands[1]
            self.kept.append(_Write(value=value, box=_box(base, value.shape), after=base))
            base = base.operands[0]
        self.kept.reverse()
        self.base = base
        #: whether nothing shows of the base
        self.is_hidden = False
        self._elements = sum(math.prod(write.box.sizes) for write in self.kept)
        self._unknown = sum(_value(write.value) is None for write in self.kept)
        self._left: Tensor | None = None  # where the base shows, once that may be nowhere
        self._count = 0

    def write(self, node: Node, value: Node) -> Node:
        """The memory after another write, in simplified form."""
        box = _box(node, value.shape)
        changed = self._dropped(box)
        self.kept.append(_Write(value=value, box=box, after=node))
        self._elements += math.prod(box.sizes)
        self._unknown += _value(value) is None
        if not self.is_hidden and self._elements >= node.numel and self._is_covered(node.shape):
            nothing = Leaf(initializer=constant(0.0), shape=node.shape, dtype=node.dtype)
            self.base, self.is_hidden, changed = leaf_node(nothing, self.base.serial), True, 0
        below = self.kept[changed - 1].after if changed else self.base
        for at in range(changed, len(self.kept)):
            write = self.kept[at]
            below = replace(write.after, operands=(below, write.value))
            self.kept[at] = _Write(value=write.value, box=write.box, after=below)
        return below

    def _dropped(self, box: Box) -> int:
        """Drop writes of which nothing shows below another; return the place of the first that changes."""
        changed = last = len(self.kept)
        for at in range(last - 1, max(last - _WINDOW, 0) - 1, -1):
            mine = self.kept[at]
            if _apart(mine.box, box):
                continue
            later = [write.box for write in self.kept[at + 1 :] if not _apart(mine.box, write.box)]
            if _covered(mine.box, [*later, box]):
                del self.kept[at]
                self._elements -= math.prod(mine.box.sizes)
                self._unknown -= _value(mine.value) is None
                changed = at
        return changed

    def _is_covered(self, shape: tuple[int, ...]) -> bool:
        """Whether the writes leave nothing of the base."""
        if math.prod(shape) > _MOST_MARKED:
            return _covered(Box.whole(shape), [write.box for write in self.kept])
        new = self.kept[-1:]
        if self._left is None:
            self._left, self._count = torch.ones(shape, dtype=torch.bool, device="cpu"), math.prod(shape)
            new = self.kept
        for write in new:
            part = self._left[
                tuple(
                    slice(a, b, s) for a, b, s in zip(write.box.starts, write.box.stops, write.box.steps, strict=True)
                )
            ]
            self._count -= int(part.sum())
            part.fill_(False)
        return self._count == 0

    def known(self) -> Tensor | None:
        """The values, if all are known and a plan may hold them."""
        base = _value(self.base)
        if self._unknown or base is None or base.nbytes > LARGEST_DATA:
            return None
        result = base.clone(memory_format=torch.contiguous_format)
        for write in self.kept:
            value = _value(write.value)
            assert value is not None
            layouts.update_(result, value, starts=write.box.starts, steps=write.box.steps)
        return result


def _value(node: Node) -> Tensor | None:
    """The values of a constant, in the memory of one number, or of data."""
    leaf = leaf_of(node)
    if leaf is not None and isinstance(leaf.initializer, Constant):
        return torch.full((), leaf.initializer.value, dtype=leaf.dtype, device="cpu").expand(leaf.shape)
    return node.content if node.op == "data" else None


def _in_place_of(node: Node, simple: Simple) -> Node:
    return simple if isinstance(simple, Node) else leaf_node(simple, node.serial)


def _box(node: Node, sizes: tuple[int, ...]) -> Box:
    """Where an update writes, or a slice looks."""
    starts, steps = node.attribute("starts"), node.attribute("steps")
    return Box(starts=starts, sizes=sizes, steps=steps, order=tuple(range(len(starts))))


def _apart(one: Box, other: Box) -> bool:
    """Whether two boxes have no element in common, if that is easily seen."""
    for a, n, s, b, m, t in zip(one.starts, one.sizes, one.steps, other.starts, other.sizes, other.steps, strict=True):
        if a + s * (n - 1) < b or b + t * (m - 1) < a or (s == t and (a - b) % s):
            return True
    return False


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


def _one_law(simplifier: Simplifier, node: Node, parts: Iterable[Node]) -> Leaf | None:
    """The law that all parts of a tensor have, each drawn on its own and used here only."""
    nodes: list[Node] = []
    leaves: list[Leaf] = []
    for part in parts:
        leaf = leaf_of(simplifier[part])
        if leaf is None or (leaves and leaf.initializer != leaves[0].initializer):
            return None
        nodes.append(part)
        leaves.append(leaf)
    if not leaves:
        return None
    first = leaves[0]
    if first.is_constant:
        return first.derived(shape=node.shape)
    if not isinstance(first.initializer, IID) or len({id(leaf.drawn) for leaf in leaves}) < len(leaves):
        return None
    alone = all(map(simplifier.used_once, nodes))
    return first.derived(shape=node.shape) if alone else None
