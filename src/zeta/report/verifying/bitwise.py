"""Compare one tensor with what it is expected to be, bit by bit, tile by tile."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.escaping import visible
from zeta.compute.sampling import tolerance
from zeta.initializers import Blocks
from zeta.resolve.entries import Entry


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor that differs from the plan's values: the number of differing elements, and the first of them.

    Both are ``None`` for a kept tensor of a folder, of which the manifest has a hash of its bytes and not the values.
    """

    name: str
    count: int | None
    first: tuple[int, ...] | None
    found: str
    expected: str

    def __str__(self) -> str:
        where = ""
        if self.count is not None and self.first is not None:
            where = f"{self.count:,} element(s) differ, first at [{', '.join(map(str, self.first))}]: "
        return visible(f"{self.name}: {where}found {self.found}, expected {self.expected}")


class Comparison:
    """Compares an entry's values with the expected ones, tile by tile, bit by bit.

    With a ``tolerance``, values may differ by it plus the rounding to their dtype; ``close`` then says whether any did.
    """

    def __init__(self, name: str, tolerance: float = 0.0) -> None:
        self.name = name
        self.tolerance = tolerance
        self._blocks: tuple[Blocks, int] | None = None
        self.close = False
        self.count = 0
        self.first: tuple[tuple[int, ...], str, str] | None = None

    @classmethod
    def of(cls, name: str, entry: Entry, dtype: torch.dtype) -> Comparison:
        """A comparison of the values of an entry in this dtype; each block has the tolerance of its own law."""
        comparison = cls(name, tolerance(entry.initializer, dtype))
        if comparison.tolerance and isinstance(entry.initializer, Blocks):
            comparison._blocks = entry.initializer, entry.shape[entry.initializer.dim]
        return comparison

    def add(self, index: tuple[slice, ...], found: Tensor, expected: Tensor) -> None:
        """Compare one tile, found at ``index`` of the whole tensor."""
        if self._blocks is None:
            self._add(index, found, expected, self.tolerance)
            return
        blocks, extent = self._blocks
        along = index[blocks.dim]
        for begin, end, law in blocks.spans(extent):
            first, last = max(begin, along.start), min(end, along.stop)
            if first < last:
                place = (*index[: blocks.dim], slice(first, last), *index[blocks.dim + 1 :])
                one, two = (each.narrow(blocks.dim, first - along.start, last - first) for each in (found, expected))
                self._add(place, one, two, tolerance(law, found.dtype))

    def _add(self, index: tuple[slice, ...], found: Tensor, expected: Tensor, tolerance: float) -> None:
        one, two = dtypes.bits(found), dtypes.bits(expected)
        if torch.equal(one, two):
            return
        differs = one != two
        if differs.ndim > found.ndim:  # complex: the real or the imaginary part
            differs = differs.any(-1)
        if tolerance and bool(differs.any()):
            wide = torch.complex128 if found.is_complex() else torch.float64
            near_one, near_two = found.to(wide), expected.to(wide)
            rounding = 2 * dtypes.relative_rounding(found.dtype) * near_two.abs()
            near = (near_one - near_two).abs() <= tolerance + rounding
            self.close = self.close or bool((differs & near).any())
            differs &= ~near
        count = int(differs.sum())
        if not count:
            return
        if self.first is None:
            where = tuple(int(i) for i in differs.nonzero()[0])
            place = tuple(part.start + i for part, i in zip(index, where, strict=True))
            self.first = (place, _shortest(found[where]), _shortest(expected[where]))
        self.count += count

    def result(self) -> Iterable[TensorDifference]:
        """Yield the difference, if there is one."""
        if self.first is not None:
            place, found, expected = self.first
            yield TensorDifference(name=self.name, count=self.count, first=place, found=found, expected=expected)


def _shortest(element: Tensor) -> str:
    """A number with as few digits as tell it from its neighbours in its dtype; Python writes those of float64."""
    value, dtype = element.item(), element.dtype
    if dtype.is_floating_point and math.isfinite(value):
        for digits in range(1, 10):
            short = float(f"{value:.{digits}g}")
            if torch.tensor(short, dtype=torch.float64, device="cpu").to(dtype).item() == value:
                return str(short)
    return str(value)
