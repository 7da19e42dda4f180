"""What every backend is asked for: values of one distribution, in one region, written to one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zeta.random import Interval
from zeta.regions import Region

Kind = Literal["words", "uniform", "normal"]


@dataclass(frozen=True, kw_only=True)
class Law:
    """A distribution of real numbers in a dtype, down to the last constant: ``draw * scale + shift``, then clamped.

    ``uniform`` draws ``u`` in ``[0, 1)``, ``normal`` draws ``z`` within the interval ``within``; both are computed in
    fp64 for ``float64`` and in fp32 for every other dtype, ``scale`` and ``shift`` rounded to it. ``low`` and ``high``
    are numbers of ``dtype``, or infinite. ``words`` gives the raw 32-bit words, in ``uint32``.
    """

    kind: Kind
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
        """Whether values can be clamped."""
        return self.low > -math.inf or self.high < math.inf


WORDS = Law(kind="words", dtype=torch.uint32)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Write the values of ``law`` for the elements of ``region`` to ``out``, a tensor of its sizes with any strides.

    ``key`` is the parameter's and ``draw`` the number of the draw: the upper 64 bits of the counter.
    """

    law: Law
    key: int
    draw: int
    region: Region
    out: Tensor

    def __post_init__(self) -> None:
        assert tuple(self.out.shape) == self.region.sizes, (self.out.shape, self.region)
        assert self.out.dtype is self.law.dtype, (self.out.dtype, self.law)
