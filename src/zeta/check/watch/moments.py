"""Statistics of a tensor in few passes; the results stay on its device until all are read together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from zeta.check.facts.results import Histogram, Stats
from zeta.compute.sums import Sums, sums_of

#: the number of elements of a histogram, taken at equal distances
_HISTOGRAM_SAMPLE: Final = 2**13
_BINS: Final = 24
# variance over mean square below which "mean square - mean^2" has lost too many digits in fp64
_CANCELLED: Final = 1e-6
# variance between samples over mean square below which it is not computed as a difference of two variances
_UNCERTAIN: Final = 1e-3
#: a lower limit for norms and mean squares that are divided by: avoids a division by zero, and changes no other result
TINY: Final = 1e-30


@dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """Statistics that may not have been copied from the device yet.

    ``numbers``: mean, variance, minimum, maximum, count of zeros, count of nonfinite values, the variance over samples
    averaged over units, and count of masked values. ``sample`` is for the histogram, and ``sums`` are those about zero,
    if the numbers are made of them.
    """

    count: int
    numbers: Tensor
    sample: Tensor | None
    sums: Sums | None = None


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Statistics of one tensor."""

    stats: Stats
    signal: float  #: the variance over samples, averaged over units
    masked: int  #: count of minus infinities that a softmax takes for a mask


def plain(tensor: Tensor) -> Tensor:
    """A tensor detached: the global values of a ``DTensor``, the absolute values of a complex one.

    Of a sparse tensor, the elements that it stores: it may be too large for a dense one.
    """
    tensor = tensor.detach()
    if callable(full := getattr(tensor, "full_tensor", None)):
        tensor = full()
    if callable(wait := getattr(tensor, "wait", None)):  # an asynchronous result of a collective call
        tensor = wait()
    if tensor.layout is not torch.strided:
        tensor = _stored(tensor)
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor.abs() if tensor.is_complex() else tensor


def _stored(tensor: Tensor) -> Tensor:
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
    # an opaque layout, MKLDNN's, has a dense form alone
    return tensor.values().flatten() if str(tensor.layout).startswith("torch.sparse") else tensor.to_dense()


def pending(tensor: Tensor, unit: int | None = None, *, histogram: bool = True) -> Pending | None:
    """Start computing the statistics of a floating-point tensor; ``unit`` is the dimension of its units."""
    x = plain(tensor)
    if not x.is_floating_point() or not x.numel():
        return None
    if x.dtype not in (torch.float32, torch.float64):
        try:
            x = x.float()
        except NotImplementedError:  # torch has no arithmetic for some dtypes, such as float4
            return None
    sums = sums_of(x if x.is_contiguous() else x.contiguous(), 0.0) if x.is_cpu else None
    known = None if sums is None else _from_sums(x, unit, sums)
    numbers = known if known is not None else _by_torch(x, unit)
    return Pending(count=x.numel(), numbers=numbers, sample=_sample(x) if histogram else None, sums=sums)


def _from_sums(x: Tensor, unit: int | None, sums: Sums) -> Tensor | None:
    """The numbers of ``Pending`` from sums about zero; ``None`` if values are not finite, or digits would be lost."""
    mean, square = sums.sum / sums.count, sums.squares / sums.count
    if not math.isfinite(mean) or not math.isfinite(square):
        return None
    variance = max(square - mean * mean, 0.0)
    if variance < _CANCELLED * square:  # computed again about the mean, where the squares keep their digits
        centred = sums_of(x.contiguous(), mean)
        variance = max(centred.squares / sums.count - (centred.sum / sums.count) ** 2, 0.0)
    signal = variance
    if unit is not None and x.ndim >= 2:
        means = x.mean(dim=[dim for dim in range(x.ndim) if dim != unit % x.ndim])
        signal -= float(means.double().var(correction=0))
        if signal < _UNCERTAIN * square:  # the means of the units, in fp32, are not exact enough
            return None
    zeros = x.numel() - int(torch.count_nonzero(x)) if sums.low <= 0 <= sums.high else 0
    return torch.tensor([mean, variance, sums.low, sums.high, zeros, 0, signal, 0], dtype=torch.float64, device="cpu")


def _by_torch(x: Tensor, unit: int | None) -> Tensor:
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
    nonfinite = masked = torch.zeros_like(zeros)
    if not math.isfinite(float(low + high)) or not math.isfinite(float(variance)):
        finite = torch.isfinite(x)
        nonfinite = x.numel() - torch.count_nonzero(finite)
        masked = _masked(x)
        kept = x[finite].double()
        signal = variance = kept.var(correction=0) if kept.numel() else torch.zeros_like(low)
        mean = kept.mean() if kept.numel() else torch.zeros_like(low)
        low, high = torch.aminmax(kept) if kept.numel() else (mean, mean)
    return torch.stack([n.double() for n in (mean, variance, low, high, zeros, nonfinite, signal, masked)])


def _masked(x: Tensor) -> Tensor:
    """The count of minus infinities, if these can be a mask: every line along some dimension keeps other values."""
    hidden = torch.isneginf(x)
    kept = any(size > 1 and not bool(hidden.all(dim=dim).any()) for dim, size in enumerate(x.shape))
    return torch.count_nonzero(hidden) if kept else hidden.new_zeros((), dtype=torch.int64)


def _sample(x: Tensor) -> Tensor:
    step = max(1, x.numel() // _HISTOGRAM_SAMPLE)
    flat = x.reshape(-1) if x.is_contiguous() else x.flatten()
    return flat[::step].float().clone()


def joined(parts: Sequence[Pending]) -> Pending:
    """The statistics of a tensor from those of its parts; ``signal`` is the variance."""
    if len(parts) == 1:
        return parts[0]
    numbers = torch.stack([part.numbers.cpu() for part in parts])
    means, variances, lows, highs, zeros, nonfinite, _, masked = numbers.unbind(1)
    kept = torch.tensor([float(part.count) for part in parts], dtype=torch.float64, device="cpu") - nonfinite
    total = kept.sum().clamp_min(1)
    mean = (kept * means).sum() / total
    variance = (kept * (variances + (means - mean).square())).sum() / total
    some = kept > 0
    low, high = (lows[some].min(), highs[some].max()) if some.any() else (mean, mean)
    samples = [part.sample for part in parts if part.sample is not None]
    sample = torch.cat(samples)[:: max(1, len(samples))].clone() if samples else None
    counts = [zeros.sum(), nonfinite.sum(), variance, masked.sum()]
    return Pending(
        count=sum(part.count for part in parts),
        numbers=torch.stack([mean, variance, low, high, *counts]),
        sample=sample,
    )


def measures_of(parts: Sequence[Pending | None]) -> Measures | None:
    """The statistics of a tensor, read from its device; ``None`` if a part has none."""
    found = [part for part in parts if part is not None]
    return _measures(joined(found)) if found and len(found) == len(parts) else None


def resolved(waiting: Sequence[Pending | None]) -> list[Measures | None]:
    """Read pending statistics from their devices."""
    return [None if one is None else _measures(one) for one in waiting]


def _measures(one: Pending) -> Measures:
    mean, variance, low, high, zeros, nonfinite, signal, masked = one.numbers.tolist()
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
    return Measures(stats=stats, signal=max(signal, 0.0), masked=int(masked))


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
