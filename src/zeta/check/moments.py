"""Statistics of a tensor in few passes, left on its device until all of them are wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from zeta.check.results import Histogram, Stats

#: a histogram is of so many elements, taken at equal distances
_SAMPLE: Final = 2**13
_BINS: Final = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """Statistics that may still be on their way from a device.

    ``numbers``: mean, mean square about it, least, largest, zeros, not finite, and the mean over units of the variance
    over samples. The sample is for the histogram.
    """

    count: int
    numbers: Tensor
    sample: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Statistics, and the part of the variance that differs between samples."""

    stats: Stats
    signal: float  #: the mean over units of the variance over samples


def plain(tensor: Tensor) -> Tensor:
    """The whole of a tensor, detached: a DTensor's global values, a complex one's absolute ones."""
    tensor = tensor.detach()
    if callable(full := getattr(tensor, "full_tensor", None)):
        tensor = full()
    if callable(wait := getattr(tensor, "wait", None)):  # a collective's result
        tensor = wait()
    return tensor.abs() if tensor.is_complex() else tensor


def pending(tensor: Tensor, unit: int | None = None, *, histogram: bool = True) -> Pending | None:
    """Start on the statistics of a floating-point tensor; ``unit`` is the dimension of its units."""
    x = plain(tensor)
    if not x.is_floating_point() or not x.numel():
        return None
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    if unit is None or x.ndim < 2:
        variance, mean = torch.var_mean(x, correction=0)
        signal = variance
    else:
        over = [dim for dim in range(x.ndim) if dim != unit % x.ndim]
        variances, means = torch.var_mean(x, dim=over, correction=0)
        signal, mean = variances.mean(), means.mean()
        variance = signal + means.var(correction=0)
    low, high = torch.aminmax(x)
    zeros = x.numel() - torch.count_nonzero(x)
    nonfinite = torch.zeros_like(zeros)
    if not math.isfinite(float(low + high)) or not math.isfinite(float(variance)):
        finite = torch.isfinite(x)
        nonfinite = x.numel() - torch.count_nonzero(finite)
        kept = x[finite].double()
        signal = variance = kept.var(correction=0) if kept.numel() else torch.zeros_like(low)
        mean = kept.mean() if kept.numel() else torch.zeros_like(low)
        low, high = torch.aminmax(kept) if kept.numel() else (mean, mean)
    numbers = torch.stack([n.double() for n in (mean, variance, low, high, zeros, nonfinite, signal)])
    return Pending(count=x.numel(), numbers=numbers, sample=_sample(x) if histogram else None)


def _sample(x: Tensor) -> Tensor:
    step = max(1, x.numel() // _SAMPLE)
    flat = x.reshape(-1) if x.is_contiguous() else x.flatten()
    return flat[::step].float().clone()


def resolved(waiting: Sequence[Pending | None]) -> list[Measures | None]:
    """Turn what is pending into numbers, with one wait for each device."""
    return [None if one is None else _measures(one) for one in waiting]


def _measures(one: Pending) -> Measures:
    mean, variance, low, high, zeros, nonfinite, signal = one.numbers.tolist()
    stats = Stats(
        count=one.count,
        mean=mean,
        std=math.sqrt(max(variance, 0.0)),
        low=low,
        high=high,
        zeros=zeros / one.count,
        nonfinite=int(nonfinite),
        histogram=None if one.sample is None else _histogram(one.sample, low, high),
    )
    return Measures(stats=stats, signal=max(signal, 0.0))


def _histogram(sample: Tensor, low: float, high: float) -> Histogram | None:
    if not low < high or not math.isfinite(high - low):
        return None
    kept = sample[torch.isfinite(sample)].cpu()
    counts: Any = torch.histc(kept, bins=_BINS, min=low, max=high)
    return Histogram(low=low, high=high, counts=tuple(int(count) for count in counts.tolist()))


def stats_of(tensor: Tensor) -> Stats | None:
    """The statistics of one tensor."""
    one = pending(tensor)
    return None if one is None else _measures(one).stats
