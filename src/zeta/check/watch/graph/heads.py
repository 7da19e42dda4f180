"""What makes the logits: a layer, or a comparison of two tensors, such as cosines and distances."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Final

from torch import Tensor

from zeta.check.watch.batches import tensors_in
from zeta.check.watch.graph.nodes import leaf_of
from zeta.check.watch.graph.paths import FUSED

# graph nodes with one input that are followed from the logits or the output back to the head
_HEAD_STEPS: Final = 12
# graph nodes that are looked at on the way from logits back to a product, and from a product back to a norm
_NEAR: Final = 64
_SIDE: Final = 32
# the starts of the names of nodes that compare two tensors, and of those that compute a length
_PRODUCTS: Final = ("MmBackward", "BmmBackward", "AddmmBackward", "BaddbmmBackward", "MvBackward", "DotBackward")
_DISTANCES: Final = ("CdistBackward", "EuclideanDistBackward")
_LENGTHS: Final = ("LinalgVectorNormBackward", "NormBackward", "SqrtBackward", "RsqrtBackward")
# a sum over products or squares of differences
_SUM: Final = "SumBackward"
_TERM, _SQUARE, _MEAN = "MulBackward", "PowBackward", "MeanBackward"


def heads(
    classified: list[Tensor], output: Any, nodes: Mapping[Any, Any], names: Mapping[int, str]
) -> tuple[Any, frozenset[str]]:
    """The record that makes the logits (the first ones, if there are several), and the parameters of all logits.

    Without logits, those of the first output for which they are found.

    Args:
        classified: the logits of cross entropies.
        output: what the model put out.
        nodes: the record by the node of its output.
        names: canonical names of parameters by their ``id``.
    """
    tensors = classified or [tensor for _, tensor in tensors_in(output) if tensor.requires_grad]
    found = [head for tensor in tensors if (head := _head_of(tensor, nodes, names)) is not None]
    if not found:
        return None, frozenset()
    return found[0][0], frozenset().union(*(own for _, own in (found if classified else found[:1])))


def _head_of(tensor: Tensor, nodes: Mapping[Any, Any], names: Mapping[int, str]) -> tuple[Any, frozenset[str]] | None:
    """The record and the parameters that make a tensor, found through operations with one non-parameter input.

    Layers without parameters, such as a last softmax, are skipped if a layer with parameters comes before them.
    """
    node: Any = tensor.grad_fn
    bare: Any = None
    for _ in range(_HEAD_STEPS):
        if node is None:
            break
        record = nodes.get(node)
        above = _inputs(node)
        leaves = [leaf for inner in above if (leaf := leaf_of(inner)) is not None]
        if (record is not None and record.parameters) or any(leaf.ndim > 1 for leaf in leaves):
            own = {names[id(leaf)] for leaf in leaves if id(leaf) in names}
            return record, frozenset(own.union(() if record is None else record.parameters))
        bare = bare or record
        rest = [inner for inner in above if leaf_of(inner) is None]
        node = rest[0] if len(rest) == 1 else None
    return None if bare is None else (bare, frozenset())


def compares(tensor: Tensor, nodes: Container[Any]) -> bool:
    """Whether logits compare two tensors: by distances, by cosines, or by products of two layers' outputs.

    ``nodes`` are those of the records. A scale after a comparison is chosen; it is not the std of a head's weights.
    """
    return any(
        sides is None
        or all(map(has_unit_length, sides))
        or (len(sides) > 1 and all(_computed(side, nodes) for side in sides))
        for sides in _comparisons(tensor.grad_fn)
    )


def scales_cosines(node: Any) -> bool:
    """Whether scores, or an attention's output, come from queries and keys that were divided by their lengths."""
    if type(node).__name__.startswith(FUSED):
        return all(has_unit_length(inner) for inner, _ in node.next_functions[:2])
    return any(sides is not None and all(map(has_unit_length, sides)) for sides in _comparisons(node))


def _comparisons(node: Any) -> Iterator[list[Any] | None]:
    """The nearest products before a node: the sides with a graph; and ``None`` for each distance.

    Another side may be constant, such as the keys of a queue. Products with a parameter are left out.
    """
    for found in _before(node, _NEAR, _ends):
        name = type(found).__name__
        terms = _inputs(found)[0] if name.startswith(_SUM) else found
        sides = [inner for inner in _inputs(terms) if not _is_bias(inner)]
        if name.startswith(_DISTANCES) or type(terms).__name__.startswith(_SQUARE):
            yield None
        elif sides and all(leaf_of(side) is None for side in sides):
            yield sides


def _ends(node: Any) -> bool:
    """Whether a node is a product or a distance; a sum is one if it is over products or squares of two tensors."""
    name, inputs = type(node).__name__, _inputs(node)
    if name.startswith(_SUM) and inputs:
        terms = type(inputs[0]).__name__
        return terms.startswith(_SQUARE) or (terms.startswith(_TERM) and len(_inputs(inputs[0])) == 2)
    return name.startswith((*_PRODUCTS, *_DISTANCES))


def has_unit_length(node: Any) -> bool:
    """Whether a length is computed shortly before a node, and nothing mixes units in between."""
    return any(not type(one).__name__.startswith(_PRODUCTS) for one in _before(node, _SIDE, _ends_at_length))


def _ends_at_length(node: Any) -> bool:
    """Whether a node computes a length or mixes units."""
    name = type(node).__name__
    return name.startswith((*_LENGTHS, *_PRODUCTS)) or (name.startswith(_SQUARE) and _is_of_mean(node))


def _is_of_mean(node: Any) -> bool:
    """Whether a power is one of a mean, perhaps with a small number added: ``(x.pow(2).mean(-1) + eps).pow(-0.5)``."""
    for _ in range(2):
        [*inputs] = _inputs(node)
        if any(type(one).__name__.startswith(_MEAN) for one in inputs):
            return True
        if len(inputs) != 1:
            return False
        [node] = inputs
    return False


def _computed(node: Any, nodes: Container[Any]) -> bool:
    """Whether a layer's output comes shortly before a node."""
    return any(one in nodes for one in _before(node, _SIDE, nodes.__contains__))


def _before(node: Any, most: int, ends: Callable[[Any], bool]) -> Iterator[Any]:
    """The nearest nodes at or before one at which ``ends`` is true, of so many that are looked at."""
    waiting: deque[Any] = deque([node])
    seen: set[Any] = set()
    while waiting and len(seen) < most:
        one = waiting.popleft()
        if one is None or one in seen:
            continue
        seen.add(one)
        if ends(one):
            yield one
        else:
            waiting += _inputs(one)


def _is_bias(node: Any) -> bool:
    leaf = leaf_of(node)
    return leaf is not None and leaf.ndim < 2


def _inputs(node: Any) -> list[Any]:
    return [inner for inner, _ in node.next_functions if inner is not None]
