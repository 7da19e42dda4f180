"""The report that the verbs return: what was written, compared with what was planned."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from zeta.base import html
from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.base.text import bytes_text, count_text, fold, number_text, range_text, table, terminal_width
from zeta.compute.stream.random import STREAM_VERSION
from zeta.report.digests import Claim, Digest
from zeta.report.measuring import Measured

_HEADINGS: Final = ("name", "planned mean", "mean", "planned std", "std", "min", "max", "values", "verdict")
#: the columns that a narrow terminal has no room for, the first ones first; name and verdict stay
_EXPENDABLE: Final = ("values", ("min", "max"), "planned std", "planned mean", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written. ``ok`` is true if nothing deviates from the plan; ``print(report)`` shows a table.

    ``kept`` are the tensors that stay as they were, of ``kept_nbytes`` bytes in all: the plan keeps them, or
    ``materialize_`` found that they have memory. ``partial``: tensors are sharded, and all other figures describe the
    local shards of this process only, without communication. ``backend_problems`` says why backends faster than
    ``backend`` could not be used. ``resumed`` is the number of bytes of an interrupted ``save`` that were found to be
    correct and were not written again. ``digest`` is what all processes that share a model must agree on; ``confirmed``
    is true if they compared it and it is equal. ``on_meta`` are the tensors that still have no memory, as ``only=``
    leaves them out.
    """

    seed: int
    measured: Sequence[Measured]
    kept: tuple[str, ...]
    nbytes: int
    kept_nbytes: int = 0
    seconds: float
    backend: str
    claim: Claim = field(repr=False, compare=False)
    backend_problems: tuple[str, ...] = ()
    stream: int = field(default=STREAM_VERSION)
    partial: bool = False
    confirmed: bool = False
    resumed: int = 0
    on_meta: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Measured]:
        return iter(self.measured)

    def __getitem__(self, name: str) -> Measured:
        for item in self.measured:
            if item.name == name:
                return item
        close = did_you_mean(name, (item.name for item in self.measured))
        raise KeyError(f"the report has no parameter named {shown(name)}{close}")

    @property
    def digest(self) -> Digest:
        """What was asked for, and which shards this process holds; computed on first access."""
        return self.claim.digest

    @property
    def flagged(self) -> tuple[Measured, ...]:
        """The parameters that deviate from the plan."""
        return tuple(item for item in self.measured if not item.ok)

    @property
    def ok(self) -> bool:
        """Whether nothing deviates from the plan."""
        return not self.flagged

    @property
    def summary(self) -> str:
        """One line."""
        count = sum(item.count for item in self.measured)
        kept = f", {len(self.kept)} kept ({bytes_text(self.kept_nbytes)})" if self.kept else ""
        resumed = f", {bytes_text(self.resumed)} of it found from an interrupted run" if self.resumed else ""
        on_meta = f", {count_text(len(self.on_meta), 'tensor')} still on meta" if self.on_meta else ""
        verdict = self._verdict + (", and the processes agree" if self.confirmed else "") + on_meta
        part = " of this process's part" if self.partial else ""
        return (
            f"{count_text(len(self.measured), 'tensor')} written{kept}: {count:,} values{part}, "
            f"{bytes_text(self.nbytes)} in "
            f"{self.seconds:.1f} s{resumed} "
            f"(seed {self.seed}, stream {self.stream}, {self.backend}); {verdict}"
        )

    @property
    def _verdict(self) -> str:
        return "all as planned" if self.ok else f"{len(self.flagged)} NOT as planned"

    def __repr__(self) -> str:
        written = f"{count_text(len(self.measured), 'tensor')} written, {bytes_text(self.nbytes)}"
        return f"Report({written}, seed {self.seed}, {self._verdict})"

    def __str__(self) -> str:
        return self.text(terminal_width())

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows: a line for each parameter, what deviates from the plan, and the summary.

        With ``width``, columns are left out until the table fits a terminal of that width.
        """
        shown = table(_HEADINGS, self._rows(), right=("values",), width=width, expendable=_EXPENDABLE)
        return "\n".join([shown, *self.flags(), *self._problems(), self.summary])

    def _repr_html_(self) -> str:
        return html.page(
            html.lines(self.flags(), bold=True),
            html.table_section(self.summary, _HEADINGS, self._rows(), right=("values",)),
            html.lines(self._problems()),
        )

    def _problems(self) -> list[str]:
        return [visible(f"better backend, not usable: {problem}") for problem in self.backend_problems]

    def _rows(self) -> list[tuple[str, ...]]:
        named = ((item.name, (item.planned_mean, item.planned_std, item.ok), item) for item in self.measured)
        folded = ((name, items, [item for item in items if item.count]) for name, items in fold(named))
        return [
            (
                name,
                number_text(items[0].planned_mean),
                range_text(item.mean for item in here),
                number_text(items[0].planned_std),
                range_text(item.std for item in here),
                number_text(min((item.low for item in here), default=None)),
                number_text(max((item.high for item in here), default=None)),
                f"{sum(item.count for item in items):,}",
                "ok" if items[0].ok else "FLAGGED",
            )
            for name, items, here in folded
        ]

    def flags(self) -> list[str]:
        """What deviates from the plan, one line each."""
        return [visible(f"{item.name}: {finding}") for item in self.flagged for finding in item.findings]

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.as_dict(), indent=1)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; what is not finite becomes text."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "stream": self.stream,
            "backend": self.backend,
            "backend_problems": list(self.backend_problems),
            "nbytes": self.nbytes,
            "partial": self.partial,
            "confirmed": self.confirmed,
            "resumed": self.resumed,
            "seconds": self.seconds,
            "kept": list(self.kept),
            "kept_nbytes": self.kept_nbytes,
            "on_meta": list(self.on_meta),
            "digest": self.digest.as_dict(),
            "parameters": [
                {
                    key: value if not isinstance(value, float) or math.isfinite(value) else str(value)
                    for key, value in item.__dict__.items()
                }
                for item in self.measured
            ],
        }
