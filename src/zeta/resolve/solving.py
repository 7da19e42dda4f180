"""What an initializer becomes for one tensor: its numbers are solved from the shape and the axes."""

from __future__ import annotations

import operator
from typing import Any, Final

import torch
from msgspec import Struct

from zeta.errors import FanError, SpecError
from zeta.fans import Axes, axes_of, known_axes
from zeta.initializers import Blocks, Initializer, Keep, Program, Site
from zeta.initializers.reach import check_law
from zeta.resolve.slots import Slot

#: these say nothing about a dtype that check_law could look at
_WITHOUT_LAW: Final = (Keep, Program)


class Law(Struct, frozen=True, kw_only=True):
    """What an initializer becomes at a site, and the axes of that; ``keys`` are what that was found by."""

    solved: Initializer
    axes: Axes | None
    keys: tuple[Initializer | Axes | None, ...]


def check_blocks(asked: Blocks, slot: Slot) -> None:
    """A bias packs as many blocks as the weight of its layer."""
    name = slot.local_name.replace("bias", "weight")
    weight = slot.module._parameters.get(name)
    axes = None if weight is None else known_axes(slot.module, name, tuple(weight.shape))
    for along, n in () if axes is None else axes.blocks:
        if along == 0 and n != len(asked.parts):
            raise SpecError(f"{asked} has {len(asked.parts)} blocks, but {name} of its layer packs {n}")


def solution(asked: Initializer, axes: Axes | None, group: list[Slot]) -> Law:
    """What one tensor gets, with the ``axes`` of its rule: solved once for all that have the same site, of all models.

    An initializer is known by its value and the signs of its zeros, and axes by their identity.
    """
    dtype = group[0].tensor.dtype
    given: list[Axes | None]
    try:
        given = [axes if axes is not None else known_axes(s.module, s.local_name, s.shape) for s in group]
    except FanError:  # a registered function refuses
        given = [None]
    key = (asked.exact, dtype, axes is None, *map(_SHAPE, group), *map(id, given))
    kept = not isinstance(asked, Program)
    law = _SOLVED.get(key) if kept else None
    if law is None:
        shape = group[0].shape
        if axes is not None:
            axes = axes.resolved(shape)
        else:
            axes = axes_of_all(group) if asked.needs_axes else _of_tied_if_any(given, group)
        solved = asked.solve(Site(shape=shape, axes=axes))
        check_dtype(solved, dtype)
        law = Law(solved=solved, axes=axes, keys=(asked, *given))
        if kept:
            if len(_SOLVED) >= _MOST_SOLVED:
                _SOLVED.clear()
            _SOLVED[key] = law
    return law


_SHAPE: Final = operator.attrgetter("shape")
#: by an initializer's value, a site, and the identity of axes, which the law keeps alive
_SOLVED: Final[dict[tuple[Any, ...], Law]] = {}
_MOST_SOLVED: Final = 4096


def axes_if_any(group: list[Slot]) -> Axes | None:
    """The axes of one tensor, or ``None`` where nobody knows them."""
    try:
        return _of_tied(_each_known(group), group)
    except FanError:
        return None


def _of_tied_if_any(each: list[Axes | None], group: list[Slot]) -> Axes | None:
    try:
        return _of_tied(each, group)
    except FanError:
        return None


def _each_known(group: list[Slot]) -> list[Axes | None]:
    return [known_axes(slot.module, slot.local_name, slot.shape) for slot in group]


def axes_of_all(group: list[Slot]) -> Axes:
    """The axes of one tensor by its names; ``FanError`` where nobody knows them."""
    axes = _of_tied([axes_of(slot.module, slot.local_name, slot.shape) for slot in group], group)
    assert axes is not None
    return axes


def _of_tied(each: list[Axes | None], group: list[Slot]) -> Axes | None:
    """The axes of one tensor from those of each name; an embedding that is also an output head has the head's."""
    known = [axes for axes in each if axes is not None]
    if len(known) < len(each):
        return None
    resolved = [axes.resolved(slot.shape) for axes, slot in zip(known, group, strict=True)]
    return next((axes for axes in resolved if not axes.lookup), resolved[0])


def check_dtype(initializer: Initializer, dtype: torch.dtype) -> None:
    """Raise ``SpecError`` if ``dtype`` cannot hold the values of a solved initializer."""
    if not isinstance(initializer, _WITHOUT_LAW):  # a program says its own dtypes
        check_law(initializer, dtype)
