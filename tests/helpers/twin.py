"""The twin run: a real constructor, eagerly, on the very draws that its recording assigned.

Each random operation of the constructor is given, in the place of torch's own numbers, the draw of the stream that the
recording assigned to it, by its position among all random operations. Then every parameter and buffer of the twin must
equal what ``materialize_`` gives. This compares values and not laws: a lost sign, shift, row or tie shows at once.

What the recording assigned is found anew here: tensors of element numbers go through the recorded graph, and tell which
element of which draw became which element of which parameter.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import zeta
from zeta import Plan
from zeta.base.dtypes import bits
from zeta.base.language.evaluation import compute
from zeta.base.language.operations import is_elementwise
from zeta.base.language.state import fixed_state
from zeta.compute import sampling
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.initializers import Constant, Draw, Initializer, Normal, Program, TruncatedNormal, Uniform
from zeta.resolve.recording import record as recording
from zeta.resolve.recording.recognition import assembly
from zeta.resolve.recording.recognition.leaves import Leaf, leaf_of
from zeta.resolve.recording.recognition.simplify import Simplified
from zeta.resolve.recording.tracing import interception, randomness
from zeta.resolve.recording.tracing.graph import Node, Random, reachable, value_of

#: operations that move elements, and change none
MOVING = ("reshape", "permute", "expand", "slice", "strided", "update", "strided_update", "cat", "copy", "cast")


@dataclass
class Recorded:
    """A recording, and the random leaves in the order of the constructor's operations."""

    model: nn.Module
    plan: Plan
    leaves: list[Node]
    roots: dict[str, Node]


@contextlib.contextmanager
def leaves_noted(into: list[Node]) -> Iterator[None]:
    """Note every random leaf that is made."""
    drawn = randomness.drawn

    def noting(*args: Any) -> Node:
        into.append(drawn(*args))
        return into[-1]

    with mock.patch.object(randomness, "drawn", noting):
        yield


def record(factory: Callable[[], nn.Module]) -> Recorded:
    """Record a constructor as ``zeta.record`` does, and keep what it knew."""
    leaves: list[Node] = []
    roots: dict[str, Node] = {}
    recognize = recording.recognize

    def noting(given: dict[str, Node], frozen: dict[int, Tensor]) -> Any:
        roots.update(given)
        return recognize(given, frozen)

    with leaves_noted(leaves), mock.patch.object(recording, "recognize", noting):
        model, plan = zeta.record(factory)
    return Recorded(model, plan, leaves, roots)


# -- which element of which draw became what ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """For each element: the leaf's number, the element's number in it, and whether its sign was changed."""

    leaf: Tensor
    element: Tensor
    mirrored: Tensor


def traced(root: Node, number_of: dict[int, int]) -> Traced:
    """Follow the elements of all random leaves to a node: through what moves them, and arithmetic with constants."""
    values: dict[int, Traced] = {}
    for node in reachable([root]):
        inputs = [values[operand.serial] for operand in node.nodes]
        if node.op == "random":
            count = torch.arange(node.numel).view(node.shape)
            leaf = torch.full(node.shape, number_of[node.serial])
            values[node.serial] = Traced(leaf, count, torch.zeros(node.shape, dtype=torch.bool))
        elif node.op in MOVING:
            values[node.serial] = Traced(*(moved(node, [getattr(x, key) for x in inputs]) for key in KEYS))
        elif node.op == "_weight_norm_interface" and node.attribute("part") == 0:
            values[node.serial] = inputs[0]  # a law only where it is as it was
        else:
            drawn = [x for x in inputs if bool((x.leaf >= 0).any())]
            one = len(drawn) == 1 and is_elementwise(node.op)
            values[node.serial] = mapped(node, inputs, drawn[0]) if one else nothing(node)
    return values[root.serial]


KEYS = ("leaf", "element", "mirrored")


def moved(node: Node, inputs: list[Tensor]) -> Tensor:
    if node.op in ("copy", "cast"):
        return inputs[0]
    return compute(node.op, inputs, node.attributes, inputs[0].dtype)


