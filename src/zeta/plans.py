"""The plan: one frozen entry per parameter and buffer, readable, and exact through JSON."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Final

import torch

from zeta import dtypes
from zeta.errors import PlanError
from zeta.fans import Axes, Fans
from zeta.initializers import Initializer, Keep, Program, Site
from zeta.render import bytes_text, fold, number_text, shape_text, table
from zeta.rules import Kind

#: ``file.py:12 in Model.__init__ (normal_, Linear)``, as a recording names what determined a value
_PLACE: Final = re.compile(r"^(.+:\d+) in \S+ (\(.*\))$")


def _text(part: Initializer | Axes | None) -> str:
    return ascii(None if part is None else part.to_json())


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one parameter or buffer gets.

    ``name`` is canonical and decides the values; ``ties`` are the other names of the same tensor. ``mean`` and ``std``
    are those expected of the drawn values, ``None`` for ``Keep()``. ``fans`` are shown where the parameter has them.
    """

    name: str
    ties: tuple[str, ...] = ()
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Kind
    rule: str
    initializer: Initializer
    axes: Axes | None = None
    padding_idx: int | None = None
    persistent: bool = True

    @property
    def site(self) -> Site:
        """The shape and axes, as the initializer wants them."""
        return Site(shape=self.shape, axes=self.axes)

    @property
    def fans(self) -> Fans | None:
        """The fans, or ``None`` where the parameter has none."""
        return None if self.axes is None else self.axes.fans(self.shape)

    @property
    def mean(self) -> float | None:
        """The expected mean of the drawn elements."""
        moments = self.initializer.moments(self.site)
        return None if moments is None else moments.mean

    @property
    def std(self) -> float | None:
        """The expected standard deviation of the drawn elements."""
        moments = self.initializer.moments(self.site)
        return None if moments is None else moments.std

    @property
    def rule_text(self) -> str:
        """The rule for a table: of a line of code, without the function that it is in."""
        return _PLACE.sub(r"\1 \2", self.rule)

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes."""
        return self.numel * self.dtype.itemsize

    @property
    def kept(self) -> bool:
        """Whether nothing is written."""
        return isinstance(self.initializer, Keep)

    def identity(self, text: Callable[[Initializer | Axes | None], str] = _text) -> str:
        """Everything that decides values, and what gets them; not by which rule. ``text`` may remember what it gave."""
        tensor = (self.name, self.ties, self.shape, self.kind.value, self.persistent, self.padding_idx)
        return f"{tensor!a} {dtypes.name_of(self.dtype)} {text(self.initializer)} {text(self.axes)}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back exactly, deriving mean, std and nbytes."""
        return {
            "name": self.name,
            "ties": list(self.ties),
            "shape": list(self.shape),
            "dtype": dtypes.name_of(self.dtype),
            "kind": self.kind.value,
            "rule": self.rule,
            "initializer": self.initializer.to_json(),
            "mean": self.mean,
            "std": self.std,
            "nbytes": self.nbytes,
            "axes": None if self.axes is None else self.axes.to_json(),
            "padding_idx": self.padding_idx,
            "persistent": self.persistent,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Build the entry that ``to_json`` described."""
        name, ties, shape, rule, row = (data[key] for key in ("name", "ties", "shape", "rule", "padding_idx"))
        if not all(isinstance(text, str) for text in (name, *ties, rule, data["dtype"])) or isinstance(ties, str):
            raise PlanError(f"name, ties, rule and dtype of {name!r} must be texts")
        if not all(isinstance(size, int) and size >= 0 for size in (*shape, 0 if row is None else row)):
            raise PlanError(f"shape and padding_idx of {name!r} must be whole numbers, got {shape!r} and {row!r}")
        return cls(
            name=name,
            ties=tuple(ties),
            shape=tuple(shape),
            dtype=dtypes.dtype_named(data["dtype"]),
            kind=Kind(data["kind"]),
            rule=rule,
            initializer=Initializer.from_json(data["initializer"]),
            axes=None if data["axes"] is None else Axes.from_json(data["axes"]),
            padding_idx=row,
            persistent=bool(data["persistent"]),
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one process holds, computes for that, and needs beside, in bytes."""

    held: int = 0
    computed: int = 0
    temporary: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(
            held=self.held + other.held,
            computed=self.computed + other.computed,
            temporary=max(self.temporary, other.temporary),
        )


@dataclass(frozen=True)
class Plan:
    """One entry per parameter and buffer, in the model's order. ``print(plan)`` shows it as a table.

    The plan of a sharded model also has what each entry costs this process; it is the same plan all the same.
    """

    entries: tuple[Entry, ...]
    costs: Mapping[str, Cost] | None = field(default=None, compare=False, repr=False)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._named:
            raise KeyError(f"the plan has no parameter or buffer named {name!r}")
        return self._named[name]

    @functools.cached_property
    def _named(self) -> dict[str, Entry]:
        return {name: entry for entry in self.entries for name in (entry.name, *entry.ties)}

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all entries, in hexadecimal: equal for plans that give the same values to the same tensors.

        The names of rules are left out. Computed when it is first asked for.
        """
        texts: dict[int, str] = {}  # by identity: equal ones may differ in the sign of a zero

        def text(part: Initializer | Axes | None) -> str:
            if id(part) not in texts:
                texts[id(part)] = _text(part)
            return texts[id(part)]

        digest = hashlib.blake2b(digest_size=16)
        for entry in self.entries:
            digest.update(f"{entry.identity(text)}\n".encode("ascii"))
        return digest.hexdigest()

    @property
    def parameters(self) -> tuple[Entry, ...]:
        """The entries that are not buffers."""
        return tuple(entry for entry in self.entries if entry.kind is not Kind.BUFFER)

    @property
    def nbytes(self) -> int:
        """The bytes of all entries, shared tensors once."""
        return sum(entry.nbytes for entry in self.entries)

    def to_json(self) -> str:
        """Return the plan as JSON text; ``Plan.from_json`` reads it back exactly."""
        return json.dumps({"entries": [entry.to_json() for entry in self.entries]}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Build the plan that ``to_json`` described; ``PlanError`` if it is not one."""
        try:
            return cls(tuple(Entry.from_json(entry) for entry in json.loads(text)["entries"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"not a plan in JSON: {error}") from error

    def with_dtype(self, dtype: torch.dtype) -> Plan:
        """Return the plan with every floating-point entry in ``dtype``."""
        entries = (replace(e, dtype=dtype) if e.dtype in dtypes.REAL else e for e in self.entries)
        return Plan(tuple(entries))

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows: a line for each parameter, repeated layers folded.

        With ``width``, columns are left out until the table fits a terminal of so many columns.
        """
        named = (
            (entry.name, (entry.shape, entry.dtype, entry.kind, entry.rule, entry.initializer), entry) for entry in self
        )
        headings = ["name", "shape", "dtype", "kind", "initializer", "mean", "std", "fan in/out", "rule", "bytes"]
        expendable = ("mean", "dtype", "fan in/out", "rule", "kind", "bytes")
        rows = [self._row(name, entries) for name, entries in fold(named)]
        numel = sum(entry.numel for entry in self.parameters)
        buffers = len(self.entries) - len(self.parameters)
        total = f"{len(self.parameters)} parameters, {buffers} buffers, {numel:,} values, {bytes_text(self.nbytes)}"
        programs = sum(isinstance(entry.initializer, Program) for entry in self)
        total += f"; {programs} by programs, on the CPU" if programs else ""
        if self.costs is not None:
            headings += ["held", "computed", "beside"]
            held, computed, beside = map(bytes_text, astuple(self._cost(self.entries)))
            total += f"\nthis rank: {held} held, {computed} computed, at most {beside} beside at a time"
        right = headings[headings.index("bytes") :]
        return f"{table(headings, rows, right=right, width=width, expendable=expendable)}\n{total}"

    def _row(self, name: str, entries: Sequence[Entry]) -> tuple[str, ...]:
        """One line for entries that differ in a number of their names only."""
        first = entries[0]
        costs = () if self.costs is None else astuple(self._cost(entries))
        return (
            name,
            shape_text(first.shape),
            dtypes.name_of(first.dtype),
            first.kind.value,
            str(first.initializer),
            number_text(first.mean),
            number_text(first.std),
            "" if first.fans is None else f"{first.fans.fan_in}/{first.fans.fan_out}",
            first.rule_text + (f" (tied: {', '.join(first.ties)})" if first.ties else ""),
            bytes_text(sum(entry.nbytes for entry in entries)),
            *map(bytes_text, costs),
        )

    def _cost(self, entries: Iterable[Entry]) -> Cost:
        assert self.costs is not None
        return functools.reduce(Cost.__add__, (self.costs[entry.name] for entry in entries), Cost())
