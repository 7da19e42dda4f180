"""Variance scaling by the fans, and the classical schemes, each of which is one line over it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar, Final, Literal

from zeta.base.gaussian import Moments
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.fans import Fans
from zeta.gains import Activation, gain
from zeta.initializers.base import Initializer, Site, finite, set_number
from zeta.initializers.elementwise import Normal, TruncatedNormal, Uniform, Zeros

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["normal", "truncated_normal", "uniform"]
MODES: Final[tuple[str, ...]] = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
DISTRIBUTIONS: Final[tuple[str, ...]] = ("normal", "truncated_normal", "uniform")


@dataclass(frozen=True, repr=False, eq=False)
class VarianceScaling(Initializer):
    """Zero mean and variance ``scale / n``, with ``n`` one of the fans or their arithmetic or geometric mean.

    ``normal``: ``N(0, scale/n)``. ``truncated_normal``: cut at 2 sigma, the parent's std raised so that the variance is
    exact. ``uniform``: on ``±sqrt(3 scale / n)``. Every classical scheme is one of these. With ``effective``, the fans
    are those of :func:`zeta.fans.fans` with ``effective=True``, which take strides into account.
    """

    scale: float = 1.0
    mode: Mode = "fan_in"
    distribution: Distribution = "normal"
    effective: bool = False
    needs_axes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        set_number(self, "scale", least=0.0)
        for name, allowed in (("mode", MODES), ("distribution", DISTRIBUTIONS)):
            if getattr(self, name) not in allowed:
                raise SpecError(
                    f"VarianceScaling: {name} must be one of {', '.join(allowed)}, got {shown(getattr(self, name))}"
                )
        if not isinstance(self.effective, bool):
            raise SpecError(f"VarianceScaling: effective must be True or False, got {shown(self.effective)}")

    def scaled(self, factor: float) -> VarianceScaling:
        return replace(self, scale=self.scale * (factor * factor))

    def variance(self, fans: Fans) -> float:
        """Return ``scale / n`` for these fans."""
        n = {
            "fan_in": float(fans.fan_in),
            "fan_out": float(fans.fan_out),
            "fan_avg": (fans.fan_in + fans.fan_out) / 2,
            "fan_geo_avg": math.sqrt(fans.fan_in * fans.fan_out),
        }[self.mode]
        return self.scale / (n or 1.0)  # a fan of 0 means that the weight has no elements

    def solve(self, site: Site) -> Initializer:
        variance = self.variance(site.fans(effective=self.effective))
        if variance == 0:
            return Zeros()
        if self.distribution == "normal":
            return Normal(math.sqrt(variance))
        if self.distribution == "truncated_normal":
            return TruncatedNormal(math.sqrt(variance), correct_std=True).solve(site)
        bound = math.sqrt(3 * variance)
        return Uniform(-bound, bound)

    def moments(self, site: Site) -> Moments | None:
        return self.solve(site).moments(site)


# -- the classical names, one line each ------------------------------------------------------------------------------


def _classical(mode: Mode, distribution: Distribution, gain: float) -> VarianceScaling:
    factor = finite(VarianceScaling, "gain", gain)
    return VarianceScaling(factor * factor, mode, distribution)


def _kaiming(
    mode: Mode, distribution: Distribution, nonlinearity: str | Activation, a: float | None
) -> VarianceScaling:
    if type(mode) is not str and isinstance(mode, Real):  # the registry of Real takes long to ask
        raise SpecError(
            f"kaiming_{distribution} takes (mode, nonlinearity, a), and not torch's order (a, mode, nonlinearity): got "
            f"mode={shown(mode)}; write keywords, "
            f'kaiming_{distribution}(mode="fan_out", nonlinearity="leaky_relu", a=0.1)'
        )
    return _classical(mode, distribution, gain(nonlinearity, a))


def lecun_normal() -> VarianceScaling:
    """``N(0, 1/fan_in)`` (LeCun et al. 1998)."""
    return VarianceScaling(1.0, "fan_in", "normal")


def lecun_uniform() -> VarianceScaling:
    """Uniform on ``±sqrt(3/fan_in)`` (LeCun et al. 1998)."""
    return VarianceScaling(1.0, "fan_in", "uniform")


def lecun_truncated_normal() -> VarianceScaling:
    """``lecun_normal`` cut at 2 sigma, the variance kept."""
    return VarianceScaling(1.0, "fan_in", "truncated_normal")


def xavier_normal(gain: float = 1.0) -> VarianceScaling:
    """``N(0, gain^2 * 2/(fan_in + fan_out))`` (Glorot & Bengio 2010)."""
    return _classical("fan_avg", "normal", gain)


def xavier_uniform(gain: float = 1.0) -> VarianceScaling:
    """Uniform on ``±gain * sqrt(6/(fan_in + fan_out))`` (Glorot & Bengio 2010)."""
    return _classical("fan_avg", "uniform", gain)


def xavier_truncated_normal(gain: float = 1.0) -> VarianceScaling:
    """``xavier_normal`` cut at 2 sigma, the variance kept."""
    return _classical("fan_avg", "truncated_normal", gain)


def kaiming_normal(
    mode: Mode = "fan_in", nonlinearity: str | Activation = "relu", a: float | None = None
) -> VarianceScaling:
    """``N(0, gain^2/fan)`` with the nonlinearity's gain (He et al. 2015); ``a`` is the slope of ``leaky_relu``."""
    return _kaiming(mode, "normal", nonlinearity, a)


def kaiming_uniform(
    mode: Mode = "fan_in", nonlinearity: str | Activation = "relu", a: float | None = None
) -> VarianceScaling:
    """Uniform on ``±gain * sqrt(3/fan)`` (He et al. 2015); ``a`` is the slope of ``leaky_relu``."""
    return _kaiming(mode, "uniform", nonlinearity, a)


def kaiming_truncated_normal(
    mode: Mode = "fan_in", nonlinearity: str | Activation = "relu", a: float | None = None
) -> VarianceScaling:
    """``kaiming_normal`` cut at 2 sigma, the variance kept."""
    return _kaiming(mode, "truncated_normal", nonlinearity, a)


glorot_normal = xavier_normal
glorot_uniform = xavier_uniform
glorot_truncated_normal = xavier_truncated_normal
he_normal = kaiming_normal
he_uniform = kaiming_uniform
he_truncated_normal = kaiming_truncated_normal
