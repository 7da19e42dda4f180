"""The values of the abstract run: views of one parameter, products with it, and what is noted of them."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

#: methods and attributes that keep the dimensions
AS_IT_IS: Final = frozenset(
    (
        *("bfloat16", "clone", "contiguous", "cpu", "cuda", "data", "detach", "double", "float", "full_tensor"),
        *("half", "index_select", "requires_grad_", "to", "to_local", "type", "type_as"),
    )
)


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of the parameter: which of its dimensions the last ones are; ``None`` is one that was put in.

    ``open`` says that more may stand before them, after an index that may be a tensor. ``shifted`` is one plus it.
    ``several`` are what ``chunk`` or ``unbind`` gives: a tuple of such views.
    """

    dims: tuple[int | None, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    open: bool = False
    shifted: bool = False
    several: bool = False

    def at(self, dim: int) -> int | None:
        """Dimension ``dim``, counted from the end or, where nothing stands before it, from the front."""
        if not -len(self.dims) <= dim < len(self.dims) or (dim >= 0 and self.open):
            return None
        return dim % len(self.dims)

    def permuted(self, order: Sequence[int]) -> View | None:
        """The view with its dimensions in another order."""
        places = [self.at(dim) for dim in order]
        if sorted(place for place in places if place is not None) != list(range(len(self.dims))):
            return None
        return replace(self, dims=tuple(self.dims[place] for place in places if place is not None))


@dataclass(frozen=True, kw_only=True)
class Product:
    """What came out of a product with the parameter."""

    use: Use


Value = frozenset[View | Product]
NOTHING: Final[Value] = frozenset()


def union(values: Iterable[Value]) -> Value:
    """All of them together."""
    return functools.reduce(operator.or_, values, NOTHING)


@dataclass(frozen=True, kw_only=True)
class Use:
    """One product with the parameter: the dimensions that it sums over, and those that it leaves."""

    fan_in: tuple[int, ...]
    fan_out: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    lookup: tuple[int, ...] = ()


class Uses:
    """All that ``forward`` does with one parameter. ``lost`` says that some of it could not be followed."""

    def __init__(self) -> None:
        self.products: list[Use] = []
        self.lost = False
        self.scales = self.adds = False
        self.scales_in_norm = self.adds_in_norm = False


def constant(nodes: Sequence[ast.expr]) -> Any:
    """The number or text that is written there, or ``None``."""
    try:
        return ast.literal_eval(nodes[0])
    except (ValueError, IndexError, TypeError, SyntaxError):
        return None


def index(view: View, parts: Sequence[ast.expr]) -> View | None:
    """``view[parts]``; ``None`` where it cannot be told which dimensions are left."""
    if view.several:
        return replace(view, several=False)
    dims: list[int | None] = []
    opened, place = view.open, 0
    taken = sum(not isinstance(part, ast.Constant) or part.value not in (None, ...) for part in parts)
    if view.open and parts:
        return None
    for part in parts:
        if isinstance(part, ast.Constant) and part.value is None:
            dims.append(None)
        elif isinstance(part, ast.Constant) and part.value is ...:
            skipped = len(view.dims) - taken
            dims += view.dims[place : place + skipped]
            place += skipped
        elif isinstance(part, ast.Slice):
            dims += view.dims[place : place + 1]
            place += 1
        elif dims:
            return None  # an index behind a slice may move dimensions
        else:
            opened |= not isinstance(part, ast.Constant)
            place += 1
    return replace(view, dims=(*dims, *view.dims[place:]), open=opened)


def change(view: View, name: str, numbers: list[Any]) -> View | None:
    """What a method of a tensor makes of a view, where only its dimensions matter."""
    if name in AS_IT_IS:
        return view
    if len(numbers) == 1 and isinstance(numbers[0], tuple | list):
        numbers = list(numbers[0])
    if name in ("transpose", "swapaxes", "swapdims") and len(numbers) == 2:
        one, two = (view.at(number) if isinstance(number, int) else None for number in numbers)
        if one is None or two is None:
            return None
        order = list(range(-len(view.dims), 0))
        order[one], order[two] = order[two], order[one]
        return view.permuted(order)
    if name == "t" and len(view.dims) == 2:
        return view.permuted([-1, -2])
    if name == "permute" and all(isinstance(number, int) for number in numbers):
        return view.permuted(numbers)
    if name == "unsqueeze" and numbers == [0]:
        return replace(view, dims=(None, *view.dims))
    if name == "unbind" and numbers in ([], [0]) and not view.open:
        return replace(view, dims=view.dims[1:], several=True)
    return None
