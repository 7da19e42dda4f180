"""From a recorded graph to initializers: what is a known law becomes that law, the rest a small program."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final

import torch

from zeta import dtypes, operations
from zeta.errors import RecordingError, SpecError, ZetaError
from zeta.fans import Axes, torch_axes
from zeta.graph import LARGEST_DATA, Node, Random, Source, reachable
from zeta.initializers import (
    LARGEST_SIGMA,
    Constant,
    Data,
    Draw,
    Identity,
    Initializer,
    Normal,
    Program,
    Ref,
    Step,
    TruncatedNormal,
    Uniform,
)
from zeta.initializers.program import DRAWS_PER_LEAF, constant
from zeta.operations import Box, box_of

_IID: Final = (Uniform, Normal, TruncatedNormal)
# probability that a clamp may cut off beyond a law's own bounds without being part of the law
_NEGLIGIBLE: Final = 2.0**-33


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A node that is a known law: constant if ``drawn`` is ``None``, else the randomness that it comes from."""

    initializer: Initializer
    shape: tuple[int, ...]
    dtype: torch.dtype
    drawn: Node | None = None
    axes: Axes | None = None

    @property
    def is_constant(self) -> bool:
        """Whether every element is the same number."""
        return isinstance(self.initializer, Constant)


Simple = Leaf | Node


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """What one parameter gets: its initializer, and what belongs to it."""

    initializer: Initializer
    axes: Axes | None = None
    padding_idx: int | None = None


def recognize(roots: dict[str, Node]) -> tuple[dict[str, Recognized], dict[str, str]]:
    """Tell each named node's initializer; and for those that have none, why.

    A value that several of them share is drawn once, under one name. Nothing depends on the order in which the nodes
    were made.
    """
    simple = _Simplifier(list(roots.values()))
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


# -- simplification --------------------------------------------------------------------------------------------------


class _Simplifier:
    """Every node that the roots use, as a leaf or as an operation on simpler nodes."""

    def __init__(self, roots: list[Node]) -> None:
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
            case "random":
                law: Random = node.args[0]
                return Leaf(
                    initializer=law.initializer, shape=node.shape, dtype=node.dtype, drawn=node, axes=law.axes
                )
            case "data":
                return _of_data(node)
            case "item":
                return _unchanged_by_weight_norm(self, node) or self._rebuilt(node)
            case "unknown" | "uninitialized":
                return self._rebuilt(node)
        name = node.op.split(".")[1] if "." in node.op else node.op
        args = [self._of(item) for item in node.args]
        rule = _RULES.get(name)
        found = rule(self, node, args) if rule is not None else None
        if found is None and operations.is_pointwise(node.op):
            found = _folded(node, args)
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
                return result if isinstance(result, Node) else _leaf_node(result, value.serial)
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
                used = [item for item in used if not _is_constant(self.results[item.serial])]
                if len(used) != 1:
                    return False
            node = used[0]
        return False


def _is_constant(simple: Simple) -> bool:
    return isinstance(simple, Leaf) and simple.is_constant


def _leaf_node(leaf: Leaf, serial: int) -> Node:
    return Node(op="leaf", args=(leaf,), shape=leaf.shape, dtype=leaf.dtype, serial=serial)


def _of_data(node: Node) -> Simple:
    """Data of one number is a constant."""
    tensor = node.args[0]
    if tensor.numel() and tensor.nbytes <= LARGEST_DATA and not tensor.is_complex():
        first = tensor.reshape(-1)[0]
        if bool((tensor == first).all()):
            return _constant(first.item(), node) or node
    return node


def _constant(value: Any, node: Node) -> Leaf | None:
    """A constant leaf, if the number is one that a plan can hold exactly."""
    if isinstance(value, complex):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number) or number != value:
        return None
    return Leaf(initializer=constant(number), shape=node.shape, dtype=node.dtype)


# -- rules: each takes a node with its simplified arguments, and returns a leaf or node, or None ----------------------

RuleOf = Callable[[_Simplifier, Node, list[Any]], Simple | None]


