"""Rules for single operations: each maps a node and its simplified arguments to a leaf or node, or to ``None``."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.evaluation import compute
from zeta.base.language.state import fixed_state
from zeta.errors import SpecError
from zeta.fans import torch_axes
from zeta.initializers import Constant, Dirac, Identity, Initializer, Normal, Sparse, TruncatedNormal, Uniform
from zeta.initializers.program import constant
from zeta.resolve.recording.recognition.leaves import IID, Leaf, RuleOf, Simple, Simplifier, constant_leaf
from zeta.resolve.recording.tracing import Node

# a clamp that cuts off less probability than this does not change the law
_NEGLIGIBLE: Final = 2.0**-33
# torch's fp32 arithmetic may leave the bounds of a law by a rounding: this much, relative to the std
_BOUND_SLACK: Final = 1e-5


def _cast(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A cast to a narrower dtype. The stream rounds each value once, so the law may not have been rounded before."""
    source = args[0]
    if not isinstance(source, Leaf):
        return None
    if source.is_constant or isinstance(source.initializer, Identity | Dirac):
        return folded(node, args)
    wide = source.dtype in (torch.float32, torch.float64) and node.dtype in dtypes.REAL
    narrower = wide and node.dtype.itemsize < source.dtype.itemsize
    return source.derived(dtype=node.dtype) if narrower else None


