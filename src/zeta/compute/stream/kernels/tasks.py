"""The tasks of the backends: values of one distribution, in one region, written to one tensor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import torch
from msgspec import Struct
from torch import Tensor

from zeta.compute.stream.random import Interval
from zeta.compute.stream.regions import Region

#: dimensions of the boxes that kernels loop over
DIMS: Final = 6

DrawKind = Literal["words", "uniform", "normal"]


class Law(Struct, frozen=True, kw_only=True, eq=False):  # hashed by identity, which is faster in the caches
    """A distribution of real numbers in a dtype, with all its constants: ``draw * scale + shift``, then clamped.

    ``uniform`` draws ``u`` in ``[0, 1)``, ``normal`` draws ``z`` within the interval ``within``; both are computed in
    fp64 for ``float64`` and in fp32 for every other dtype, ``scale`` and ``shift`` rounded to it. ``low`` and ``high``
    are numbers of ``dtype``, or infinite. ``words`` gives the raw 32-bit words, in ``uint32``.
    """

    kind: DrawKind
    dtype: torch.dtype
    scale: float = 1.0
    shift: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    within: Interval | None = None

    def __post_init__(self) -> None:
        assert (self.kind == "normal") is (self.within is not None), self
        assert (self.kind == "words") is (self.dtype is torch.uint32), self
        assert self.within is None or self.within.bits == (53 if self.dtype is torch.float64 else 32), self

    @property
    def bounded(self) -> bool:
        """Whether values are clamped."""
        return self.low > -math.inf or self.high < math.inf


WORDS = Law(kind="words", dtype=torch.uint32)


class Task(Struct, frozen=True, kw_only=True):
    """Write the values of ``law`` for the elements of ``region`` to ``outs``, tensors of its sizes with any strides.

    ``keys`` are the parameters' keys, one for each of ``outs``, which are on one device; ``draw`` is the draw number,
    the upper 64 bits of the counter.
    """

    law: Law
    keys: Sequence[int]
    draw: int
    region: Region
    outs: Sequence[Tensor]

    def __post_init__(self) -> None:
        sizes, dtype = self.region.sizes, self.law.dtype
        assert all(out.shape == sizes and out.dtype is dtype for out in self.outs), self

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.outs[0].device


StridedBox = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]


def boxes(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> Iterator[StridedBox]:
    """Cut an array with several sets of strides into boxes of ``DIMS`` dimensions: (offsets, sizes, strides).

    Adjacent dimensions that are contiguous in every set are joined first, so that one box is almost always enough.
    """
    if len(sizes) <= 1:
        size, steps = (sizes[0], [step[0] for step in strides]) if sizes else (1, [0] * len(strides))
        none = (0,) * (DIMS - 1)
        yield (0,) * len(strides), (*(1,) * (DIMS - 1), size), tuple((*none, step) for step in steps)
        return
    joined: list[tuple[int, list[int]]] = []
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if joined and all(outer == step * size for outer, step in zip(joined[-1][1], steps, strict=True)):
            joined[-1] = (joined[-1][0] * size, steps)
        else:
            joined.append((size, steps))
    joined = [(1, [0] * len(strides))] * (DIMS - len(joined)) + joined
    outer, inner = joined[:-DIMS], joined[-DIMS:]
    for corner in itertools.product(*(range(size) for size, _ in outer)):
        yield (
            tuple(sum(i * steps[k] for i, (_, steps) in zip(corner, outer, strict=True)) for k in range(len(strides))),
            tuple(size for size, _ in inner),
            tuple(tuple(steps[k] for _, steps in inner) for k in range(len(strides))),
        )
