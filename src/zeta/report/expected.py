"""The moments and bounds of a distribution after rounding to a dtype.

If the dtype has only few numbers in the distribution's range (always with 8 or 16 bits; in fp32 and fp64 far from zero
or next to it), each number gets the probability of its cell: of all values that round to it. Otherwise the numbers are
so dense that the moments are those of the distribution before rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.gaussian import Moments, truncated_moments
from zeta.compute.stream.random import fp32
from zeta.initializers import (
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Site,
    Sparse,
    TruncatedNormal,
    Uniform,
    matrix_shape,
)

# With more numbers than this in a range of 26 std, their spacing is at most a few 10^-4 std. Rounding then changes the
# variance by less than 10^-8 relative, which even 10^15 elements would not show.
_MOST_NUMBERS: Final = 2**17
# No normal value lies farther from the mean, in std: the probability is below that of a single 64-bit word.
_REACH: Final = 13.0
# The probability of a single 64-bit word. What is rarer is never drawn.
_RAREST: Final = 2.0**-64
# A number with more probability than this makes sums of few elements far from normal: see Expected.jump.
_LUMP: Final = 1 / 16
# The relative accuracy to which orthogonal matrices are computed.
_FACTORIZATION: Final = 1e-12

Cdf = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Moments and bounds of the real, or of the imaginary, parts of a parameter's elements, after rounding.

    ``kurtosis`` is ``1 + V / std^4`` with ``V / n`` the variance of the mean square of ``n`` elements; for independent
    elements that is their kurtosis. No value lies outside of ``low`` and ``high``. ``jump`` is given if a single number
    has a large probability: the largest distance of a value from the mean. The sum then depends on a few rare events,
    and is not close to normal.
    """

    mean: float
    std: float
    kurtosis: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    jump: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Unrounded:
    """``location + scale z``, ``z`` with distribution function ``cdf``; a fraction ``zeros`` of the elements is 0.

    ``exact``: the mean square is the same in every draw, before rounding.
    """

    location: float
    scale: float
    unit: Moments
    cdf: Cdf
    ends: tuple[float, float]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    zeros: float = 0.0
    exact: bool = False


@functools.lru_cache(maxsize=4096)
def expected(
    initializer: Initializer, site: Site, dtype: torch.dtype, *, partial: bool = False
) -> tuple[Expected, ...]:
    """Return the expected moments of the real parts and, for a complex dtype, of the imaginary parts.

    Args:
        initializer: what the values are drawn from.
        site: the shape and axes of the parameter.
        dtype: the dtype of the values.
        partial: only some rows are measured, so that properties of whole matrices hold on average only.

    >>> expected(Constant(0.1), Site(shape=(2,)), torch.bfloat16)[0].mean
    0.10009765625
    >>> round(expected(Normal(1.0), Site(shape=(2,)), torch.float8_e5m2)[0].std, 3)
    0.999
    """
    initializer = initializer.solve(site)
    if isinstance(initializer, Constant | Identity | Dirac):
        return _fixed(initializer, site, dtype, partial=partial)
    law = _unrounded(initializer, site, complex_=dtype.is_complex)
    # the stream draws elements in fp32, with location and scale rounded to fp32; matrices are scaled in fp64
    narrow = isinstance(initializer, Uniform | Normal | TruncatedNormal)
    narrow = narrow and dtypes.real_part(dtype) is not torch.float64
    if not dtype.is_complex:
        return (_rounded(_narrowed(law) if narrow else law, dtype, partial=partial),)
    centre, half = law.location + law.scale * law.unit.mean, law.scale * math.sqrt(0.5)
    # the bounds of the parts depend on the distribution; checking them would add little to mean and std
    law = replace(law, scale=half, bounds=(-math.inf, math.inf))
    laws = [replace(law, location=middle - half * law.unit.mean) for middle in (centre, 0.0)]
    return tuple(_rounded(_narrowed(part) if narrow else part, dtype, partial=partial) for part in laws)


def _narrowed(law: _Unrounded) -> _Unrounded:
    return replace(law, location=fp32(law.location), scale=fp32(law.scale))


