"""Tensors that change along one dimension: some old rows stay, the others are new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from zeta.base import dtypes
from zeta.base.text import shape_text
from zeta.errors import PlanError, SpecError
from zeta.growing import Average, Mean, Rows
from zeta.initializers import Initializer, Zeros
from zeta.resolve.adapting.arrays import Array, Averaged, Divided, Joined, LikeRows, Taken, runs
from zeta.resolve.entries import Section

Span = tuple[int, int]


class Grown(Struct, frozen=True, kw_only=True, eq=False):
    """What a tensor with new rows gets.

    ``values`` are, one after the other along ``dim``, those of the places ``given``. The places in ``drawn`` are for
    ``law``, or, if that is ``None``, for what the model's own initialization says.
    """

    dim: int
    values: Array
    given: tuple[Span, ...]
    drawn: Section | None
    law: Initializer | None


def changed_dim(old: Sequence[int], new: Sequence[int]) -> int | None:
    """The only dimension along which two shapes differ; ``None`` if there is none, or several."""
    if len(old) != len(new):
        return None
    differ = [dim for dim, (one, other) in enumerate(zip(old, new, strict=True)) if one != other]
    return differ[0] if len(differ) == 1 else None


def reorders(rows: Rows, extent: int) -> bool:
    """Whether some of ``extent`` rows, which are as many as before, do not stay. So too for rows that do not fit."""
    try:
        kept = rows.kept(extent)
    except SpecError:
        return True
    return len(kept) != extent or any(row != place for place, row in enumerate(kept))


class Widths:
    """The changes of sizes by ``Split``, of outputs and of inputs, with the name of a tensor for each."""

    def __init__(self) -> None:
        self._outputs: dict[Span, tuple[str, int]] = {}
        self._inputs: dict[Span, str] = {}

    def note(self, name: str, old: int, new: int, *, are_inputs: bool, maps: int) -> None:
        """Take in a tensor with several dimensions."""
        if are_inputs:
            self._inputs.setdefault((old, new), name)
        else:
            self._outputs.setdefault((old, new), (name, maps))

    def problems(self) -> Iterator[str]:
        """Outputs that no layer takes, while another takes a whole part of them: of several maps, which are mixed."""
        for (old, new), (name, maps) in self._outputs.items():
            if (old, new) in self._inputs:
                continue
            for (part, wide), taker in self._inputs.items():
                count = old // part
                if count > 1 and (old, new) == (count * part, count * wide) and maps % count:
                    yield (
                        f"{name}: has {old} units and {taker} takes {part}, as of {count} maps in one weight, such as "
                        f"gate and up, whose units Split would mix; Rows(Split(maps={count})) splits each of them"
                    )


class Changes:
    """Sizes that change by the ``Rows`` of some tensors, and rows that do not stay: what it means for other tensors."""

    def __init__(self) -> None:
        self._sizes: dict[Span, list[Rows]] = {}
        self._moved: dict[int, str] = {}

    def note(self, name: str, rows: Rows, old: Sequence[int], new: Sequence[int]) -> None:
        """Take in a tensor that ``rows`` are for, with its shape in the checkpoint and in the model."""
        if (dim := changed_dim(old, new)) is not None:
            self._sizes.setdefault((old[dim], new[dim]), []).append(rows)
        elif old == new and old and reorders(rows, old[0]):
            self._moved[old[0]] = name

    def rows_for(self, old: Sequence[int], new: Sequence[int]) -> Rows | None:
        """The rows that a tensor follows which ``grow=`` does not name; ``PlanError`` if that is not certain."""
        if old == new and (moved := next((self._moved[size] for size in new if size in self._moved), None)):
            raise PlanError(
                f"has as many elements along a dimension as {moved}, whose rows change their order; grow= has to name "
                "it, with Rows() if its order stays"
            )
        if (dim := changed_dim(old, new)) is None or not (found := self._sizes.get((old[dim], new[dim]))):
            return None
        if any(other != found[0] for other in found):
            raise PlanError(
                f"changes from {old[dim]} to {new[dim]}, as several do whose Rows differ; grow= has to name it"
            )
        return found[0]


def split_units(values: Array, shape: tuple[int, ...], *, dim: int, are_inputs: bool, maps: int) -> Grown:
    """A tensor with more units along ``dim``: copies of the old ones, or, of inputs, shares of them.

    The units are those of ``maps`` maps, one after the other.
    """
    old, new = values.shape[dim], shape[dim]
    if new < old:
        raise PlanError(f"the checkpoint has {old} units and the model {new}; Split only makes layers wider")
    if old % maps or new % maps:
        raise PlanError(f"the checkpoint has {old} units and the model {new}, which are not those of {maps} maps")
    each, wide = old // maps, new // maps
    units = [first * each + unit % each for first in range(maps) for unit in range(wide)]
    copied = Taken.of(values, dim, units)
    if are_inputs:
        by = tuple(-(-(wide - unit % each) // each) for unit in units)  # how many places have this unit
        copied = Divided(shape=shape, dtype=values.dtype, base=copied, dim=dim, by=by)
    return Grown(dim=dim, values=copied, given=((0, new),), drawn=None, law=None)


def grown_rows(
    rows: Rows, values: Array, shape: tuple[int, ...], *, dim: int, seed: int, name: str, padding: int | None = None
) -> Grown:
    """What a tensor of ``shape`` gets where the checkpoint has ``values``, which differ along ``dim``.

    ``padding`` is a row that is zero where it is new.
    Raises ``PlanError`` if the rows do not fit.
    """
    extent, old = shape[dim], values.shape[dim]
    kept = rows.kept(old)
    if len(kept) > extent:
        raise PlanError(
            f"the checkpoint has {shape_text(values.shape)} and the model {shape_text(shape)}, which is smaller: "
            f"Rows(keep=...) says which {extent} of the {len(kept)} rows stay"
        )
    places = [place for place, row in enumerate(kept) if row >= 0]
    stays = Taken.of(values, dim, kept if len(places) == len(kept) else [row for row in kept if row >= 0])
    missing = [place for place, row in enumerate(kept) if row < 0]
    new = [*missing, *range(len(kept), extent)]
    how, given, parts = rows.how, places, [stays]
    if new and isinstance(how, Average | Mean) and not (values.dtype.is_floating_point or values.dtype.is_complex):
        raise PlanError(
            f"has dtype {dtypes.name_of(values.dtype)}, and {type(how).__name__} is of floating-point numbers; "
            "grow= has to name it, with Rows(Zeros()) or what its new elements are"
        )
    if isinstance(how, Average):
        found, new = _averaged(how, values, new, old, dim)
        given, parts, how = [*given, *(place for place, _ in how.of)], [*parts, found], how.rest
    zero: list[int] = []
    if isinstance(how, Mean) and padding in new:
        zero, new = [place for place in new if place == padding], [place for place in new if place != padding]
    if isinstance(how, Mean) and new:
        if not old:
            raise PlanError("the checkpoint has no rows, of which Mean would be the mean")
        size = (*shape[:dim], len(new), *shape[dim + 1 :])
        like = LikeRows(shape=size, dtype=values.dtype, base=values, dim=dim, noise=how.noise, seed=seed, name=name)
        given, parts, new = [*given, *new], [*parts, like], []
    if zero:
        new, how = zero, Zeros()
    return Grown(
        dim=dim,
        values=parts[0] if len(parts) == 1 else Joined.of(parts, dim),
        given=tuple(runs(given)),
        drawn=Section(dim=dim, spans=tuple(runs(new))) if new else None,
        law=how if isinstance(how, Initializer) else None,
    )


def _averaged(how: Average, values: Array, new: Sequence[int], old: int, dim: int) -> tuple[Averaged, list[int]]:
    """The rows that are means, and the new ones that are left."""
    named = {place for place, _ in how.of}
    if wrong := sorted(named - {*new}):
        raise PlanError(f"Average names row {wrong[0]}, which is not one of the new rows")
    if beyond := [row for _, rows in how.of for row in rows if row >= old]:
        raise PlanError(f"Average names the old row {beyond[0]}, but the checkpoint has {old} rows")
    shape = (*values.shape[:dim], len(named), *values.shape[dim + 1 :])
    of = tuple(rows for _, rows in how.of)
    return Averaged(shape=shape, dtype=values.dtype, base=values, dim=dim, of=of), [p for p in new if p not in named]
