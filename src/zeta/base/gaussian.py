"""The normal distribution in exact decimal arithmetic, and the moments of a truncated one.

Only constants are computed here, a handful per initializer. They decide bits of the stream, so they are computed with
:mod:`decimal`, which rounds the same way everywhere, and not with a platform's ``erf``.
"""

from __future__ import annotations

import functools
import math
from decimal import Context, Decimal, localcontext
from typing import Final

from msgspec import Struct

#: 50 digits, rounded half to even, whatever context the caller has set
DECIMALS: Final = Context(prec=50)
_PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628621")
# Below this, the series converges; above, it loses digits, and the continued fraction converges fast.
_SERIES_LIMIT: Final = Decimal(3)
# An interval is narrow if the density's logarithm changes by less than this from its middle to its ends.
_NARROW: Final = Decimal("1e-4")
# The order of the expansion of a narrow interval's density: the next term is far below fp64's rounding.
_NARROW_TERMS: Final = 8


@functools.lru_cache(maxsize=1024)
def upper_tail(z: float | Decimal) -> Decimal:
    """Return ``Q(z) = P(Z > z)`` for a standard normal ``Z``, to at least 30 significant digits.

    >>> float(upper_tail(0.0)), float(upper_tail(2.0))
    (0.5, 0.02275013194817921)
    """
    if z == math.inf:
        return Decimal(0)
    with localcontext(DECIMALS):
        if z < 0:
            return 1 - upper_tail(-z)
        x = Decimal(z)
        density = (-x * x / 2).exp() / (2 * _PI).sqrt()
        if x < _SERIES_LIMIT:
            # Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...)
            term, total, k = x, x, 1
            while abs(term) > Decimal(10) ** -DECIMALS.prec:
                k += 2
                term = term * x * x / k
                total += term
            return Decimal("0.5") - density * total
        # Q(x) = phi(x) / (x + 1/(x + 2/(x + 3/(x + ...)))), Laplace's continued fraction
        fraction = x
        for k in range(400, 0, -1):
            fraction = x + k / fraction
        return density / fraction


class Moments(Struct, frozen=True, kw_only=True):
    """Expected moments of a tensor's elements: mean, std and kurtosis ``E[(x - mean)^4] / std^4``.

    A kurtosis of 1 means that the mean square does not vary at all (constants, orthogonal matrices).
    """

    mean: float
    std: float
    kurtosis: float


@functools.lru_cache(maxsize=1024)
def truncated_moments(mean: float, std: float, low: float, high: float) -> Moments:
    """Moments of ``N(mean, std^2)`` conditioned on ``[low, high]``, bounds absolute and possibly infinite.

    With ``a = (low - mean)/std``, ``b = (high - mean)/std``, the raw moments of the standardised variable obey
    ``m_k = (k - 1) m_{k-2} + (a^{k-1} phi(a) - b^{k-1} phi(b)) / (Q(a) - Q(b))`` (Johnson, Kotz & Balakrishnan 1994,
    ch. 13.10). Computed in decimal arithmetic, because the terms cancel far in a tail and if the bounds are close. If
    the bounds are so close that no digits would be left, the density is expanded about the middle instead.
    """
    with localcontext(DECIMALS):
        half = (Decimal(high) - Decimal(low)) / 2
        middle = Decimal(low) + half if half.is_finite() else Decimal(0)
        slope = (middle - Decimal(mean)) / Decimal(std)
        if half / Decimal(std) * max(abs(slope), Decimal(1)) < _NARROW:
            return _narrow_moments(middle, half, slope, half / Decimal(std))
        a, b = ((Decimal(bound) - Decimal(mean)) / Decimal(std) for bound in (low, high))
        edges = [(sign, x, (-x * x / 2).exp() / (2 * _PI).sqrt()) for sign, x in ((1, a), (-1, b)) if x.is_finite()]
        mass = upper_tail(a) - upper_tail(b)
        raw = [Decimal(1)]
        for k in range(1, 5):
            edge = sum((sign * phi * (x ** (k - 1) if k > 1 else 1) for sign, x, phi in edges), Decimal(0))
            raw.append((k - 1) * (raw[k - 2] if k > 1 else 0) + edge / mass)
        m1, m2, m3, m4 = raw[1:]
        variance = m2 - m1 * m1
        fourth = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1**4
        return Moments(
            mean=float(Decimal(mean) + Decimal(std) * m1),
            std=float(Decimal(std) * variance.sqrt()),
            kurtosis=float(fourth / (variance * variance)),
        )


def _narrow_moments(middle: Decimal, half: Decimal, slope: Decimal, sigmas: Decimal) -> Moments:
    """The moments within ``middle +- half``, where the density is ``exp(-e s - f s^2)`` times a constant.

    ``s`` goes from -1 to 1, ``e = slope sigmas`` and ``f = sigmas^2 / 2``, with ``half`` being ``sigmas`` std. The
    density's power series follows from its derivative, ``(k + 1) g_{k+1} = -e g_k - 2 f g_{k-1}``.
    """
    series = [Decimal(1), -slope * sigmas]
    for k in range(1, _NARROW_TERMS):
        series.append((series[1] * series[k] - sigmas * sigmas * series[k - 1]) / (k + 1))

    def integral(power: int) -> Decimal:
        """Half of the integral of ``s^power`` times the density; odd powers cancel."""
        parts = (g / (power + k + 1) for k, g in enumerate(series) if (power + k) % 2 == 0)
        return sum(parts, Decimal(0))

    m1, m2, m3, m4 = (integral(power) / integral(0) for power in range(1, 5))
    variance = m2 - m1 * m1
    fourth = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1**4
    return Moments(
        mean=float(middle + half * m1),
        std=float(half * variance.sqrt()),
        kurtosis=float(fourth / (variance * variance)),
    )