def _fixed(
    initializer: Constant | Identity | Dirac, site: Site, dtype: torch.dtype, *, partial: bool
) -> tuple[Expected, ...]:
    """The moments of deterministic values after rounding."""
    if isinstance(initializer, Constant):
        value = dtypes.rounded(initializer.value, dtype)
        real = Expected(mean=value, std=0.0, low=value, high=value)
    else:
        whole = replace(initializer, gain=dtypes.rounded(initializer.gain, dtype))
        moments, (low, high) = whole.moments(site), whole.bounds()
        share = moments.mean / whole.gain if whole.gain else 0.0
        # leaving out a row changes the fraction of the diagonal by less than its spread if it were drawn at random
        kurtosis = 1 / (share * (1 - share)) - 3 if partial and 0 < share < 1 else 1.0
        real = Expected(mean=moments.mean, std=moments.std, kurtosis=max(kurtosis, 1.0), low=low, high=high)
    return (real, Expected(mean=0.0, std=0.0, low=0.0, high=0.0)) if dtype.is_complex else (real,)


def _unrounded(initializer: Initializer, site: Site, *, complex_: bool) -> _Unrounded:
    if isinstance(initializer, Uniform):
        low, high = initializer.bounds()
        unit = Moments(mean=0.5, std=math.sqrt(1 / 12), kurtosis=1.8)
        return _Unrounded(location=low, scale=high - low, unit=unit, cdf=_uniform, ends=(0.0, 1.0), bounds=(low, high))
    if isinstance(initializer, TruncatedNormal):
        a, b = initializer.sigmas()
        return _Unrounded(
            location=initializer.mean,
            scale=initializer.std,
            unit=truncated_moments(0.0, 1.0, a, b),
            cdf=functools.partial(_truncated, a=a, b=b),
            ends=(max(a, -_REACH), min(b, _REACH)),
            bounds=initializer.bounds(),
        )
    if isinstance(initializer, Orthogonal | DeltaOrthogonal):
        shape = matrix_shape(site)
        taps = math.prod(shape.kernel)
        delta = isinstance(initializer, DeltaOrthogonal)
        side = max(shape.rows, shape.columns * (1 if delta else taps), 1) * (2 if complex_ else 1)
        reach = abs(initializer.gain) * (1 + _FACTORIZATION)
        return _Unrounded(
            location=0.0,
            # a complex element is two coordinates of a real vector of twice the size and the same length
            scale=abs(initializer.gain) * (math.sqrt(2) if complex_ else 1),
            unit=Moments(mean=0.0, std=1 / math.sqrt(side), kurtosis=3 * side / (side + 2)),
            cdf=functools.partial(_coordinate, size=side),
            ends=(-1.0, 1.0),
            bounds=(-reach, reach),
            zeros=1 - 1 / taps if delta and taps else 0.0,
            exact=True,
        )
    normal = Moments(mean=0.0, std=1.0, kurtosis=3.0)
    if isinstance(initializer, Sparse):
        rows = matrix_shape(site).rows
        zeros = initializer.zeros(rows) / rows if rows else 1.0
        return _Unrounded(
            location=0.0,
            scale=initializer.std,
            unit=normal,
            cdf=torch.special.ndtr,
            ends=(-_REACH, _REACH),
            zeros=zeros,
        )
    assert isinstance(initializer, Normal), initializer
    return _Unrounded(
        location=initializer.mean,
        scale=initializer.std,
        unit=normal,
        cdf=torch.special.ndtr,
        ends=(-_REACH, _REACH),
    )


# -- distribution functions --------------------------------------------------------------------------------------------


def _uniform(z: Tensor) -> Tensor:
    return z.clamp(0, 1)


def _truncated(z: Tensor, a: float, b: float) -> Tensor:
    """The normal distribution within ``[a, b]``, computed in the tail where no digits cancel."""
    ends = torch.tensor([a, b], dtype=torch.float64, device="cpu")
    sign = -1.0 if a > 0 else 1.0
    first, last = torch.special.ndtr(sign * ends)
    below: Tensor = (torch.special.ndtr(sign * z.clamp(a, b)) - first) / (last - first)
    return below


def _coordinate(z: Tensor, size: int) -> Tensor:
    """One coordinate of a random unit vector: ``sin(t)`` with density ``cos(t)^(size - 2)``."""
    if size == 1:
        return ((z >= -1).double() + (z >= 1).double()) / 2
    points = 2**14
    reach = min(math.pi / 2, _REACH / math.sqrt(size))
    t = torch.linspace(-reach, reach, points + 1, dtype=torch.float64, device="cpu")
    density = t.cos().clamp(min=0).pow(size - 2)
    mass = torch.cat([t.new_zeros(1), torch.cumsum((density[1:] + density[:-1]) / 2, 0)])
    place = ((z.clamp(-1, 1).asin() + reach) * (points / (2 * reach))).clamp(0, points)
    before = place.floor().clamp(max=points - 1)
    cdf = torch.lerp(mass[before.long()], mass[before.long() + 1], place - before)
    return cdf / mass[-1]


