"""Nodes of autograd's graph and the leaves that they come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from torch import Tensor

# views or casts of a parameter that are skipped
_VIEWS: Final = 3


def leaf_of(node: Any) -> Tensor | None:
    """The parameter of a graph node, possibly through views or casts; ``None`` if the node is not a parameter."""
    for _ in range(_VIEWS):
        variable: Tensor | None = getattr(node, "variable", None)
        if variable is not None:
            return variable
        if len(node.next_functions) != 1 or node.next_functions[0][0] is None:
            return None
        node = node.next_functions[0][0]
    return None


def below(nodes: Iterable[Any]) -> dict[Any, None]:
    """Every graph node that some nodes depend on, and these; a dictionary keeps their order."""
    found: dict[Any, None] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [inner for inner, _ in node.next_functions]
    return found


def leaves_of(nodes: Iterable[Any]) -> dict[int, Tensor]:
    """Every leaf that some graph nodes depend on, by its ``id``."""
    leaves = (getattr(node, "variable", None) for node in below(nodes))
    return {id(leaf): leaf for leaf in leaves if leaf is not None}
