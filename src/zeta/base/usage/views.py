"""The values of the abstract interpretation: views of one parameter, products with it, and loop counters."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

#: methods and attributes of a tensor that return one with the same dimensions
AS_IT_IS: Final = frozenset(
    (
        *("bfloat16", "clone", "contiguous", "cpu", "cuda", "data", "detach", "double", "float", "full_tensor"),
        *("half", "requires_grad_", "to", "to_local", "type_as"),
    )
)


@dataclass(frozen=True, kw_only=True)
class View:
    """A view of the parameter: its dimensions, in order, as numbers of the parameter's; ``None`` for a new dimension.

    ``shifted``: a number was added, as in ``1 + weight``. ``several``: a tuple of such views, from ``chunk`` or
    ``unbind``.
    """

    dims: tuple[int | None, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    shifted: bool = False
    several: bool = False

    def at(self, dim: Any) -> int | None:
        """The position of dimension ``dim``, which may be negative; ``None`` if there is no such dimension."""
        if type(dim) is not int or not -len(self.dims) <= dim < len(self.dims):
            return None
        return dim % len(self.dims)

    def permuted(self, order: Sequence[Any]) -> View | None:
        """The view with its dimensions in another order."""
        places = [self.at(dim) for dim in order]
        if sorted(place for place in places if place is not None) != list(range(len(self.dims))):
            return None
        return replace(self, dims=tuple(self.dims[place] for place in places if place is not None))

    def packed(self, dim: Any, n: Any) -> View | None:
        """One of the ``n`` equal parts along ``dim``."""
        place = self.at(dim)
        real = None if place is None else self.dims[place]
        if type(n) is not int or n < 1 or real is None or real in dict(self.blocks) or self.several:
            return None
        return replace(self, blocks=(*self.blocks, (real, n)), several=True)


@dataclass(frozen=True, kw_only=True)
class ParameterUse:
    """One product with the parameter: the dimensions that it sums over, and those that it keeps."""

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    lookup: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Product:
    """The result of a product whose last dimension is the parameter's kept dimension."""

    use: ParameterUse


@dataclass(frozen=True, kw_only=True)
class Counter:
    """The integer variable of a loop."""


Value = frozenset[View | Product | Counter]
NOTHING: Final[Value] = frozenset()


class Uses:
    """All uses of one parameter in ``forward``. ``lost``: some could not be followed."""

    def __init__(self) -> None:
        self.products: list[ParameterUse] = []
        self.lost = False
        self.scales = self.adds = False
        self.scales_in_norm = self.adds_in_norm = False
        #: 1 is added to it before it is used, as ``1 + weight``
        self.from_zero = False


def views(value: Value) -> list[View]:
    """The values that are views."""
    return [each for each in value if isinstance(each, View)]


def union(values: Iterable[Value]) -> Value:
    """The union of several sets of values."""
    return functools.reduce(operator.or_, values, NOTHING)


def constant(node: ast.expr | None) -> Any:
    """The value of a literal, or ``None``."""
    try:
        return None if node is None else ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def index(view: View, parts: Sequence[ast.expr], whole: Sequence[bool]) -> View | None:
    """``view[parts]``; ``None`` if the result is not certain. ``whole`` says which parts are integers."""
    if view.several:
        return replace(view, several=False) if list(whole) == [True] else None
    taken = sum(not (isinstance(part, ast.Constant) and part.value in (None, ...)) for part in parts)
    if taken > len(view.dims):
        return None
    dims: list[int | None] = []
    place = 0
    for part, number in zip(parts, whole, strict=True):
        if isinstance(part, ast.Constant) and part.value is None:
            dims.append(None)
        elif isinstance(part, ast.Constant) and part.value is ...:
            skipped = len(view.dims) - taken
            dims += view.dims[place : place + skipped]
            place += skipped
        elif isinstance(part, ast.Slice):
            dims.append(view.dims[place])
            place += 1
        elif number:
            place += 1
        else:
            return None
    return replace(view, dims=(*dims, *view.dims[place:]))


def change(view: View, name: str, numbers: list[Any]) -> View | None:
    """The view that a tensor's method ``name`` returns; ``None`` if it is not certain."""
    if view.several:
        return None
    if name in AS_IT_IS:
        return view
    if len(numbers) == 1 and isinstance(numbers[0], tuple | list):
        numbers = list(numbers[0])
    if name in ("transpose", "swapaxes", "swapdims") and len(numbers) == 2:
        one, two = map(view.at, numbers)
        if one is None or two is None:
            return None
        order = list(range(len(view.dims)))
        order[one], order[two] = two, one
        return view.permuted(order)
    if name == "t" and len(view.dims) == 2 and not numbers:
        return view.permuted([1, 0])
    if name == "permute":
        return view.permuted(numbers)
    if name == "unsqueeze" and numbers == [0]:
        return replace(view, dims=(None, *view.dims))
    if name == "unbind" and numbers in ([], [0]):
        return replace(view, dims=view.dims[1:], several=True)
    return None
