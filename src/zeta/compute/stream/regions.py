"""A region is a box of elements of a global tensor; a large one is cut into tiles."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from msgspec import Struct
from torch import Tensor


class Region(Struct, frozen=True, kw_only=True, dict=True):
    """A box inside a global tensor: ``sizes`` elements from ``offsets`` on, in each dimension of ``shape``.

    >>> (
    ...     Region(shape=(4, 6), offsets=(1, 0), sizes=(2, 6)).is_run,
    ...     Region(shape=(4, 6), offsets=(0, 2), sizes=(4, 3)).is_run,
    ... )
    (True, False)
    """

    shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.offsets) == len(self.sizes), self
        assert all(
            offset >= 0 and size >= 0 and offset + size <= extent
            for offset, size, extent in zip(self.offsets, self.sizes, self.shape, strict=True)
        ), self

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Region:
        """All elements of a tensor of ``shape``."""
        return _whole(tuple(shape))

    @functools.cached_property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.sizes)

    @functools.cached_property
    def strides(self) -> tuple[int, ...]:
        """The strides of the global tensor in row-major order."""
        return tuple(math.prod(self.shape[dim + 1 :]) for dim in range(len(self.shape)))

    @functools.cached_property
    def slices(self) -> tuple[slice, ...]:
        """The index that cuts this region out of the global tensor."""
        return tuple(slice(offset, offset + size) for offset, size in zip(self.offsets, self.sizes, strict=True))

    @functools.cached_property
    def inside(self) -> tuple[slice, ...]:
        """The index of all its elements inside of this region."""
        return tuple(slice(0, size) for size in self.sizes)

    @functools.cached_property
    def start(self) -> int:
        """The row-major index of the first element."""
        return sum(offset * stride for offset, stride in zip(self.offsets, self.strides, strict=True))

    @functools.cached_property
    def is_run(self) -> bool:
        """Whether the elements are consecutive in row-major order of the global tensor."""
        partial = False
        for size, extent in zip(reversed(self.sizes), reversed(self.shape), strict=True):
            if partial and size != 1:
                return self.numel == 0
            partial = partial or size != extent
        return True

    @functools.cached_property
    def one_tile(self) -> tuple[tuple[tuple[slice, ...], Region], ...]:
        """The region as its only tile; none if it is empty."""
        return ((self.inside, self),) if self.numel else ()

    def indices(self, device: torch.device | str = "cpu") -> Tensor:
        """The row-major global index of each element: int64, shape ``sizes``."""
        total = torch.zeros(self.sizes, dtype=torch.int64, device=device)
        for dim, (offset, size, stride) in enumerate(zip(self.offsets, self.sizes, self.strides, strict=True)):
            along = torch.arange(offset, offset + size, dtype=torch.int64, device=device) * stride
            total += along.view(-1, *(1,) * (len(self.sizes) - dim - 1))
        return total

    def within(self, dim: int, first: int, last: int) -> Region:
        """The part from ``first`` up to ``last`` along one dimension, both counted in the global tensor."""
        offsets, sizes = list(self.offsets), list(self.sizes)
        offsets[dim], sizes[dim] = first, last - first
        return Region(shape=self.shape, offsets=tuple(offsets), sizes=tuple(sizes))

    def along(self, dim: int, spans: Iterable[tuple[int, int]]) -> Iterator[Region]:
        """The parts inside of spans (begin, end) along one dimension, counted in the global tensor."""
        begin, end = self.offsets[dim], self.offsets[dim] + self.sizes[dim]
        for first, last in spans:
            if max(first, begin) < min(last, end):
                yield self.within(dim, max(first, begin), min(last, end))

    def meeting(self, other: Region) -> Region | None:
        """The elements that are in both, regions of one tensor; ``None`` if there are none."""
        pairs = list(zip(self.slices, other.slices, strict=True))
        begins = [max(one.start, two.start) for one, two in pairs]
        ends = [min(one.stop, two.stop) for one, two in pairs]
        if any(begin >= end for begin, end in zip(begins, ends, strict=True)):
            return None
        sizes = tuple(end - begin for begin, end in zip(begins, ends, strict=True))
        return Region(shape=self.shape, offsets=tuple(begins), sizes=sizes)

    def place_of(self, part: Region, index: Sequence[slice]) -> tuple[slice, ...]:
        """The index in this region of what has an index in a part of it."""
        return tuple(
            slice(along.start + offset - first, along.stop + offset - first)
            for along, offset, first in zip(index, part.offsets, self.offsets, strict=True)
        )

    def whole_of(self, index: Sequence[slice]) -> tuple[slice, ...]:
        """The index in the global tensor of what has an index inside of this region."""
        return tuple(
            slice(along.start + offset, along.stop + offset) for along, offset in zip(index, self.offsets, strict=True)
        )

    def tiles(self, most: int) -> Iterable[tuple[tuple[slice, ...], Region]]:
        """Cut into boxes of at most ``most`` elements, in row-major order: (index inside this region, box)."""
        return self.one_tile if self.numel <= most else self._tiles(most)

    def _tiles(self, most: int) -> Iterator[tuple[tuple[slice, ...], Region]]:
        inner, cut = 1, len(self.sizes)
        while cut > 0 and inner * self.sizes[cut - 1] <= most:
            cut -= 1
            inner *= self.sizes[cut]
        step = max(1, most // inner)
        ranges = [range(size) for size in self.sizes[: cut - 1]] + [range(0, self.sizes[cut - 1], step)]
        for corner in itertools.product(*ranges):
            begin = [*corner, *(0,) * (len(self.sizes) - cut)]
            size = [1] * (cut - 1) + [min(step, self.sizes[cut - 1] - corner[-1]), *self.sizes[cut:]]
            yield (
                tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True)),
                Region(
                    shape=self.shape,
                    offsets=tuple(o + b for o, b in zip(self.offsets, begin, strict=True)),
                    sizes=tuple(size),
                ),
            )


@functools.lru_cache(maxsize=4096)
def _whole(shape: tuple[int, ...]) -> Region:
    return Region(shape=shape, offsets=(0,) * len(shape), sizes=shape)
