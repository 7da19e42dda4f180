"""The operation of the graph that made a tensor, except those that change only its shape or dtype."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from torch import Tensor

# names of graph nodes that change only the shape or the dtype, and the number of them that are skipped
_RESHAPED: Final = (
    *("Squeeze", "Unsqueeze", "View", "UnsafeView", "ReshapeAlias", "Select", "Slice", "Alias", "Clone", "ToCopy"),
)
_SHAPED: Final = (*_RESHAPED, "Transpose", "Permute")
_VIEWS: Final = 4


def made_by(tensor: Tensor, *, in_order: bool = False) -> list[Any]:
    """The graph nodes of its views, and the one that made it, which is the last (``None`` for a tensor without graph).

    With ``in_order``, dimensions that change places are no view.
    """
    node: Any = tensor.grad_fn
    nodes = [node]
    skipped = _RESHAPED if in_order else _SHAPED
    for _ in range(_VIEWS):
        if not type(node).__name__.startswith(skipped):
            break
        node = node.next_functions[0][0]
        nodes.append(node)
    return nodes


def last_activation(tensor: Tensor) -> str | None:
    """The name of the last operation that made a tensor (``sigmoid``), which may be reshaped or cast since."""
    node = made_by(tensor)[-1]
    return None if node is None else type(node).__name__.partition("Backward")[0].lower()


def uses_of(root: Any) -> Counter[Any]:
    """How many nodes take the output of each node below ``root``."""
    counts: Counter[Any] = Counter()
    waiting = [root]
    seen = {root}
    while waiting:
        for below, _ in waiting.pop().next_functions:
            if below is None:
                continue
            counts[below] += 1
            if below not in seen:
                seen.add(below)
                waiting.append(below)
    return counts
