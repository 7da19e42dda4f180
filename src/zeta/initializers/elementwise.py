"""Initializers whose elements are independent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Final

from zeta.base.gaussian import Moments, truncated_moments
from zeta.base.language.state import subnormals
from zeta.base.reading import shown
from zeta.errors import SpecError, notice
from zeta.initializers.base import Initializer, Site, set_number

# The largest |z| that 32 random bits can give: the p = 2^-33 quantile of the normal distribution is 6.338.
LARGEST_SIGMA: Final = 6.34
# Truncation intervals that begin farther from the mean than this, in std, are refused: fp32 cannot represent the tail.
FARTHEST_SIGMA: Final = 8.0
#: narrower truncation intervals, in std, are refused: the difference of the probabilities has no digits left
_NARROWEST_SIGMA: Final = 1e-24


@dataclass(frozen=True, repr=False, eq=False)
class Constant(Initializer):
    """Every element is ``value``, rounded to the parameter's dtype.

    >>> Constant(0.5) * 2
    Constant(value=1.0)
    """

    is_random = False

    value: float

    def __post_init__(self) -> None:
        set_number(self, "value")

    def scaled(self, factor: float) -> Constant:
        return Constant(self.value * factor)

    def moments(self, site: Site) -> Moments:
        return Moments(mean=self.value, std=0.0, kurtosis=1.0)

    def bounds(self) -> tuple[float, float]:
        return (self.value, self.value)


@dataclass(frozen=True, repr=False, eq=False)
class Zeros(Constant):
    """Every element is 0."""

    value: float = field(default=0.0, init=False)

    def scaled(self, factor: float) -> Zeros:
        return self

    def to_json(self) -> dict[str, Any]:
        return {"name": "Zeros"}


@dataclass(frozen=True, repr=False, eq=False)
class Ones(Constant):
    """Every element is 1."""

    value: float = field(default=1.0, init=False)

    def to_json(self) -> dict[str, Any]:
        return {"name": "Ones"}


@dataclass(frozen=True, repr=False, eq=False)
class Uniform(Initializer):
    """Uniform on ``[low, high]``: ``low + (high - low) u`` with ``u`` in ``[0, 1)``.

    Mean ``(low + high)/2``, std ``(high - low)/sqrt(12)``. Values are within the bounds in every dtype.
    """

    low: float = 0.0
    high: float = 1.0

    @subnormals()
    def __post_init__(self) -> None:
        set_number(self, "low")
        set_number(self, "high")
        if not self.low < self.high:
            raise SpecError(
                f"Uniform: low must be below high, got low={self.low!r}, high={self.high!r}; use Constant for one value"
            )

    def scaled(self, factor: float) -> Initializer:
        if factor == 0:
            return Zeros()
        low, high = sorted((self.low * factor, self.high * factor))
        return Uniform(low, high)

    def shifted(self, by: float) -> Uniform:
        """Return the initializer whose values are these plus ``by``."""
        return Uniform(self.low + by, self.high + by)

    def moments(self, site: Site) -> Moments:
        return Moments(mean=self.low / 2 + self.high / 2, std=(self.high - self.low) / math.sqrt(12), kurtosis=1.8)

    def bounds(self) -> tuple[float, float]:
        return (self.low, self.high)


@dataclass(frozen=True, repr=False, eq=False)
class Normal(Initializer):
    """Normal with standard deviation ``std`` and mean ``mean``. Tails reach 6.3 std in fp32, 8.2 in fp64.

    >>> Normal(0.02) * (2 * 12) ** -0.5
    Normal(std=0.004082482904638631)
    """

    std: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        set_number(self, "std", least=0.0)
        set_number(self, "mean")

    def scaled(self, factor: float) -> Normal:
        return Normal(self.std * abs(factor), self.mean * factor)

    def shifted(self, by: float) -> Normal:
        """Return the initializer whose values are these plus ``by``."""
        return Normal(self.std, self.mean + by)

    def moments(self, site: Site) -> Moments:
        return Moments(mean=self.mean, std=self.std, kurtosis=3.0)


def notice_order(initializer: Initializer) -> None:
    """Say of a normal law that somebody wrote without spread that its std comes first, before the mean."""
    if isinstance(initializer, Normal) and initializer.std == 0 and initializer.mean != 0:
        mean = initializer.mean
        notice(
            f"{initializer!r} is the constant {mean!r}. In zeta.initializers, std comes first: Normal({mean!r}) has "
            f"the std {mean!r}; if the constant is meant, write Constant({mean!r})"
        )


@dataclass(frozen=True, repr=False, eq=False)
class TruncatedNormal(Initializer):
    """Normal with parent ``std`` and ``mean``, conditioned on an interval by a change of interval, not by rejection.

    The interval is ``mean +- cutoff * std`` (``cutoff`` in sigmas, default 2), or the absolute ``[low, high]``, either
    of which may be left out. ``torch.nn.init.trunc_normal_`` takes absolute bounds: its default ±2 cuts nothing at std
    0.02.

    ``std`` is the parent's std. The drawn values have a smaller one (0.8796 std at 2 sigma), unless
    ``correct_std=True``, which solves for the parent whose truncated std is ``std``.

    >>> TruncatedNormal(0.02)
    TruncatedNormal(std=0.02, cutoff=2.0)
    >>> TruncatedNormal(0.02, correct_std=True).solve(Site(shape=(4, 4)))
    TruncatedNormal(std=0.022736944686771128, cutoff=2.0)
    """

    std: float = 1.0
    mean: float = 0.0
    cutoff: float | None = field(default=None, kw_only=True)
    low: float | None = field(default=None, kw_only=True)
    high: float | None = field(default=None, kw_only=True)
    correct_std: bool = field(default=False, kw_only=True)

    @subnormals()
    def __post_init__(self) -> None:
        set_number(self, "std", above=0.0)
        set_number(self, "mean")
        absolute = self.low is not None or self.high is not None
        if self.cutoff is not None and absolute:
            raise SpecError(
                f"TruncatedNormal: cutoff={shown(self.cutoff)} is in sigmas, low={shown(self.low)} and "
                f"high={shown(self.high)} are absolute: give one kind"
            )
        if not absolute:
            if self.cutoff is None:
                object.__setattr__(self, "cutoff", 2.0)
            set_number(self, "cutoff", above=0.0)
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                set_number(self, name)
        low, high = self.bounds()
        if not low < high:
            raise SpecError(f"TruncatedNormal: low must be below high, got low={low!r}, high={high!r}")
        a, b = self.sigmas()
        if a > FARTHEST_SIGMA or b < -FARTHEST_SIGMA:
            raise SpecError(
                f"TruncatedNormal: [{low:g}, {high:g}] begins {min(abs(a), abs(b)):.1f} std from the mean "
                f"{self.mean:g}; at most {FARTHEST_SIGMA:g} is supported"
            )
        if b - a < _NARROWEST_SIGMA:
            raise SpecError(
                f"TruncatedNormal: [{low:g}, {high:g}] is {b - a:.2g} std wide, where a normal does not differ from a "
                "uniform law; use Uniform(low, high)"
            )
        if not isinstance(self.correct_std, bool):
            raise SpecError(f"TruncatedNormal: correct_std must be True or False, got {shown(self.correct_std)}")

    def bounds(self) -> tuple[float, float]:
        """The absolute bounds of the values."""
        if self.cutoff is not None:
            return (self.mean - self.cutoff * self.std, self.mean + self.cutoff * self.std)
        return (-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)

    @subnormals()
    def sigmas(self) -> tuple[float, float]:
        """The bounds in standard deviations from the mean."""
        if self.cutoff is not None:
            return (-self.cutoff, self.cutoff)
        low, high = self.bounds()
        return ((low - self.mean) / self.std, (high - self.mean) / self.std)

    def scaled(self, factor: float) -> Initializer:
        if factor == 0:
            return Zeros()
        changes: dict[str, Any] = {"std": self.std * abs(factor), "mean": self.mean * factor}
        if self.cutoff is None:
            low, high = (None if bound is None else bound * factor for bound in (self.low, self.high))
            changes |= {"low": low, "high": high} if factor > 0 else {"low": high, "high": low}
        return replace(self, **changes)

    def shifted(self, by: float) -> TruncatedNormal:
        """Return the initializer whose values are these plus ``by``."""
        low, high = (None if bound is None else bound + by for bound in (self.low, self.high))
        return replace(self, mean=self.mean + by, low=low, high=high)

    def solve(self, site: Site) -> TruncatedNormal:
        if not self.correct_std:
            return self
        if self.cutoff is not None:
            return replace(self, std=self.std / truncated_moments(0.0, 1.0, *self.sigmas()).std, correct_std=False)
        return self._corrected_within_bounds()

    def _corrected_within_bounds(self) -> TruncatedNormal:
        """Find the parent std by bisection: the truncated std grows with it, up to the uniform distribution's."""
        low, high = self.bounds()
        limit = (high - low) / math.sqrt(12)
        if self.std >= limit * (1 - 1e-6):
            raise SpecError(
                f"TruncatedNormal: no normal truncated to [{low:g}, {high:g}] has std {self.std:g}; it stays below "
                f"{limit:g}"
            )

        def spread(std: float) -> float:
            return truncated_moments(self.mean, std, low, high).std

        below, above = self.std, 2.0 * self.std
        while spread(above) < self.std:
            below, above = above, 2.0 * above
        while above - below > 1e-12 * above and below < (middle := (below + above) / 2) < above:
            below, above = (middle, above) if spread(middle) < self.std else (below, middle)
        return replace(self, std=(below + above) / 2, correct_std=False)

    @subnormals()
    def moments(self, site: Site) -> Moments:
        solved = self.solve(site)
        if solved.cutoff is not None:
            unit = truncated_moments(0.0, 1.0, *solved.sigmas())
            return Moments(mean=solved.mean, std=solved.std * unit.std, kurtosis=unit.kurtosis)
        return truncated_moments(solved.mean, solved.std, *solved.bounds())


#: laws whose elements are independent of each other, so that any region can be drawn alone
ELEMENTWISE: Final = (Constant, Uniform, Normal, TruncatedNormal)
