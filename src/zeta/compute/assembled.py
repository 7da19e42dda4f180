"""Read boxes of the arrays that describe what a tensor gets from a checkpoint (``resolve/adapting/arrays.py``)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.state import one_thread
from zeta.compute.sampling import sample
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.errors import CheckpointError
from zeta.initializers import Normal
from zeta.resolve.adapting.arrays import (
    Array,
    Averaged,
    Divided,
    Joined,
    LikeRows,
    Noisy,
    Stacked,
    Stored,
    Taken,
    Turned,
    exchanged,
    resized,
    runs,
)

#: elements of a checkpoint that are read at a time
TILE: Final = 2**21
#: elements of new rows that are computed at a time
_NEW: Final = 2**23
#: the numbers of draws for what is grown, which no initializer has
ROWS_DRAW: Final = 2**32
NOISE_DRAW: Final = 2**32 + 1

#: one slice with step 1 for each dimension
Index = tuple[slice, ...]


class Reader:
    """Reads boxes. What is computed from the whole of an array, such as a mean, is computed once for each reader."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[LikeRows, Tensor]] = {}  # with the array, so that its id stays its own
        self._stds: dict[int, tuple[Noisy, float]] = {}

    def read(self, array: Array, index: Index) -> Tensor:
        """A box of an array, as a contiguous tensor on the CPU."""
        return _read(array, index, self).contiguous()

    def rows(self, array: LikeRows) -> Tensor:
        """All of ``array``."""
        if id(array) not in self._rows:
            self._rows[id(array)] = array, _like_rows(array, self)
        return self._rows[id(array)][1]

    def std(self, array: Noisy) -> float:
        """The std of the elements of what ``array`` adds noise to."""
        if id(array) not in self._stds:
            self._stds[id(array)] = array, _std(array.base, self)
        return self._stds[id(array)][1]


def is_stored(array: Array) -> bool:
    """Whether all of an array is read and put in its place, so that nothing is computed."""
    match array:
        case Taken(base=base) | Turned(base=base):
            return is_stored(base)
        case Joined(parts=parts) | Stacked(parts=parts):
            return all(map(is_stored, parts))
    return isinstance(array, Stored)


@functools.singledispatch
def _read(array: Array, index: Index, reader: Reader) -> Tensor:
    raise TypeError(f"{type(array).__name__} cannot be read")


@_read.register
def _(array: Stored, index: Index, reader: Reader) -> Tensor:
    return array.source.read(array.name, index)


@_read.register
def _(array: Taken, index: Index, reader: Reader) -> Tensor:
    spans = runs(array.places[index[array.dim]])
    parts = [reader.read(array.base, _with(index, array.dim, begin, end)) for begin, end in spans]
    return torch.cat(parts, array.dim) if parts else _empty(array, index)


@_read.register
def _(array: Joined, index: Index, reader: Reader) -> Tensor:
    along, begin = index[array.dim], 0
    parts: list[Tensor] = []
    for part in array.parts:
        end = begin + part.shape[array.dim]
        first, last = max(along.start, begin), min(along.stop, end)
        if first < last:
            parts.append(reader.read(part, _with(index, array.dim, first - begin, last - begin)))
        begin = end
    return torch.cat(parts, array.dim) if parts else _empty(array, index)


@_read.register
def _(array: Stacked, index: Index, reader: Reader) -> Tensor:
    parts = [reader.read(part, index[1:]) for part in array.parts[index[0]]]
    return torch.stack(parts) if parts else _empty(array, index)


@_read.register
def _(array: Turned, index: Index, reader: Reader) -> Tensor:
    return reader.read(array.base, tuple(exchanged(index, *array.dims))).transpose(*array.dims)


@_read.register
def _(array: Averaged, index: Index, reader: Reader) -> Tensor:
    found: list[Tensor] = []
    for places in array.of[index[array.dim]]:
        rows = [reader.read(array.base, _with(index, array.dim, place, place + 1)) for place in places]
        found.append(
            torch.cat([row.to(_wide(array.dtype)) for row in rows], array.dim).mean(array.dim, True).to(array.dtype)
        )
    return torch.cat(found, array.dim) if found else _empty(array, index)


@_read.register
def _(array: LikeRows, index: Index, reader: Reader) -> Tensor:
    return reader.rows(array)[index]


