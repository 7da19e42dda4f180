"""What a tensor gets from a checkpoint, as nested descriptions of arrays. ``compute/assembled.py`` reads boxes of them.

A mixture's packed weight, for one, is a ``Stacked`` of ``Joined`` pairs of ``Stored`` tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import torch
from msgspec import Struct

from zeta.base.sources import Source

Shape = tuple[int, ...]
T = TypeVar("T")
#: places that a text looks at, and runs of them that it shows
_LOOKED_AT: Final = 1000
_SHOWN: Final = 3


class Array(Struct, frozen=True, kw_only=True, eq=False):
    """An array whose elements are read or computed when they are needed."""

    shape: Shape
    dtype: torch.dtype

    @property
    def text(self) -> str:
        """What it is, for people."""
        raise NotImplementedError


class Stored(Array, frozen=True, kw_only=True, eq=False):
    """A tensor of a checkpoint."""

    source: Source
    name: str

    @classmethod
    def of(cls, source: Source, name: str) -> Stored:
        """The tensor of this name."""
        found = source.tensors[name]
        return cls(shape=found.shape, dtype=found.dtype, source=source, name=name)

    @property
    def text(self) -> str:
        """Its name."""
        return self.name


class Taken(Array, frozen=True, kw_only=True, eq=False):
    """The elements of another array at these places along one dimension."""

    base: Array
    dim: int
    places: Sequence[int]

    @classmethod
    def of(cls, base: Array, dim: int, places: Sequence[int]) -> Array:
        """The array, or ``base`` itself if all of it is taken as it is."""
        if len(places) == base.shape[dim] and all(place == number for number, place in enumerate(places)):
            return base
        return cls(shape=resized(base.shape, dim, len(places)), dtype=base.dtype, base=base, dim=dim, places=places)

    @property
    def text(self) -> str:
        """The array, and which of its places."""
        found = [*runs(self.places[:_LOOKED_AT])]
        shown = [f"{begin}:{end}" for begin, end in found[:_SHOWN]]
        more = ["..."] if len(found) > _SHOWN or len(self.places) > _LOOKED_AT else []
        return f"{self.base.text}[{':, ' * self.dim}{', '.join([*shown, *more])}]"


class Joined(Array, frozen=True, kw_only=True, eq=False):
    """Arrays one after the other along a dimension."""

    parts: tuple[Array, ...]
    dim: int

    @classmethod
    def of(cls, parts: Sequence[Array], dim: int) -> Joined:
        """The parts along ``dim``; their other extents are equal."""
        shape = resized(parts[0].shape, dim, sum(part.shape[dim] for part in parts))
        return cls(shape=shape, dtype=parts[0].dtype, parts=tuple(parts), dim=dim)

    @property
    def text(self) -> str:
        """The parts."""
        return " + ".join(part.text for part in self.parts)


class Stacked(Array, frozen=True, kw_only=True, eq=False):
    """Arrays of one shape along a new first dimension."""

    parts: tuple[Array, ...]

    @classmethod
    def of(cls, parts: Sequence[Array]) -> Stacked:
        """The parts, which have one shape."""
        return cls(shape=(len(parts), *parts[0].shape), dtype=parts[0].dtype, parts=tuple(parts))

    @property
    def text(self) -> str:
        """Their number, and the first."""
        return f"{len(self.parts)} of {self.parts[0].text}"


class Turned(Array, frozen=True, kw_only=True, eq=False):
    """Another array with two dimensions exchanged."""

    base: Array
    dims: tuple[int, int]

    @classmethod
    def of(cls, base: Array, one: int, other: int) -> Turned:
        """The array with the dimensions exchanged."""
        return cls(shape=tuple(exchanged(base.shape, one, other)), dtype=base.dtype, base=base, dims=(one, other))

    @property
    def text(self) -> str:
        """The array."""
        return f"{self.base.text} transposed"


class Averaged(Array, frozen=True, kw_only=True, eq=False):
    """Each place along ``dim`` is the mean of some places of another array, computed in fp64."""

    base: Array
    dim: int
    of: tuple[tuple[int, ...], ...]

    @property
    def text(self) -> str:
        """Of what."""
        return f"means of {self.base.text}"


class LikeRows(Array, frozen=True, kw_only=True, eq=False):
    """Places along ``dim`` with the mean and, times ``noise`` squared, the covariance of those of another array.

    The numbers are those of the stream for a parameter ``name``. See :class:`zeta.Mean`.
    """

    base: Array
    dim: int
    noise: float
    seed: int
    name: str

    @property
    def text(self) -> str:
        """Of what."""
        return f"like {self.base.text}"


class Divided(Array, frozen=True, kw_only=True, eq=False):
    """Another array, each place along ``dim`` divided by a number; the quotient is computed in fp64."""

    base: Array
    dim: int
    by: tuple[int, ...]

    @property
    def text(self) -> str:
        """Of what."""
        return f"{self.base.text} divided"


class Noisy(Array, frozen=True, kw_only=True, eq=False):
    """Another array plus normal numbers of the stream, of ``noise`` times the std of all its elements."""

    base: Array
    noise: float
    seed: int
    name: str

    @property
    def text(self) -> str:
        """Of what."""
        return f"{self.base.text} with noise"


def stored_in(array: Array) -> Iterator[Stored]:
    """The tensors of a checkpoint that an array is made of, some of them several times."""
    if isinstance(array, Stored):
        yield array
    for part in getattr(array, "parts", ()):
        yield from stored_in(part)
    if (base := getattr(array, "base", None)) is not None:
        yield from stored_in(base)


def runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Places as (begin, end), in their order; neighbours are joined.

    >>> list(runs([0, 1, 2, 7, 5]))
    [(0, 3), (7, 8), (5, 6)]
    """
    if isinstance(places, range) and places.step == 1:
        if places:
            yield places.start, places.stop
        return
    begin = end = -1
    for place in places:
        if place != end:
            if end >= 0:
                yield begin, end
            begin = place
        end = place + 1
    if end >= 0:
        yield begin, end


def resized(shape: Shape, dim: int, extent: int) -> Shape:
    """The shape with another extent along a dimension."""
    return (*shape[:dim], extent, *shape[dim + 1 :])


def exchanged(items: Sequence[T], one: int, other: int) -> list[T]:
    """The items with two exchanged."""
    found = list(items)
    found[one], found[other] = found[other], found[one]
    return found
