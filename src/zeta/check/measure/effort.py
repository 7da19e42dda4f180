"""Estimate how long the full level takes, and limit it by measuring only a sample of the items.

The sample depends on sizes only, never on a clock, so that a check gives the same results on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: called with a description of the next item, the estimated seconds done, and the estimated seconds in all
CheckProgress = Callable[[str, float, float], None]

#: limit of the estimated seconds of the full level; with the two passes of the fast level, a minute on the core below
MOST_SECONDS: Final = 40.0
# One slow core, about a third as fast as one of an EPYC 9005: seconds per call, multiplications per second, numbers
# read or written per second.
_CALL: Final = 3e-4
_MULTIPLIED: Final = 1e10
_TOUCHED: Final = 5e8


def seconds_of(*, calls: int, multiplications: float, touched: float) -> float:
    """The estimated seconds of ``calls`` calls; multiplications and touched numbers are per call.

    >>> round(seconds_of(calls=10, multiplications=1e9, touched=5e7), 3)
    2.003
    """
    return calls * (_CALL + multiplications / _MULTIPLIED + touched / _TOUCHED)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The positions of the items that are measured; the estimated seconds for these, and for all (``whole``)."""

    positions: tuple[int, ...]
    count: int
    seconds: float
    whole: float

    def remark(self, what: str) -> str | None:
        """A remark for the report; ``None`` if all items are measured."""
        if len(self.positions) == self.count:
            return None
        where = ", at equal distances from the first to the last" if self.positions else ""
        return (
            f"{what} are those of {len(self.positions):,} of {self.count:,}{where}: all would take about "
            f"{self.whole:.0f} s"
        )


def choice(costs: Sequence[float], most: float) -> Choice:
    """The largest number of equally spaced items whose costs are at most ``most`` in all.

    >>> choice([1.0] * 9, 3.0).positions
    (0, 4, 8)
    """
    whole, count = sum(costs), len(costs)
    positions = tuple(range(count))
    wanted = count
    while positions and sum(costs[position] for position in positions) > most:
        wanted = min(wanted - 1, math.ceil(wanted * 0.98))
        positions = tuple(sorted({round(i * (count - 1) / max(wanted - 1, 1)) for i in range(wanted)}))
    seconds = sum(costs[position] for position in positions)
    return Choice(positions=positions, count=count, seconds=seconds, whole=whole)


def shared_out(kinds: Sequence[Sequence[float]], most: float) -> list[Choice]:
    """A choice for each kind of items; ``most`` is divided among the kinds in proportion to their costs."""
    whole = sum(map(sum, kinds))
    part = min(max(most, 0.0) / whole, 1.0) if whole > 0 else 1.0
    return [choice(costs, math.inf if part == 1.0 else part * sum(costs)) for costs in kinds]


class Course:
    """Reports the progress of the full level, or of passes that compute the parameters."""

    def __init__(self, progress: CheckProgress | None, total: float, what: str = "full level") -> None:
        self._progress = progress
        self._total = total
        self._done = 0.0
        self._report(what)

    def take(self, what: str, seconds: float) -> None:
        """Report the beginning of an item that is estimated to take ``seconds``."""
        self._report(what)
        self._done = min(self._done + seconds, self._total)

    def _report(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._total)