def mapped(node: Node, inputs: list[Traced], drawn: Traced) -> Traced:
    """Arithmetic with constants, which may turn the values around."""
    at = [operand.serial for operand in node.nodes].index(
        next(operand.serial for operand, x in zip(node.nodes, inputs, strict=True) if x is drawn)
    )
    first = isinstance(node.operands[0], Node) and inputs[0] is drawn
    turned = node.op == "neg" or (node.op == "sub" and not first) or (node.op == "rsub" and first)
    others = [operand for operand in node.operands if operand is not list(node.nodes)[at]]
    if node.op in ("mul", "div") and others:
        turned = negative(others[0])
    shape = torch.broadcast_shapes(drawn.leaf.shape, node.shape)
    return Traced(drawn.leaf.expand(shape), drawn.element.expand(shape), drawn.mirrored.expand(shape) ^ turned)


def negative(value: Any) -> bool:
    if isinstance(value, Node):
        values: dict[int, Tensor] = {}
        for node in reachable([value]):
            if node.op in ("random", "unknown", "uninitialized"):
                return False
            values[node.serial] = value_of(node, values)
        value = float(values[value.serial].flatten()[0]) if value.numel else 0.0
    return not isinstance(value, complex) and value < 0


def nothing(node: Node) -> Traced:
    return Traced(
        torch.full(node.shape, -1),
        torch.zeros(node.shape, dtype=torch.int64),
        torch.zeros(node.shape, dtype=torch.bool),
    )


def assigned(found: Recorded, seed: int) -> list[Tensor]:
    """The values of each random leaf, of the stream; where nothing uses an element, the middle of its law."""
    values = [middle(leaf) for leaf in found.leaves]
    number_of = {leaf.serial: number for number, leaf in enumerate(found.leaves)}
    simple = Simplified(list(found.roots.values()), {})
    results = assembly._settled({name: simple[node] for name, node in found.roots.items()})
    owners = assembly._owners(results)
    for name, result in results.items():
        entry = next((e for e in found.plan if e.name == name), None)
        if entry is None:
            continue
        if not isinstance(entry.initializer, Program):
            root, law = found.roots[name], assembly._law_and_padding(result)
            leaf = law[0] if law is not None else None
            if leaf is not None and leaf.drawn is not None:
                give(values, found, root, number_of, leaf, name, 0, seed)
            continue
        if assembly._is_bare(result):
            continue  # the same as its owner
        for node in assembly._ordered(result):  # programs use draws as they were made
            drawn = leaf_of(node)
            if drawn is not None and drawn.drawn is not None:
                place = owners[drawn.drawn.serial]
                give(values, found, drawn.drawn, number_of, drawn, place.name, place.number * 256, seed)
    return [values[number_of[leaf.serial]] for leaf in found.leaves]  # what is drawn alike has one node


def give(
    values: list[Tensor], found: Recorded, node: Node, number_of: dict[int, int], leaf: Leaf, name: str, draw: int,
    seed: int,
) -> None:  # fmt: skip
    """Put a draw's values where the recorded graph takes them from."""
    assert leaf.drawn is not None
    original: Random = leaf.drawn.content
    law, key = original.initializer, parameter_key(seed, name)
    while node.op == "copy":
        node = node.operands[0]
    if isinstance(law, Uniform | Normal | TruncatedNormal) and node is not leaf.drawn:
        trace = traced(node, number_of)
        dtype = leaf.drawn.dtype
        sample = sampling.sample(law, key=key, region=Region.whole(node.shape), dtype=dtype, draw=draw)
        turned = sample
        if bool(trace.mirrored.any()):
            became = sampling.sample(leaf.initializer, key=key, region=Region.whole(node.shape), dtype=dtype, draw=draw)
            turned = mirrored(law, leaf.initializer, sample, became)
        for number in {number_of[leaf.serial] for leaf in reachable([node]) if leaf.op == "random"}:
            mine = trace.leaf == number
            if bool(mine.any()):
                assert found.leaves[number].content.initializer == law
                taken = torch.where(trace.mirrored, turned, sample)[mine]
                values[number].view(-1)[trace.element[mine]] = taken
        return
    shape, dtype = leaf.drawn.shape, leaf.drawn.dtype
    values[number_of[leaf.drawn.serial]] = sampling.sample(
        law, key=key, region=Region.whole(shape), dtype=dtype, axes=original.axes, draw=draw
    )


