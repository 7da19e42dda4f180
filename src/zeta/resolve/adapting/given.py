"""What a model gets from a checkpoint: the result of pairing the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from zeta.resolve.adapting.arrays import Array, Stored
from zeta.resolve.fitting import Fit
from zeta.resolve.plans import Entry

Outcome = Literal["loaded", "grown"]


class Given(Struct, frozen=True, kw_only=True, eq=False):
    """Array for a tensor, or for the places ``spans`` of it along ``dim``, in their order."""

    values: Array
    outcome: Outcome
    dim: int = 0
    spans: tuple[tuple[int, int], ...] | None = None

    @property
    def tensor(self) -> str | None:
        """The name in the checkpoint, if these are all elements of one tensor there, in its order."""
        ordered = self.spans is None or [*self.spans] == sorted(self.spans)
        return self.values.name if isinstance(self.values, Stored) and ordered else None


class Adaption(Struct, frozen=True, kw_only=True, eq=False):
    """The fit of a model and a plan of what is drawn, and what the checkpoint gives of the rest, by name.

    ``unused`` are tensors of the checkpoint that nothing in the model takes, which was allowed. ``ties`` have two of
    the checkpoint's for one of the model, which must be equal. ``preserving`` says whether all that was grown leaves
    the model's function as it is, up to rounding if ``exact`` is false; ``against``, what is known against it.
    """

    fit: Fit
    given: Mapping[str, Given]
    unused: tuple[str, ...]
    ties: tuple[tuple[str, Array, Array], ...]
    preserving: bool
    exact: bool
    against: tuple[str, ...] = ()

    @property
    def initialized(self) -> tuple[Entry, ...]:
        """The entries of which everything is drawn."""
        return tuple(e for e in self.fit.entries if not e.kept and e.section is None)