def _full(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    value = node.attribute("value")
    if not isinstance(value, int | float):
        return None
    # the value after rounding to the dtype
    return constant_leaf(torch.full((), value, dtype=node.dtype, device="cpu").item(), node)


def _eye(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    if node.dtype not in dtypes.REAL:
        return None
    axes = torch_axes(2)
    return Leaf(initializer=Identity(), shape=node.shape, dtype=node.dtype, drawn=None, axes=axes)


def _reshaped(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """The same elements in the same order."""
    source = args[0]
    if source.shape == node.shape:
        return source  # type: ignore[no-any-return]
    if not isinstance(source, Leaf) or not (source.is_constant or isinstance(source.initializer, IID)):
        return None
    return source.derived(shape=node.shape)


def _expanded(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    source = args[0]
    if source.shape == node.shape:
        return source  # type: ignore[no-any-return]
    if not isinstance(source, Leaf):
        return None
    same = isinstance(source.initializer, IID) and math.prod(source.shape) == node.numel
    return source.derived(shape=node.shape) if source.is_constant or same else None


def _affine(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """``factor * x + shift`` of a known law."""
    at = next((place for place, arg in enumerate(args) if isinstance(arg, Leaf) and not arg.is_constant), None)
    if at is None:
        return None
    leaf = args[at]
    if leaf.shape != node.shape or leaf.dtype is not node.dtype or isinstance(leaf.initializer, Identity | Dirac):
        return None
    if node.op == "neg":
        return _scaled_and_shifted(leaf, -1.0, 0.0)
    number, alpha = _number(args[1 - at]), node.attribute("alpha")
    alpha = 1.0 if alpha is None else alpha
    if number is None or not isinstance(alpha, int | float):
        return None
    match node.op:
        case "mul":
            return _scaled_and_shifted(leaf, number, 0.0)
        case "div" if at == 0 and number != 0 and node.attribute("rounding_mode") is None:
            return _scaled_and_shifted(leaf, 1 / number, 0.0)
        case "add":
            factor, shift = (1.0, alpha * number) if at == 0 else (float(alpha), number)
            return _scaled_and_shifted(leaf, factor, shift)
        case "sub":
            factor, shift = (1.0, -alpha * number) if at == 0 else (-float(alpha), number)
            return _scaled_and_shifted(leaf, factor, shift)
        case "rsub":
            factor, shift = (-float(alpha), number) if at == 0 else (1.0, -alpha * number)
            return _scaled_and_shifted(leaf, factor, shift)
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, Leaf):
        return value.initializer.value if isinstance(value.initializer, Constant) else None
    return float(value) if isinstance(value, int | float) else None


def _scaled_and_shifted(leaf: Leaf, factor: float, shift: float) -> Leaf | None:
    """``factor * x + shift`` of ``leaf``; ``None`` if that is not a known law."""
    try:
        law = leaf.initializer
        if factor == 0 or (factor < 0 and isinstance(law, Sparse)):
            return None  # of zeros the signs are those of what is drawn
        law = law if factor == 1 else law.scaled(factor)
        if shift != 0:
            moved = law.shifted(shift) if isinstance(law, Uniform | Normal | TruncatedNormal) else None
            if moved is None:
                return None
            law = moved
    except SpecError:
        return None
    return leaf.derived(initializer=law) if _has_digits(law, leaf.dtype) else None


def _has_digits(law: Initializer, dtype: torch.dtype) -> bool:
    """Whether values in this dtype still follow the law: the shift is not too large, and all is within its range."""
    match law:
        case Uniform():
            centre, width = (law.low + law.high) / 2, law.high - law.low
        case Normal() | TruncatedNormal():
            centre, width = law.mean, law.std
        case _:
            return True
    info = torch.finfo(dtypes.real_part(dtype))
    near = width >= abs(centre) * info.eps * 2**8
    return near and width >= info.smallest_normal * 2**10 and abs(centre) + 2**4 * width <= info.max


def _erfinv(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
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
            return leaf.derived(initializer=Normal(math.sqrt(0.5)))
        return leaf.derived(initializer=TruncatedNormal(math.sqrt(0.5), low=bounds[0], high=bounds[1]))
    except SpecError:
        return None


def _erfinv_of(x: float) -> float | None:
    """The inverse error function; ``None`` if fp32 cannot distinguish ``x`` from 1, where it is infinite."""
    if abs(x) >= 1 - 2.0**-24:
        return None
    return NormalDist().inv_cdf((1 + x) / 2) * math.sqrt(0.5)


def _clamped(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """A clamp that is part of the law: it cuts off a negligible probability, or only repeats the law's bounds."""
    leaf = args[0]
    low, high = {"clamp": args[1:], "clamp_min": [*args[1:], None], "clamp_max": [None, *args[1:]]}[node.op]
    if isinstance(leaf, Leaf) and isinstance(leaf.initializer, Uniform) and leaf.dtype in dtypes.REAL:
        # uniform draws in narrow dtypes are recorded with such a clamp, to stay below the upper bound
        ends = dtypes.below(leaf.initializer.high, leaf.dtype)
        return leaf.derived() if low is None and isinstance(high, float) and high >= ends else None
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

    slack = _BOUND_SLACK * law.std
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
    return leaf.derived(initializer=law)


def _weight_norm(simplifier: Simplifier, node: Node, args: list[Any]) -> Simple | None:
    """``g v / ||v||`` is ``v`` if ``g`` is still the norm of ``v``, row by row. Rows of zeros stay zero."""
    v, g = node.operands
    base, dim = _origin(g), node.attribute("dim") or 0
    if node.attribute("part") != 0 or base.op not in ("norm", "linalg_vector_norm"):
        return None
    power = base.attribute("p") if base.op == "norm" else base.attribute("ord")
    [whole] = base.operands
    rows, columns = v.shape[dim], v.numel // max(v.shape[dim], 1)
    kept, summed = ((rows, columns), (1,)) if dim == 0 else ((columns, rows), (0,))
    same = power in (None, 2) and whole.shape == kept and base.attribute("dim") == summed
    return simplifier[v] if same and _origin(whole) is _origin(v) else None


def _origin(node: Node) -> Node:
    """The node without copies and reshapes."""
    while node.op in ("copy", "reshape"):
        node = node.operands[0]
    return node


def folded(node: Node, args: list[Any]) -> Leaf | None:
    """An elementwise operation on constants, and on no more than one matrix that is zero off its diagonal.

    The result is such again, or ``None``: what is not random keeps the bits that torch's arithmetic gives it.
    """
    leaves = [arg for arg in args if isinstance(arg, Leaf)]
    if not leaves or any(isinstance(arg, Node) for arg in args):
        return None
    matrix = next((leaf for leaf in leaves if not leaf.is_constant), None)
    if matrix is None:
        return _constant(node, args)
    law = matrix.initializer
    alone = all(leaf is matrix or leaf.is_constant for leaf in leaves) and matrix.shape == node.shape
    if not isinstance(law, Identity | Dirac) or not alone or node.dtype not in dtypes.REAL:
        return None
    found = []
    for number in (0.0, dtypes.rounded(law.gain, matrix.dtype)):
        same = Leaf(initializer=constant(number), shape=matrix.shape, dtype=matrix.dtype)
        found.append(_constant(node, [same if arg is matrix else arg for arg in args]))
    off, on = found
    if off is None or on is None or not isinstance(on.initializer, Constant):
        return None
    if off.initializer == on.initializer:
        return on
    gain = _shortest(on.initializer.value, node.dtype)
    return (
        matrix.derived(initializer=replace(law, gain=gain), dtype=node.dtype)
        if off.initializer == constant(0.0)
        else None
    )


def _constant(node: Node, args: list[Any]) -> Leaf | None:
    """An operation on constants alone, if its result is one number everywhere."""
    short = node.op in _EXACT and node.numel > _ENOUGH
    if not short and node.numel > _MOST_COMPUTED:
        return None
    # torch computes the elements left over after whole vectors in another way, of some operations to another last bit
    operands = [_of_constant(arg, short) if isinstance(arg, Leaf) else arg for arg in args]
    with fixed_state():
        result = compute(node.op, operands, node.attributes, node.dtype)
    if not result.numel():
        return constant_leaf(0, node)
    bits = dtypes.bits(result.contiguous()).reshape(-1, 1 + result.is_complex())
    return constant_leaf(result.reshape(-1)[0].item(), node) if bool((bits == bits[0]).all()) else None


def _of_constant(leaf: Leaf, short: bool) -> Tensor:
    """A constant as a tensor, or a part of it; numbers without dimensions give way to another's dtype."""
    assert isinstance(leaf.initializer, Constant)
    shape = leaf.shape
    if short:
        shape = (1 if math.prod(shape) == 1 else _ENOUGH,) * min(len(shape), 1)
    return torch.full(shape, leaf.initializer.value, dtype=leaf.dtype, device="cpu")


def _shortest(value: float, dtype: torch.dtype) -> float:
    """The number of the fewest digits that a dtype rounds to a value that it has."""
    texts = (f"{value:.{digits}g}" for digits in range(1, 18))
    return next(number for number in map(float, texts) if dtypes.rounded(number, dtype) == value)


#: elements: several whole vectors, and some that are left over
_ENOUGH: Final = 1031
_MOST_COMPUTED: Final = 2**16
#: operations of which some elements tell what all are
_EXACT: Final = frozenset((
    "abs", "add", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "cast", "ceil", "clamp", "clamp_max",
    "clamp_min", "div", "eq", "floor", "floor_divide", "fmod", "ge", "gt", "le", "logical_and", "logical_not",
    "logical_or", "logical_xor", "lt", "masked_fill", "maximum", "minimum", "mul", "ne", "neg", "relu", "remainder",
    "rsub", "sgn", "sign", "sqrt", "sub", "trunc", "where",
))  # fmt: skip


RULES: Final[dict[str, RuleOf]] = {
    **dict.fromkeys(("mul", "div", "add", "sub", "rsub", "neg"), _affine),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamped),
    "cast": _cast,
    "full": _full,
    "eye": _eye,
    "reshape": _reshaped,
    "expand": _expanded,
    "erfinv": _erfinv,
    "_weight_norm_interface": _weight_norm,
}
