"""The normal distribution in exact decimal arithmetic, and the moments of a truncated one.

Only constants are computed here, a handful per initializer. They decide bits of the stream, so they are taken
from :mod:`decimal`, which rounds the same way everywhere, and not from a platform's ``erf``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Final

#: 50 digits, rounded half to even, whatever context the caller has set
DECIMALS: Final = Context(prec=50)
_PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628621")
# From here on the continued fraction converges faster than the series loses digits.
_SERIES_LIMIT: Final = Decimal(3)


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


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What the elements of a tensor should look like: mean, std and kurtosis ``E[(x - mean)^4] / std^4``.

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
    ch. 13.10). In decimal arithmetic, as the terms cancel far in a tail and where the bounds are close.
    """
    with localcontext(DECIMALS):
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
