"""The base class of all initializers, and the site: the properties of a parameter that an initializer may use."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from numbers import Real
from typing import Any, ClassVar, Self

from msgspec import Struct

from zeta.base.gaussian import Moments
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError
from zeta.fans import Axes, Fans


class Site(Struct, frozen=True, kw_only=True):
    """The properties of a parameter that an initializer may use."""

    shape: tuple[int, ...]
    axes: Axes | None = None

    def fans(self, *, effective: bool = False) -> Fans:
        """The fans along ``axes``; ``SpecError`` if there are no axes."""
        if self.axes is None:
            raise SpecError("no axes are known for this parameter, so it has no fans")
        return self.axes.fans(self.shape, effective=effective)


class Initializer:
    """Base of all initializers. Subclasses are frozen dataclasses, found by their name in JSON."""

    # not abc.ABC: isinstance is several times slower with it, and is called a dozen times for each parameter

    registry: ClassVar[dict[str, type[Initializer]]] = {}
    #: whether the parameter's axes must be known, to solve or to draw
    needs_axes: ClassVar[bool] = False
    #: whether it is a distribution or a constant, of elements or matrices, and may be a draw of a program
    is_law: ClassVar[bool] = True
    #: whether the values depend on the seed
    is_random: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            Initializer.registry[cls.__name__] = cls

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Initializer):
            return NotImplemented
        return self is other or self.exact[:2] == other.exact[:2]

    def __hash__(self) -> int:
        return hash(self.exact[:2])

    @functools.cached_property
    def exact(self) -> tuple[Any, ...]:
        """The class, the fields, and the signs of numbers, for caches: -0.0 equals 0.0, and gives another bit."""
        kind: Any = type(self)  # mypy takes its __hash__ for that of an instance
        fields = tuple([getattr(self, name) for name in _names(kind)])
        return kind, fields, tuple([math.copysign(1.0, value) for value in fields if isinstance(value, float)])

    def scaled(self, factor: float) -> Initializer:
        """Return the initializer whose values are these times ``factor``."""
        raise NotImplementedError

    def solve(self, site: Site) -> Initializer:
        """Return the initializer with all its numbers; raises ``SpecError`` if it does not fit the site."""
        return self

    def moments(self, site: Site) -> Moments | None:
        """Return the expected moments of the elements at ``site``; ``None`` for ``Keep`` and programs."""
        raise NotImplementedError

    def bounds(self) -> tuple[float, float]:
        """Return an interval that contains all values."""
        return (-math.inf, math.inf)

    def __mul__(self, factor: float) -> Initializer:
        return self.scaled(finite(self, "factor", factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Initializer:
        if finite(self, "divisor", divisor) == 0:
            raise SpecError(f"{type(self).__name__}: cannot be divided by 0")
        return self.scaled(1 / float(divisor))

    def __repr__(self) -> str:
        return self._text(repr)

    def __str__(self) -> str:
        """As ``repr``, with numbers cut to four significant digits."""
        return self._text(lambda value: f"{value:.4g}" if isinstance(value, float) else repr(value))

    def _text(self, number: Callable[[Any], str]) -> str:
        shown = []
        for item in _fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                shown.append(f"{item.name}={number(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def to_json(self) -> dict[str, Any]:
        """Return ``{"name": ..., field: value, ...}``; ``from_json`` reads it back exactly."""
        values = {item.name: getattr(self, item.name) for item in _fields(self)}
        return {"name": type(self).__name__, **{name: value for name, value in values.items() if value is not None}}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Initializer:
        """Build the initializer that ``to_json`` described; raises ``SpecError`` on an unknown name or field."""
        if not isinstance(data, Mapping) or "name" not in data:
            raise SpecError(f'an initializer is written as {{"name": ..., ...}}, got {shown(data)}')
        values = dict(data)
        name = values.pop("name")
        cls = Initializer.registry.get(name) if isinstance(name, str) else None
        if cls is None:
            raise SpecError(
                f"unknown initializer {shown(name)}: expected one of {', '.join(sorted(Initializer.registry))}"
                f"{did_you_mean(name, Initializer.registry)}"
            )
        known = [item.name for item in _fields(cls) if item.init]
        if set(values) - set(known):
            raise SpecError(
                f"{name}: unknown field {shown(sorted(map(str, set(values) - set(known))))}; it takes {known or 'none'}"
            )
        missing = [
            item.name for item in _fields(cls) if item.init and item.default is MISSING and item.name not in values
        ]
        if missing:
            raise SpecError(f"{name}: {', '.join(missing)} must be given")
        return cls._built(values)

    @classmethod
    def _built(cls, values: Mapping[str, Any]) -> Self:
        """The initializer with these fields, of which the names are checked."""
        return cls(**values)


def finite(owner: Initializer | type[Initializer], name: str, value: Any) -> float:
    """Return ``value`` as a float; ``SpecError`` naming the initializer and its argument if it is not finite."""
    number = _as_float(value)
    if not math.isfinite(number):
        kind = owner if isinstance(owner, type) else type(owner)
        raise SpecError(f"{kind.__name__}: {name} must be a finite number, got {shown(value)}")
    return number


def finite_number(what: str, value: Any) -> float:
    """As ``finite``, for a number that is no initializer's; ``what`` says which."""
    number = _as_float(value)
    if not math.isfinite(number):
        raise SpecError(f"{what} must be a finite number, got {shown(value)}")
    return number


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (float, int, Real)):  # Real alone asks its registry
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _fields(owner: Initializer | type[Initializer]) -> tuple[Field[Any], ...]:
    """The fields; every subclass is a dataclass, which the base itself is not."""
    return fields(owner)  # type: ignore[arg-type]


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    """The names of the fields."""
    return tuple(item.name for item in _fields(kind))


def set_number(owner: Initializer, name: str, *, above: float | None = None, least: float | None = None) -> None:
    """Check the number ``owner.name`` and store it as a float."""
    value = finite(owner, name, getattr(owner, name))
    if above is not None and not value > above:
        raise SpecError(f"{type(owner).__name__}: {name} must be greater than {above:g}, got {value!r}")
    if least is not None and not value >= least:
        raise SpecError(f"{type(owner).__name__}: {name} must be at least {least:g}, got {value!r}")
    object.__setattr__(owner, name, value)


@dataclass(frozen=True, repr=False, eq=False)
class Keep(Initializer):
    """Keep the parameter's present values, on purpose."""

    is_law = False
    is_random = False

    def scaled(self, factor: float) -> Self:
        raise SpecError("Keep() draws nothing, so it cannot be scaled")

    def moments(self, site: Site) -> None:
        return None