def mirrored(law: Initializer, became: Initializer, sample: Tensor, turned: Tensor) -> Tensor:
    """The values of a law of which a negative multiple became another: exactly, where the law is its mirror image."""
    if isinstance(law, TruncatedNormal):
        assert isinstance(became, TruncatedNormal)
        return law.mean - (turned - became.mean) * (law.std / became.std)
    return centre(law) * 2 - sample


def centre(law: Initializer) -> float:
    if isinstance(law, Uniform):
        return (law.low + law.high) / 2
    assert isinstance(law, Normal | TruncatedNormal)
    return law.mean


def middle(leaf: Node) -> Tensor:
    law: Initializer = leaf.content.initializer
    known = centre(law) if isinstance(law, Uniform | Normal | TruncatedNormal) else 0.0
    return torch.full(leaf.shape, known, dtype=leaf.dtype)


# -- the real constructor ----------------------------------------------------------------------------------------------


class Draws(TorchDispatchMode):
    """Random operations take their values from a list."""

    def __init__(self, values: list[Tensor]) -> None:
        super().__init__()
        self.values = values
        self.taken: list[Node] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not randomness.is_random(func):
            return func(*args, **kwargs)
        if func._schema.name.endswith("_"):
            node = randomness.drawn_in_place(func, args, kwargs, self.node, self.place())
            assert node is not None, func
            return args[0].copy_(self.value(node))
        made = randomness.made(func, args, kwargs, self.node, self.place())
        assert made is not None, func
        return self.value(made)

    def place(self) -> randomness.Place:
        return randomness.Place(source=None, state=b"", known={})

    def node(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return Node(op="data", content=value.detach().clone(), shape=tuple(value.shape), dtype=value.dtype)
        return value

    def value(self, root: Node) -> Tensor:
        values: dict[int, Tensor] = {}
        for node in reachable([root]):
            if node.op == "random":
                values[node.serial] = self.values[self.taken.index(node)]
            else:
                values[node.serial] = value_of(node, values)
        return values[root.serial].clone()

    def whole(self, name: str, tensor: Tensor, arguments: dict[str, Any]) -> Tensor:
        """torch.nn.init's functions that are recorded whole."""
        arguments.pop("generator", None)
        initializer, axes = interception._SPECS[name](tensor, **arguments)
        randomness.drawn(initializer, tuple(tensor.shape), tensor.dtype, self.place(), axes)
        with torch.no_grad():
            return tensor.copy_(self.values[len(self.taken) - 1])


def run(factory: Callable[[], nn.Module], values: list[Tensor]) -> nn.Module:
    """Build the model for real, on these draws."""
    draws = Draws(values)
    with (
        leaves_noted(draws.taken),
        mock.patch.object(interception, "intercepted", draws.whole),
        interception.INTERCEPTION.held(),
        torch.random.fork_rng(devices=[]),
        draws,
    ):
        model = factory()
    assert len(draws.taken) == len(values), "the constructor draws otherwise than when it was recorded"
    return model


# -- the comparison ----------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a twin run found: names of tensors that are equal, close (where a law replaced a formula), different."""

    equal: list[str] = field(default_factory=list)
    close: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def twin(factory: Callable[[], nn.Module], seed: int = 3) -> Outcome:
    """Record, materialize, run the twin, compare."""
    return compared(record(factory), factory, seed)


def compared(found: Recorded, factory: Callable[[], nn.Module], seed: int = 3) -> Outcome:
    """Materialize what was recorded, run the twin, compare."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zeta.ZetaNotice)
        zeta.materialize_(found.model, Plan.from_json(found.plan.to_json()), seed=seed)
    with fixed_state():
        values = assigned(found, seed)
    real = run(factory, values)
    outcome = Outcome()
    if ties(found.model) != ties(real):
        outcome.different.append(f"ties: {ties(found.model)} for {ties(real)}")
    ours, theirs = named(found.model), named(real)
    if list(ours) != list(theirs):
        outcome.different.append(f"names: {sorted(set(ours) ^ set(theirs))}")
    for name in ours.keys() & theirs.keys():
        compare(name, ours[name], theirs[name], found.plan, outcome)
    return outcome


def named(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def ties(model: nn.Module) -> list[list[str]]:
    by_tensor: dict[int, list[str]] = {}
    for pairs in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in pairs:
            by_tensor.setdefault(id(tensor), []).append(name)
    return [names for names in by_tensor.values() if len(names) > 1]


def compare(name: str, ours: Tensor, theirs: Tensor, plan: Plan, outcome: Outcome) -> None:
    a, b = ours.detach(), theirs.detach()
    if (a.shape, a.dtype, strides(a), ours.requires_grad) != (b.shape, b.dtype, strides(b), theirs.requires_grad):
        outcome.different.append(f"{name}: {a.shape} {a.dtype} {a.stride()} for {b.shape} {b.dtype} {b.stride()}")
        return
    if torch.equal(bits(a), bits(b)) or bool(((a == b) | ((a != a) & (b != b))).all()):
        outcome.equal.append(name)
        return
    planned = _ORIGINAL.sub(r"\1", name)  # an original is planned as the weight that is computed from it
    law = plan[planned].initializer if planned in {n for e in plan for n in (e.name, *e.ties)} else None
    apart = float((a.double() - b.double()).abs().max()) if not a.is_complex() else float((a - b).abs().max())
    if isinstance(law, Initializer) and not isinstance(law, Constant) and near(a, b, law):
        outcome.close.append(name)
        return
    outcome.different.append(f"{name}: {apart:.3g} apart ({law})")


_ORIGINAL: Final = re.compile(r"parametrizations\.(\w+)\.original\d*$")


def strides(x: Tensor) -> list[int]:
    """The strides along which there is more than one element."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1] if x.numel() else []


def near(a: Tensor, b: Tensor, law: Initializer) -> bool:
    """Whether two tensors differ by what rounding may do where a law replaced a formula."""
    if isinstance(law, Program) and isinstance(law.steps[-1].leaf, Draw):
        law = law.steps[-1].leaf.initializer  # what another parameter has
    if isinstance(law, Program):  # sums in another order
        if not (a.dtype.is_floating_point or a.dtype.is_complex):
            return False
        # singular vectors move by the rounding over the gap between singular values (Davis & Kahan 1970)
        vectors = any(step.op in ("_linalg_svd", "_linalg_eigh") for step in law.steps)
        return bool((a - b).abs().max() <= b.abs().max() * max(1e-4 if vectors else 1e-5, 4 * torch.finfo(a.dtype).eps))
    rest = (a - b).abs().double() > bound(law, a.dtype)
    if not isinstance(law, TruncatedNormal) or not law.std or not bool(rest.any()):
        return not bool(rest.any())
    a, b = a[rest].double(), b[rest].double()
    same_side = (a > law.mean) == (b > law.mean)
    return bool((same_side & ((tail(a, law) - tail(b, law)).abs() <= 2 * torch.finfo(torch.float32).eps)).all())


def tail(x: Tensor, law: TruncatedNormal) -> Tensor:
    """The probability beyond each value, on both sides.

    The inverse error function is given the rest, which fp32 rounds to two ulps below 1: far out it gives another value,
    and at 1 infinity, which torch clamps.
    """
    return torch.erfc((x - law.mean).abs() / law.std / math.sqrt(2))


def bound(law: Initializer, dtype: torch.dtype) -> float:
    """What rounding may do where a scale was folded into a law, or a formula replaced by one."""
    eps = torch.finfo(dtype).eps if dtype.is_floating_point or dtype.is_complex else 0.0
    match law:
        case TruncatedNormal():
            return (abs(law.mean) + law.std) * max(1e-5, 4 * eps)
        case Normal():
            return (abs(law.mean) + 8 * law.std) * 2 * eps
        case Uniform():
            return max(abs(law.low), abs(law.high)) * 2 * eps
    return 1e-5
