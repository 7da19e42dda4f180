"""How long the full level takes: said beforehand, and kept below a bound by leaving out some of many alike.

What is left out follows from sizes alone, never from a clock, so that a check repeats itself on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: called with what is looked at next, and the estimated seconds that are done, and in all
Progress = Callable[[str, float, float], None]

#: estimated seconds of the full level; with the two passes of the fast level, a minute on the slow core below
MOST_SECONDS: Final = 40.0
# One slow core, about a third of what one of an EPYC 9005 does: seconds for a call whatever its size, multiplications a
# second, numbers read or written a second.
_CALL: Final = 3e-4
_MULTIPLIED: Final = 1e10
_TOUCHED: Final = 5e8


def seconds_of(*, calls: int, multiplications: float, touched: float) -> float:
    """The estimate for so many calls, each with so many multiplications and numbers read or written.

    >>> round(seconds_of(calls=10, multiplications=1e9, touched=5e7), 3)
    2.003
    """
    return calls * (_CALL + multiplications / _MULTIPLIED + touched / _TOUCHED)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which of some items are looked at, what that takes, and what all would take, in estimated seconds."""

    positions: tuple[int, ...]
    count: int
    seconds: float
    whole: float

    def remark(self, what: str) -> str | None:
        """What to say of it; ``None`` if all are looked at."""
        if len(self.positions) == self.count:
            return None
        where = ", at equal distances from the first to the last" if self.positions else ""
        return (
            f"{what} are those of {len(self.positions):,} of {self.count:,}{where}: all would take about "
            f"{self.whole:.0f} s"
        )


def choice(costs: Sequence[float], most: float) -> Choice:
    """As many items at equal distances as cost at most ``most``, by the estimated seconds of each.

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
    """A choice from each kind of items, each kind with the part of ``most`` that it has of all costs."""
    whole = sum(map(sum, kinds))
    part = min(max(most, 0.0) / whole, 1.0) if whole > 0 else 1.0
    return [choice(costs, math.inf if part == 1.0 else part * sum(costs)) for costs in kinds]


class Course:
    """Reports the progress of the full level."""

    def __init__(self, progress: Progress | None, total: float) -> None:
        self._progress = progress
        self._total = total
        self._done = 0.0
        self._tell("full level")

    def take(self, what: str, seconds: float) -> None:
        """Begin with what is estimated to take so many seconds, all before being done."""
        self._tell(what)
        self._done = min(self._done + seconds, self._total)

    def _tell(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._total)