# -- rounding ----------------------------------------------------------------------------------------------------------


def _rounded(law: _Unrounded, dtype: torch.dtype, *, partial: bool) -> Expected:
    """The moments after rounding: summed over the dtype's numbers if these are few, else those before rounding."""
    dtype = dtypes.real_part(dtype)
    low, high = _bounds(law, dtype)
    if law.scale == 0 or law.zeros == 1:
        value = 0.0 if law.zeros == 1 else dtypes.rounded(law.location, dtype)
        return Expected(mean=value, std=0.0, low=value, high=value)
    limit = dtypes.largest(dtype)
    first, last = (
        min(max(dtypes.rounded(min(max(law.location + law.scale * end, -limit), limit), dtype), low), high)
        for end in law.ends
    )
    numbers = dtypes.numbers(first, last, dtype, most=_MOST_NUMBERS)
    if numbers is not None:
        return replace(_on(numbers, law, partial=partial), low=low, high=high)
    share = 1 - law.zeros
    kurtosis = law.unit.kurtosis / share
    if law.exact and not partial:
        # rounding w changes w^2 by at most 2 w^2 eps / 2, uniformly distributed within that
        kurtosis = 1 + dtypes.relative_rounding(dtype) ** 2 * 4 / 3 * kurtosis
    return Expected(
        mean=law.location + law.scale * law.unit.mean,
        std=law.scale * law.unit.std * math.sqrt(share),
        kurtosis=kurtosis,
        low=low,
        high=high,
    )


def _bounds(law: _Unrounded, dtype: torch.dtype) -> tuple[float, float]:
    """The bounds of rounded values: drawn elements are clamped to the law's bounds, those of matrices only rounded."""
    low, high = law.bounds
    if law.exact and math.isfinite(high):
        return dtypes.rounded(low, dtype), dtypes.rounded(high, dtype)
    return dtypes.inward(low, high, dtype)


def _on(numbers: Tensor, law: _Unrounded, *, partial: bool) -> Expected:
    """The moments over ``numbers``, each with its cell's probability; the first and last one get the tails."""
    inner = (numbers[1:] + numbers[:-1]) / 2
    cdf = law.cdf((inner - law.location) / law.scale)
    chance = torch.cat([cdf.new_zeros(1), cdf, cdf.new_ones(1)]).diff()
    chance[chance < _RAREST] = 0
    chance /= chance.sum()
    lump = float(chance.max()) > _LUMP
    reach = torch.tensor(law.ends, dtype=torch.float64, device="cpu") * law.scale + law.location
    edges = torch.cat([torch.minimum(reach[:1], numbers[:1]), inner, torch.maximum(reach[1:], numbers[-1:])])
    share = 1 - law.zeros
    if law.zeros:
        numbers = torch.cat([numbers, numbers.new_zeros(1)])
        chance = torch.cat([chance * share, chance.new_full((1,), law.zeros)])
        edges = torch.cat([edges, edges[-1:]])  # a zero is exact: its cell has no width

    possible = chance > 0
    distance = numbers - law.location
    unit = float(distance[possible].abs().max())
    if unit == 0:
        return Expected(mean=law.location, std=0.0)
    distance = distance / unit  # scaled to at most 1, so that fourth powers do not underflow
    shift = float((chance * distance).sum())
    about = distance - shift
    square = about * about
    variance = float((chance * square).sum())
    mean = law.location + unit * shift
    if not variance > 0:
        return Expected(mean=mean, std=0.0)
    if law.exact and not partial:
        # the variance of (w + d)^2 - w^2, with w uniform over the cell
        width = edges.diff() / unit
        spread = float((chance * (distance**2 * width**2 / 3 + width**4 / 80)).sum())
        kurtosis = 1 + spread / variance**2
    else:
        kurtosis = float((chance * square * square).sum()) / variance**2
    jump = unit * float(about[possible].abs().max()) if lump else None
    return Expected(mean=mean, std=unit * math.sqrt(variance), kurtosis=kurtosis, jump=jump)
