"""Simplify every node that a plan needs: to a known law, or to an operation on simplified nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Final

from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.operations import is_elementwise
from zeta.resolve.recording.recognition.laws import RULES, folded
from zeta.resolve.recording.recognition.leaves import (
    PENDING,
    Leaf,
    RuleOf,
    Simple,
    constant_leaf,
    empty_leaf,
    is_constant,
    leaf_node,
)
from zeta.resolve.recording.recognition.writes import cut, joined, turned, written
from zeta.resolve.recording.tracing import LARGEST_DATA, Node, Random, reachable

_PARTS: Final[dict[str, RuleOf]] = {
    "cat": joined,
    "slice": cut,
    "strided": cut,
    "permute": turned,
    "update": written,
}


class Simplified:
    """The simplified form of every node that the roots use: a leaf, or an operation on simplified nodes."""

    def __init__(self, roots: list[Node], frozen: dict[int, Tensor]) -> None:
        self.frozen = frozen
        live = reachable(roots)
        self.uses = Counter(used.serial for node in live for used in node.nodes)
        self.uses.update(node.serial for node in roots)
        self.nodes = {node.serial: node for node in live}
        self.memories: dict[int, Any] = {}
        self.results: dict[int, Simple] = {}
        for node in live:
            self.results[node.serial] = self._simplified(node)

    def __getitem__(self, node: Node) -> Simple:
        return self.results[node.serial]

    def _simplified(self, node: Node) -> Simple:
        match node.op:
            case "random" if node.serial in self.frozen:
                return replace(node, op="data", content=self.frozen[node.serial])
            case "random":
                law: Random = node.content
                return Leaf(initializer=law.initializer, shape=node.shape, dtype=node.dtype, drawn=node, axes=law.axes)
            case "data":
                return of_data(node)
            case "unknown" | "uninitialized":
                # a tensor without elements needs no value
                return node if node.numel else empty_leaf(node)
        if node.op == "copy":
            return self[node.operands[0]]
        args = [self.results[item.serial] if isinstance(item, Node) else item for item in node.operands]
        rule = _PARTS.get(node.op) or RULES.get(node.op)
        found = rule(self, node, args) if rule is not None else None
        if found is None and is_elementwise(node.op):
            found = folded(node, args)
        if found is None:
            return self._rebuilt(node, args)
        if isinstance(found, Leaf) and found.formula is PENDING:
            return replace(found, formula=None if found.drawn is None else self._rebuilt(node, args))
        return found

    def _rebuilt(self, node: Node, args: list[Any]) -> Node:
        """The node with simplified operands."""
        if all(arg is operand for arg, operand in zip(args, node.operands, strict=True)):
            return node
        simpler = [
            leaf_node(arg, operand.serial) if isinstance(arg, Leaf) else arg
            for arg, operand in zip(args, node.operands, strict=True)
        ]
        return replace(node, operands=tuple(simpler))

    def used_once(self, node: Node) -> bool:
        """Whether the values of a node are used only here, so that its elements may be drawn in another order."""
        while self.uses[node.serial] == 1:
            used = list(node.nodes)
            if not used:
                return True
            if len(used) > 1:
                used = [item for item in used if not is_constant(self.results[item.serial])]
                if len(used) != 1:
                    return False
            node = used[0]
        return False


def of_data(node: Node) -> Simple:
    """A constant if all elements of the data have the same bits, else the node."""
    tensor = node.content
    if tensor.numel() and tensor.nbytes <= LARGEST_DATA and not tensor.is_complex():
        bits = dtypes.bits(tensor).reshape(-1)
        if bool((bits == bits[0]).all()):
            return constant_leaf(tensor.reshape(-1)[0].item(), node) or node
    return node
