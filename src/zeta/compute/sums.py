"""Sums over the elements of a tensor, in fp64, without a copy of the tensor in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from msgspec import Struct
from torch import Tensor

from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import native
from zeta.compute.stream.regions import Region

_TILE: Final = 2**20


class Sums(Struct, frozen=True, kw_only=True, gc=False):
    """The number of elements, their sum and sum of squares about a centre, and their minimum and maximum.

    >>> Sums(count=1, sum=2.0, squares=4.0, low=2.0, high=2.0) + Sums()
    Sums(count=1, sum=2.0, squares=4.0, low=2.0, high=2.0)
    """

    count: int = 0
    sum: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: Sums) -> Sums:
        if self.count == 0:
            return other
        return Sums(
            count=self.count + other.count,
            sum=self.sum + other.sum,
            squares=self.squares + other.squares,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )


def sums_of(values: Tensor, centre: float) -> Sums:
    """Return the sums of ``values - centre``: ``sum(x - centre)``, ``sum((x - centre)^2)``, min and max of ``x``.

    Args:
        values: real numbers of any dtype, strides and device.
        centre: subtracted from every value; should be close to the mean, so that the squares keep their digits.

    If a value is not finite, ``sum`` is not finite either.

    >>> sums_of(torch.tensor([[1.0, 2.0], [4.0, 5.0]]), 3.0)
    Sums(count=4, sum=0.0, squares=10.0, low=1.0, high=5.0)
    """
    return sums_of_all([(values, centre)])[0]


def sums_of_all(parts: Sequence[tuple[Tensor, float]]) -> list[Sums]:
    """Return ``sums_of`` each (values, centre). The CPU kernels compute all that they can read in one call."""
    return summed(parts)()


def summed(parts: Sequence[tuple[Tensor, float]]) -> Callable[[], list[Sums]]:
    """Compute ``sums_of_all`` now, and return a function that makes the objects of it; it keeps no tensor."""
    kernel = kernels.backend().measure
    others: dict[int, Sums] = {}
    tensors: list[Tensor] = []
    centres: list[float] = []
    counts: list[int] = []
    for number, (values, centre) in enumerate(parts):
        counts.append(values.numel())
        if kernel is not None and values.is_cpu and values.dtype in native.DTYPES and not values.is_neg():
            tensors.append(values)
            centres.append(centre)
        else:
            others[number] = _by_torch(values, centre)
    measured = kernel(tensors, centres) if kernel is not None and tensors else []

    def made() -> list[Sums]:
        by_kernel = iter(measured)
        sums: list[Sums] = []
        for number, count in enumerate(counts):
            if number in others:
                sums.append(others[number])
            else:
                total, squares, low, high = next(by_kernel)
                sums.append(Sums(count=count, sum=total, squares=squares, low=low, high=high))
        return sums

    return made


def _by_torch(values: Tensor, centre: float) -> Sums:
    total = Sums()
    for index, tile in Region.whole(values.shape).tiles(_TILE):
        wide = values[index].double()
        low, high = wide.aminmax()
        wide = wide - centre
        numbers = torch.stack([wide.sum(), wide.square().sum(), low, high]).tolist()  # one synchronization
        total += Sums(count=tile.numel, sum=numbers[0], squares=numbers[1], low=numbers[2], high=numbers[3])
    return total
