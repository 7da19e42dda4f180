"""Scores of deviations: how many standard errors of a normal law are as improbable."""

from __future__ import annotations

import math


def beyond(deviation: float, allowed: float) -> float:
    """What of a deviation is more than allowed."""
    return math.copysign(max(abs(deviation) - allowed, 0.0), deviation) if math.isfinite(deviation) else math.inf


def ratio(deviation: float, error: float) -> float:
    """A deviation in standard errors."""
    if deviation == 0:
        return 0.0
    return deviation / error if error > 0 else math.copysign(math.inf, deviation)


def nearer(first: float, second: float) -> float:
    """The score that is closer to zero."""
    return min(first, second, key=abs)


def wilson_hilferty(ratio: float, freedom: float) -> float:
    """The normal score of a chi-square variable that is ``ratio`` times its mean (Wilson & Hilferty 1931)."""
    return (math.cbrt(ratio) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def bennett(deviation: float, variance: float, most: float) -> float:
    """The score ``z`` with ``exp(-z^2 / 2)`` Bennett's bound on the probability of so large a sum.

    Of independent terms that exceed their means by at most ``most``. For rare events it is close to Poisson's law.
    """
    u = most * abs(deviation) / variance
    return math.copysign(math.sqrt(max(2 * variance * ((1 + u) * math.log1p(u) - u), 0.0)) / most, deviation)


def errors(score: float) -> str:
    """The end of a finding: by how many standard errors a value deviates."""
    return f": {score:.1f} standard errors" if math.isfinite(score) else ", which nothing may change"