def _same(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """Copies, and casts to a dtype that holds no more: a value of the stream is rounded once."""
    source = args[0]
    if source.dtype is node.dtype:
        return source if isinstance(source, Leaf) or source.shape == node.shape else None
    if not isinstance(source, Leaf):
        return None
    if source.is_constant:
        return _folded(node, args)
    both = source.dtype in dtypes.REAL and node.dtype in dtypes.REAL
    return replace(source, dtype=node.dtype) if both and node.dtype.itemsize <= source.dtype.itemsize else None


def _full(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    values = {"full": args[1] if len(args) > 1 else None, "full_like": args[1] if len(args) > 1 else None}
    values |= {"new_full": args[2] if len(args) > 2 else None, "scalar_tensor": args[0]}
    name = node.op.split(".")[1]
    value = 1 if "ones" in name else 0 if "zeros" in name else values[name]
    if isinstance(value, Leaf):
        value = value.initializer.value if isinstance(value.initializer, Constant) else None
    if not isinstance(value, int | float):
        return None
    # as the dtype holds it
    return _constant(torch.full((), value, dtype=node.dtype, device="cpu").item(), node)


def _eye(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    if node.dtype not in dtypes.REAL:
        return None
    axes = torch_axes(2)
    return Leaf(initializer=Identity(), shape=node.shape, dtype=node.dtype, drawn=None, axes=axes)


def _reshaped(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """The same elements in the same order."""
    source = args[0]
    if isinstance(node.args[1] if len(node.args) > 1 else None, torch.dtype):
        return None
    if isinstance(source, Leaf):
        if source.shape == node.shape:
            return source
        if source.is_constant or isinstance(source.initializer, _IID):
            return replace(source, shape=node.shape)
        return None
    return source if source.shape == node.shape else None


def _expanded(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    source = args[0]
    if isinstance(source, Leaf) and (source.is_constant or math.prod(source.shape) == node.numel):
        return replace(source, shape=node.shape)
    return source if source.shape == node.shape else None


def _read(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A view: of a constant, a constant; of values that are drawn on their own and used here only, as many others."""
    source = args[0]
    if not isinstance(source, Leaf):
        return _part_of_write(node, source)
    if source.is_constant:
        return replace(source, shape=node.shape)
    box = box_of(source.shape, *node.args[1:])
    if box is None or not isinstance(source.initializer, _IID) or not simplifier.used_once(node.args[0]):
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


def _affine(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """``factor * x + shift`` of a known law."""
    name = node.op.split(".")[1]
    left, right = _number(args[0]), _number(args[1]) if len(args) > 1 else None
    leaf, number = (args[0], right) if left is None else (args[1], left)
    alpha = node.kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    if not isinstance(leaf, Leaf) or leaf.is_constant:
        return None
    if leaf.shape != node.shape or leaf.dtype is not node.dtype:
        return None
    if name == "neg":
        return _law(leaf, -1.0, 0.0)
    if number is None or not isinstance(alpha, int | float):
        return None
    swapped = left is not None
    match name:
        case "mul":
            return _law(leaf, number, 0.0)
        case "div" if not swapped and number != 0 and "mode" not in str(node.kwargs):
            return _law(leaf, 1 / number, 0.0)
        case "add":
            return _law(leaf, float(alpha), number) if swapped else _law(leaf, 1.0, alpha * number)
        case "sub":
            return _law(leaf, -float(alpha), number) if swapped else _law(leaf, 1.0, -alpha * number)
        case "rsub":
            return _law(leaf, -float(alpha), number) if not swapped else _law(leaf, 1.0, -alpha * number)
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, Leaf):
        return value.initializer.value if isinstance(value.initializer, Constant) else None
    return float(value) if isinstance(value, int | float) else None


def _law(leaf: Leaf, factor: float, shift: float) -> Leaf | None:
    """``factor * x + shift`` of ``leaf``; ``None`` if that is no known law."""
    try:
        law = leaf.initializer
        if factor == 0:
            return replace(leaf, initializer=constant(shift), drawn=None, axes=None)
        law = law if factor == 1 else law.scaled(factor)
        if shift != 0:
            moved = _moved(law, shift)
            if moved is None:
                return None
            law = moved
    except SpecError:
        return None
    return replace(leaf, initializer=law)


def _moved(law: Initializer, shift: float) -> Initializer | None:
    match law:
        case Uniform():
            return Uniform(law.low + shift, law.high + shift)
        case Normal():
            return Normal(law.std, law.mean + shift)
        case TruncatedNormal():
            low, high = (None if bound is None else bound + shift for bound in (law.low, law.high))
            return replace(law, mean=law.mean + shift, low=low, high=high)
    return None


def _erfinv(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """The inverse error function of uniform values is a truncated normal of std ``sqrt(1/2)``."""
    leaf = args[0]
    if not isinstance(leaf, Leaf) or not isinstance(leaf.initializer, Uniform):
        return None
    low, high = leaf.initializer.bounds()
    if not -1 <= low < high <= 1:
        return None
    bounds = [_erfinv_of(bound) for bound in (low, high)]
    try:
        if bounds == [None, None]:
            return replace(leaf, initializer=Normal(math.sqrt(0.5)))
        return replace(leaf, initializer=TruncatedNormal(math.sqrt(0.5), low=bounds[0], high=bounds[1]))
    except SpecError:
        return None


def _erfinv_of(x: float) -> float | None:
    """The inverse error function; ``None`` for what a fp32 value cannot tell from infinity."""
    if abs(x) >= 1 - 2.0**-24:
        return None
    return NormalDist().inv_cdf((1 + x) / 2) * math.sqrt(0.5)


def _clamped(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A clamp that only holds a (truncated) normal at bounds beyond which it has next to no probability."""
    leaf = args[0]
    name = node.op.split(".")[1]
    given = [*args[1:], None, None]
    low, high = given[0], given[1]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    if name == "clamp_min":
        low, high = args[1], None
    elif name == "clamp_max":
        low, high = None, args[1]
    if not isinstance(leaf, Leaf) or not isinstance(leaf.initializer, Normal | TruncatedNormal):
        return None
    if any(bound is not None and not isinstance(bound, int | float) for bound in (low, high)):
        return None
    law = leaf.initializer
    own_low, own_high = law.bounds()
    parent = NormalDist(law.mean, law.std) if law.std else None
    if parent is None:
        return None
    mass = parent.cdf(own_high) - parent.cdf(own_low)

    def cut(a: float, b: float) -> float:
        return max(0.0, parent.cdf(b) - parent.cdf(a)) / mass

    # torch's arithmetic in fp32 leaves its bounds by a rounding
    slack = 1e-5 * law.std
    lost = cut(own_low, low - slack) if low is not None else 0.0
    lost += cut(high + slack, own_high) if high is not None else 0.0
    if lost > _NEGLIGIBLE:
        return None
    new_low = own_low if low is None else max(low, own_low) if own_low > low + slack else float(low)
    new_high = own_high if high is None else min(high, own_high) if own_high < high - slack else float(high)
    try:
        law = TruncatedNormal(
            law.std,
            law.mean,
            low=new_low if math.isfinite(new_low) else None,
            high=new_high if math.isfinite(new_high) else None,
        )
    except SpecError:
        return None
    return replace(leaf, initializer=law)


def _written(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
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
        values = [_leaf_of(write.value) for write in kept]
        if all(value is not None and value.initializer == base.initializer for value in values):
            return base
    result = base if isinstance(base, Node) else _leaf_node(base, -1)
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


def _chain(simplifier: _Simplifier, node: Node) -> tuple[Simple, list[_Write]]:
    """What was written over, and the writes that led to a node, the first first."""
    value = simplifier[node.args[1]]
    written = value if isinstance(value, Node) else _leaf_node(value, node.args[1].serial)
    base = simplifier[node.args[0]]
    writes = [_write(node, written, node.args[2:])]
    while isinstance(base, Node) and base.op == "write" and len(writes) < _LONGEST_CHAIN:
        writes.insert(0, _write(base, base.args[1], base.args[2:]))
        base = base.args[0]
        base = _leaf_of(base) or base
    return base, writes


def _write(node: Node, value: Node, view: tuple[Any, ...]) -> _Write:
    return _Write(value=value, view=view, box=box_of(node.shape, value.shape, *view), source=node.source)


_LONGEST_CHAIN: Final = 64


def _covered(target: Box, boxes: list[Box]) -> bool:
    """Whether boxes of steps 1 leave nothing of a box uncovered; looked for along one dimension at a time."""
    return any(_covered_along(dim, target, boxes) for dim in range(len(target.sizes)))


def _covered_along(dim: int, target: Box, boxes: list[Box]) -> bool:
    spans = sorted(
        (box.starts[dim], box.stops[dim])
        for box in boxes
        if all(step == 1 for step in box.steps)
        and all(
            d == dim or (box.starts[d] <= target.starts[d] and target.stops[d] <= box.stops[d])
            for d in range(len(target.sizes))
        )
    )
    reached = target.starts[dim]
    for start, stop in spans:
        if start <= reached:
            reached = max(reached, stop)
    return reached >= target.stops[dim]


def _joined(simplifier: _Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """Parts of one law, end to end."""
    return _one_law(simplifier, node, list(node.args[0]))


def _one_law(simplifier: _Simplifier, node: Node, parts: list[Node]) -> Leaf | None:
    """The law that all parts of a tensor have, each drawn on its own and used here only."""
    leaves = [leaf for part in parts if (leaf := _leaf_of(simplifier[part])) is not None]
    first = leaves[0] if leaves else None
    if first is None or len(leaves) < len(parts) or any(leaf.initializer != first.initializer for leaf in leaves):
        return None
    if first.is_constant:
        return replace(first, shape=node.shape)
    if not isinstance(first.initializer, _IID) or len({id(leaf.drawn) for leaf in leaves}) < len(leaves):
        return None
    alone = all(map(simplifier.used_once, parts))
    return replace(first, shape=node.shape) if alone else None


def _unchanged_by_weight_norm(simplifier: _Simplifier, node: Node) -> Simple | None:
    """``g v / ||v||`` is ``v`` where ``g`` is still the norm of ``v``."""
    whole, position = node.args
    if position != 0 or not whole.op.startswith("aten._weight_norm_interface"):
        return None
    v, g = whole.args[:2]
    base = _origin(g)
    dim = whole.args[2] if len(whole.args) > 2 else 0
    if not base.op.startswith("aten.norm.ScalarOpt_dim") or base.args[1] != 2 or base.numel != v.shape[dim]:
        return None
    return simplifier[v] if _origin(base.args[0]) is _origin(v) else None


def _origin(node: Node) -> Node:
    """What a node is a copy or another shape of, row by row."""
    while node.op in ("aten.clone.default", "aten.detach.default", "aten.view.default", "aten._unsafe_view.default"):
        node = node.args[0]
    return node


def _folded(node: Node, args: list[Any]) -> Leaf | None:
    """An operation on constants alone, elementwise: compute one element."""
    if not args or not any(isinstance(arg, Leaf) for arg in args):
        return None
    if not all(
        isinstance(arg, int | float | bool | None) or (isinstance(arg, Leaf) and arg.is_constant) for arg in args
    ):
        return None
    if any(isinstance(value, Node) for value in node.kwargs.values()):
        return None
    # a 0-d tensor gives way to another's dtype, so keep which arguments are 0-d
    ones = [
        torch.full((1,) * min(len(arg.shape), 1), arg.initializer.value, dtype=arg.dtype, device="cpu")  # type: ignore[attr-defined]
        if isinstance(arg, Leaf)
        else arg
        for arg in args
    ]
    kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}
    result = operations.run(node.op, ones, kwargs)
    return _constant(result.to(node.dtype).reshape(-1)[0].item(), node)


_RULES: Final[dict[str, RuleOf]] = {
    **dict.fromkeys(("clone", "_to_copy", "detach", "alias", "contiguous", "pin_memory", "positive"), _same),
    **dict.fromkeys(
        ("full", "full_like", "new_full", "ones", "ones_like", "new_ones", "zeros", "zeros_like", "new_zeros",
         "scalar_tensor"),
        _full,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "squeeze", "unsqueeze"), _reshaped),
    **dict.fromkeys(("mul", "div", "add", "sub", "rsub", "neg"), _affine),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamped),
    "cat": _joined,
    "eye": _eye,
    "expand": _expanded,
    "read": _read,
    "write": _written,
    "erfinv": _erfinv,
}  # fmt: skip


# -- owners and programs ---------------------------------------------------------------------------------------------


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
    found = [leaf.drawn for leaf in map(_leaf_of, _ordered(result)) if leaf is not None and leaf.drawn is not None]
    return list({node.serial: node for node in found}.values())


def _leaf_of(node: Simple) -> Leaf | None:
    if isinstance(node, Leaf):
        return node
    return node.args[0] if node.op == "leaf" else None


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
    leaf, zero = _leaf_of(base), _leaf_of(value)
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
            return Recognized(initializer=leaf.initializer, axes=leaf.axes, padding_idx=row)
    return Recognized(initializer=_program(name, result, owners))


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
    leaf = _leaf_of(node)
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
                    "Load it after materializing"
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
    place = _Place(name=name, number=0) if leaf.drawn is None else owners[leaf.drawn.serial]
    draw = Draw(
        leaf.initializer,
        place.number * DRAWS_PER_LEAF,
        None if place.name == name else place.name,
        leaf.axes,
    )
    return Step(op="draw", args=(draw,), shape=leaf.shape, dtype=leaf.dtype)
