"""Several initializers for the equal blocks that are packed into one parameter, such as the gates of an LSTM."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from zeta.base.gaussian import Moments
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers.base import Initializer, Site
from zeta.initializers.elementwise import ELEMENTWISE
from zeta.initializers.matrix import DeltaOrthogonal, Dirac, Identity, Orthogonal, Sparse

#: the names of blocks, in the order in which torch packs them: LSTM, GRU, attention
ORDERS: Final = (("i", "f", "g", "o"), ("r", "z", "n"), ("q", "k", "v"), ("k", "v"))
#: blocks that a text shows
_SHOWN: Final = 8
#: blocks of one parameter
MOST_BLOCKS: Final = 2**16
#: different initializers that compute the whole parameter for their blocks of it
MOST_MATRICES: Final = 64
_MATRICES: Final = (Orthogonal, DeltaOrthogonal, Identity, Dirac, Sparse)


@dataclass(frozen=True, repr=False, init=False, eq=False)
class Blocks(Initializer):
    """Each of ``n`` equal blocks along dimension ``dim`` gets an initializer of its own, in the order of the arguments.

    Blocks may have names instead, and then the order is torch's: ``i``, ``f``, ``g``, ``o`` of an LSTM, ``r``, ``z``,
    ``n`` of a GRU, ``q``, ``k``, ``v`` (or ``k``, ``v``) of an attention's packed projection. All names of one
    of these sets must be given.

    Fans and matrices are those of one block. A value is the one that the block's initializer alone would give the whole
    parameter at this place, so that ``Blocks(a, a)`` is ``a`` for elementwise initializers. A part may be any law, but
    not ``Keep()``, a program or other blocks.

    >>> from zeta.initializers import Ones, Zeros
    >>> Blocks(Zeros(), Ones(), Zeros(), Zeros()) == Blocks(i=Zeros(), f=Ones(), g=Zeros(), o=Zeros())
    True
    """

    is_law = False

    parts: tuple[Initializer, ...]
    dim: int = 0

    def __init__(self, *parts: Initializer, dim: int = 0, **named: Initializer) -> None:
        if named:
            parts = _ordered(parts, named)
        if not 2 <= len(parts) <= MOST_BLOCKS:
            raise SpecError(f"Blocks: at least two initializers are needed, and at most {MOST_BLOCKS:,}")
        for number, part in enumerate(parts):
            if not isinstance(part, Initializer) or not part.is_law:
                raise SpecError(
                    f"Blocks: block {number} must be a law such as Zeros() or Normal(0.02), got {shown(part)}"
                )
        if len({repr(part) for part in parts if isinstance(part, _MATRICES)}) > MOST_MATRICES:
            raise SpecError(f"Blocks: at most {MOST_MATRICES} different initializers of matrices, as each is costly")
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise SpecError(f"Blocks: dim must be the number of a dimension, got {shown(dim)}")
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "dim", dim)

    @functools.cached_property
    def exact(self) -> tuple[Any, ...]:
        kind, fields, _ = super().exact
        return kind, fields, tuple([part.exact for part in self.parts])

    @property
    def needs_axes(self) -> bool:  # type: ignore[override]  # of other initializers the class decides
        """Whether one of the parts needs them."""
        return any(part.needs_axes for part in self.parts)

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        """Whether one of the parts is."""
        return any(part.is_random for part in self.parts)

    @property
    def is_elementwise(self) -> bool:
        """Whether all parts are drawn element by element."""
        return all(isinstance(part, ELEMENTWISE) for part in self.parts)

    def scaled(self, factor: float) -> Blocks:
        return Blocks(*(part.scaled(factor) for part in self.parts), dim=self.dim)

    def solve(self, site: Site) -> Blocks:
        dim, within = self._within(site)
        return Blocks(*(part.solve(within) for part in self.parts), dim=dim)

    def moments(self, site: Site) -> Moments | None:
        """The moments of all elements; for the kurtosis, each part counts as symmetric about its mean."""
        _, within = self._within(site)
        moments = [found for part in self.parts if (found := part.moments(within)) is not None]
        n = len(self.parts)
        mean = sum(one.mean / n for one in moments)
        scale = max(max(one.std, abs(one.mean - mean)) for one in moments)
        if not scale:
            return Moments(mean=mean, std=0.0, kurtosis=1.0)
        # in units of the largest, whose square may leave fp64
        parts = [(one.std / scale, (one.mean - mean) / scale, one.kurtosis) for one in moments]
        variance = sum(std**2 + shift**2 for std, shift, _ in parts) / n
        fourth = sum(kurtosis * std**4 + 6 * (std * shift) ** 2 + shift**4 for std, shift, kurtosis in parts) / n
        return Moments(mean=mean, std=scale * math.sqrt(variance), kurtosis=fourth / variance**2)

    def bounds(self) -> tuple[float, float]:
        ends = [part.bounds() for part in self.parts]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def axes_of(self, axes: Axes | None) -> Axes | None:
        """The axes of a parameter with these blocks; ``axes`` are its own. ``dim`` must not be negative."""
        return _packed(axes, self.dim, len(self.parts))

    def axes_of_one(self, axes: Axes | None) -> Axes | None:
        """The axes of one block as a tensor of its own; ``axes`` are those of the parameter."""
        if axes is None:
            return None
        return replace(axes, blocks=tuple(pair for pair in axes.blocks if pair[0] != self.dim))

    def spans(self, extent: int) -> list[tuple[int, int, Initializer]]:
        """Begin, end and initializer of each block along the dimension of this extent."""
        size = extent // len(self.parts)
        return [(number * size, (number + 1) * size, part) for number, part in enumerate(self.parts)]

    def to_json(self) -> dict[str, Any]:
        return {"name": "Blocks", "parts": [part.to_json() for part in self.parts], "dim": self.dim}

    @classmethod
    def _built(cls, values: Mapping[str, Any]) -> Self:
        parts = values["parts"]
        if not isinstance(parts, list | tuple) or len(parts) > MOST_BLOCKS:
            raise SpecError(f"Blocks: parts must be a list of at most {MOST_BLOCKS:,} initializers, got {shown(parts)}")
        if any(isinstance(part, Mapping) and part.get("name") in ("Blocks", "Program") for part in parts):
            raise SpecError("Blocks: a block must be a law, and not a program or other blocks")
        return cls(*(Initializer.from_json(part) for part in parts), dim=values.get("dim", 0))

    def _within(self, site: Site) -> tuple[int, Site]:
        """The dimension, not negative, and the site with these blocks; ``SpecError`` if they do not fit."""
        ndim, n = len(site.shape), len(self.parts)
        if not -ndim <= self.dim < ndim:
            raise SpecError(f"{self}: the parameter has {ndim} dimensions, and none with the number {self.dim}")
        dim = self.dim % ndim
        if site.shape[dim] % n:
            raise SpecError(f"{self}: dimension {dim} has {site.shape[dim]} elements, which {n} does not divide")
        packed = [] if site.axes is None else [blocks for along, blocks in site.axes.blocks if along == dim]
        if packed and packed != [n]:
            raise SpecError(f"{self} has {n} blocks, but the parameter packs {packed[0]} along dimension {dim}")
        return dim, Site(shape=site.shape, axes=_packed(site.axes, dim, n))

    def _text(self, number: Any) -> str:
        parts = [part._text(number) for part in self.parts]
        if len(parts) > _SHOWN:
            parts = [*parts[: _SHOWN - 1], f"... {len(parts):,} blocks"]
        return f"Blocks({', '.join([*parts, *([f'dim={self.dim}'] if self.dim else [])])})"


def is_elementwise(initializer: Initializer) -> bool:
    """Whether each value is drawn alone, or is a constant, so that any region can be computed without the others."""
    return isinstance(initializer, ELEMENTWISE) or (isinstance(initializer, Blocks) and initializer.is_elementwise)


def laws_of(initializer: Initializer) -> tuple[Initializer, ...]:
    """The initializers of all blocks; of what has no blocks, itself."""
    return initializer.parts if isinstance(initializer, Blocks) else (initializer,)


def _packed(axes: Axes | None, dim: int, n: int) -> Axes | None:
    """The axes with ``n`` blocks along a dimension, which is not negative; as they are if they have blocks there."""
    if axes is None or dim in (*axes.batch, *(along for along, _ in axes.blocks)):
        return axes
    return replace(axes, blocks=(*axes.blocks, (dim, n)))


def _ordered(parts: tuple[Initializer, ...], named: Mapping[str, Initializer]) -> tuple[Initializer, ...]:
    order = next((order for order in ORDERS if set(order) == set(named)), None)
    if parts or order is None:
        known = "; ".join(", ".join(order) for order in ORDERS)
        begun = next((order for order in ORDERS if not parts and set(order) > set(named)), ())
        missing = ", ".join(name for name in begun if name not in named)
        given = f"{len(parts)} without a name and {', '.join(map(shown, named))}" if parts else ", ".join(named)
        raise SpecError(
            f"Blocks: give the initializers in order, or all of one of these sets of names: {known}; got {given}"
            + (f", so that {missing} {'is' if len(begun) - len(named) == 1 else 'are'} missing" if missing else "")
        )
    return tuple(named[name] for name in order)
