"""Every node that a plan needs, as a known law or as an operation on simpler nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Final

from torch import Tensor

from zeta import operations
from zeta.recognition.laws import RULES, folded, unchanged_by_weight_norm
from zeta.recognition.leaves import Leaf, RuleOf, Simple, constant_leaf, empty_leaf, is_constant, leaf_node
from zeta.recognition.writes import joined, read, written
from zeta.tracing import LARGEST_DATA, Node, Random, reachable

_PARTS: Final[dict[str, RuleOf]] = {"cat": joined, "read": read, "write": written}


class Simplified:
    """Every node that the roots use, as a leaf or as an operation on simpler nodes."""

    def __init__(self, roots: list[Node], frozen: dict[int, Tensor]) -> None:
        self.frozen = frozen
        live = reachable(roots)
        self.uses = Counter(used.serial for node in live for used in node.nodes)
        self.uses.update(node.serial for node in roots)
        self.nodes = {node.serial: node for node in live}
        self.results: dict[int, Simple] = {}
        for node in live:
            self.results[node.serial] = self._simplified(node)

    def __getitem__(self, node: Node) -> Simple:
        return self.results[node.serial]

    def _simplified(self, node: Node) -> Simple:
        match node.op:
            case "random" if node.serial in self.frozen:
                return replace(node, op="data", args=(self.frozen[node.serial],))
            case "random":
                law: Random = node.args[0]
                return Leaf(initializer=law.initializer, shape=node.shape, dtype=node.dtype, drawn=node, axes=law.axes)
            case "data":
                return of_data(node)
            case "item":
                return unchanged_by_weight_norm(self, node) or self._rebuilt(node)
            case "unknown" | "uninitialized":
                # without elements there is nothing to know
                return self._rebuilt(node) if node.numel else empty_leaf(node)
        name = node.op.split(".")[1] if "." in node.op else node.op
        args = [self._of(item) for item in node.args]
        rule = _PARTS.get(name) or RULES.get(name)
        found = rule(self, node, args) if rule is not None else None
        if found is None and operations.is_pointwise(node.op):
            found = folded(node, args)
        return self._rebuilt(node) if found is None else found

    def _of(self, value: Any) -> Any:
        return self.results[value.serial] if isinstance(value, Node) else value

    def _rebuilt(self, node: Node) -> Node:
        """The node with simpler arguments."""
        if all(self.results[used.serial] is used for used in node.nodes):
            return node

        def simpler(value: Any) -> Any:
            if isinstance(value, Node):
                result = self.results[value.serial]
                return result if isinstance(result, Node) else leaf_node(result, value.serial)
            if isinstance(value, list | tuple):
                return tuple(simpler(item) for item in value)
            return value

        return Node(
            op=node.op,
            args=simpler(node.args),
            kwargs={key: simpler(value) for key, value in node.kwargs.items()},
            shape=node.shape,
            dtype=node.dtype,
            source=node.source,
            serial=node.serial,
        )

    def used_once(self, node: Node) -> bool:
        """Whether nothing else uses a node, so that its elements may be drawn in another order."""
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
    """Data of one number is a constant."""
    tensor = node.args[0]
    if tensor.numel() and tensor.nbytes <= LARGEST_DATA and not tensor.is_complex():
        first = tensor.reshape(-1)[0]
        if bool((tensor == first).all()):
            return constant_leaf(first.item(), node) or node
    return node