@_read.register
def _(array: Divided, index: Index, reader: Reader) -> Tensor:
    by = torch.tensor(array.by[index[array.dim]], dtype=torch.float64, device="cpu")
    by = by.view(-1, *(1,) * (len(array.shape) - array.dim - 1))
    return (reader.read(array.base, index).to(_wide(array.dtype)) / by).to(array.dtype)


@_read.register
def _(array: Noisy, index: Index, reader: Reader) -> Tensor:
    offsets = tuple(along.start for along in index)
    sizes = tuple(along.stop - along.start for along in index)
    region = Region(shape=array.shape, offsets=offsets, sizes=sizes)
    key = parameter_key(array.seed, array.name)
    noise = sample(Normal(array.noise * reader.std(array)), key=key, region=region, draw=NOISE_DRAW)
    values = reader.read(array.base, index)
    return (values.to(torch.promote_types(array.dtype, torch.float32)) + noise).to(array.dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What sums are computed in."""
    return torch.complex128 if dtype.is_complex else torch.float64


def _with(index: Index, dim: int, begin: int, end: int) -> Index:
    return (*index[:dim], slice(begin, end), *index[dim + 1 :])


def _empty(array: Array, index: Index) -> Tensor:
    return torch.empty([along.stop - along.start for along in index], dtype=array.dtype, device="cpu")


def _like_rows(array: LikeRows, reader: Reader) -> Tensor:
    """Computed as a whole, from all old rows in their order, in fp64 by one thread: the same in every process."""
    old, count = array.base.shape[array.dim], array.shape[array.dim]
    rest = math.prod(array.shape) // max(count, 1)
    values = torch.empty(count, rest, dtype=array.dtype, device="cpu")
    with torch.no_grad(), one_thread():
        wide = _wide(array.dtype)
        mean = torch.zeros(rest, dtype=wide, device="cpu")
        for _, rows in _matrices(array, rest, reader):
            mean += rows.sum(0)
        mean /= old
        key, step = parameter_key(array.seed, array.name), max(1, _NEW // max(rest, 1))
        for first in range(0, count, step):  # the old rows are read again for each, as fp64 of all may be too large
            last = min(first + step, count)
            drawn = torch.zeros(last - first, rest, dtype=wide, device="cpu")
            for begin, rows in _matrices(array, rest, reader) if array.noise else ():
                # of a matrix (new rows, old rows), so that a row does not depend on how many there are
                region = Region(shape=(count, old), offsets=(first, begin), sizes=(last - first, len(rows)))
                z = sample(Normal(), key=key, region=region, draw=ROWS_DRAW)
                drawn += z.to(wide) @ (rows - mean)
            values[first:last] = drawn * (array.noise / math.sqrt(old)) + mean
    if not values.isfinite().all():
        raise CheckpointError(
            f"{array.base.text} has rows of which mean and noise are not finite in {dtypes.name_of(array.dtype)}: "
            "values that are infinite, not a number, or too large; Mean(noise=0.1) takes less noise, and an "
            "initializer needs no old rows"
        )
    shape = (count, *resized(array.shape, array.dim, 1)[: array.dim], *array.shape[array.dim + 1 :])
    return values.view(shape).movedim(0, array.dim).contiguous()


def _matrices(array: LikeRows, rest: int, reader: Reader) -> Iterator[tuple[int, Tensor]]:
    """The old rows as a matrix in fp64, some at a time, with the number of the first."""
    base, dim = array.base, array.dim
    step, whole = max(1, TILE // max(rest, 1)), tuple(slice(0, extent) for extent in base.shape)
    for begin in range(0, base.shape[dim], step):
        end = min(begin + step, base.shape[dim])
        rows = reader.read(base, _with(whole, dim, begin, end)).movedim(dim, 0)
        yield begin, rows.reshape(end - begin, rest).to(_wide(array.dtype))


def _std(array: Array, reader: Reader) -> float:
    total = squares = 0.0
    with one_thread():  # the order of a sum over several depends on their number
        for _, region in Region.whole(array.shape).tiles(TILE):
            values = reader.read(array, region.slices).to(torch.float64)
            total, squares = total + float(values.sum()), squares + float(values.square().sum())
    count = max(math.prod(array.shape), 1)
    return math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
