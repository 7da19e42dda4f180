"""The fp32 normal quantile of runs of words, from any backend, measured against scipy's in fp64.

Over all words, with a backend that does some 10^8 words a second, scipy takes the time: 2 or 3 minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray

from zeta.compute.stream.random import interval, normal32

#: ``quantiles(start, count)``: the fp32 standard normal quantiles of the words from ``start`` on
Quantiles = Callable[[int, int], NDArray[np.float32]]

HALF = 2**31  # the upper half of the words; the lower one mirrors it
RUN = 2**18


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep found: how many words, and the largest relative error, with its word."""

    words: int
    error: float
    word: int


def from_reference(start: int, count: int) -> NDArray[np.float32]:
    """The reference, as a backend."""
    values: NDArray[np.float32] = normal32(torch.arange(start, start + count), interval()).float().numpy()
    return values


def exact(start: int, count: int) -> NDArray[np.float64]:
    """scipy's quantiles of ``(w + 1/2) / 2^32``, in the upper half: by the upper tail, which fp64 holds exactly."""
    tail = (2.0**32 - np.arange(start, start + count) - 0.5) / 2.0**32
    values: NDArray[np.float64] = -scipy.special.ndtri(tail)
    return values


def sweep(quantiles: Quantiles, starts: Iterable[int], *, mirrored: bool = True) -> Sweep:
    """Measure runs of ``RUN`` words of the upper half, in ascending order.

    Asserts that the values are finite, positive, monotone from run to run, and with ``mirrored``, that the words of
    the lower half give the same with the other sign.
    """
    words, worst, at, last = 0, 0.0, HALF, 0.0
    for start in starts:
        z = quantiles(start, RUN)
        assert z.dtype == np.float32
        assert z[0] >= last, f"word {start:#x} gives {z[0]}, one before it {last}"
        assert z[0] > 0, f"word {start:#x} gives {z[0]}"
        falls = np.flatnonzero(np.diff(z) < 0)
        assert not falls.size, f"the value falls after word {start + int(falls[0]):#x}"
        assert np.isfinite(z[-1]), f"word {start + RUN - 1:#x} gives {z[-1]}"
        if mirrored:
            lower = quantiles(2**32 - start - RUN, RUN)
            assert np.array_equal(lower[::-1], -z), f"the run from {start:#x} on is not mirrored"
        error: NDArray[Any] = np.abs(z / exact(start, RUN) - 1.0)
        words, last = words + RUN, float(z[-1])
        if error.max() > worst:
            worst, at = float(error.max()), start + int(error.argmax())
    return Sweep(words=words * (1 + mirrored), error=worst, word=at)


def all_runs() -> Iterable[int]:
    """Every word of the upper half."""
    return range(HALF, 2**32, RUN)


def spread_runs(count: int) -> list[int]:
    """``count`` runs at each end of the upper half, and about twice as many between, evenly spread."""
    runs = HALF // RUN
    numbers = {*range(count), *range(runs - count, runs), *range(0, runs, max(1, runs // (2 * count)))}
    return [HALF + number * RUN for number in sorted(numbers)]
