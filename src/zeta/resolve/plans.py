"""The plan: one frozen entry per parameter and buffer; it prints as a table and is exact in JSON."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Final

import msgspec
import torch

from zeta.base import dtypes
from zeta.base.process.garbage import uncollected
from zeta.base.reading import (
    LARGEST_SIZE,
    Shape,
    Size,
    Text,
    Texts,
    decode,
    encode,
    json_text,
    parse,
    repeated,
    shallow,
    shown,
)
from zeta.base.text import bytes_text, fold, number_text, shape_text, table
from zeta.errors import PlanError, ZetaError, listed
from zeta.fans import Axes, Fans
from zeta.initializers import Initializer, Keep, Program, Site
from zeta.rules import Kind

#: the value of ``format`` in JSON; raised by every change that old readers cannot read
FORMAT: Final = 2
#: the rule of a recorded value, as in ``file.py:12 in Model.__init__ (normal_, Linear)``
_PLACE: Final = re.compile(r"^(.+:\d+) in \S+ (\(.*\))$")


def _text(part: Initializer | Axes | None) -> str:
    return ascii(None if part is None else part.to_json())


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The initialization of one parameter or buffer.

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
        """The rule for a table; for a line of code, without the name of its function."""
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
        """A text of everything that decides the values and their tensor, without the rule. ``text`` may be cached."""
        tensor = (self.name, self.ties, self.shape, self.kind.value, self.persistent, self.padding_idx)
        return f"{tensor!a} {dtypes.name_of(self.dtype)} {text(self.initializer)} {text(self.axes)}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back exactly, deriving mean, std and nbytes."""
        written: dict[str, Any] = msgspec.json.decode(encode(_RowWriter().row(self)))
        return written

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Build the entry that ``to_json`` described; ``PlanError`` if it is not one."""
        try:
            return _RowReader().entry(parse(encode(data), _Row))
        except (ZetaError, TypeError, ValueError, RecursionError) as error:
            raise PlanError(f"not an entry of a plan, {shown(data)}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Bytes that one process holds, computes for that, and needs as temporary memory."""

    held: int = 0
    computed: int = 0
    temporary: int = 0

    def __add__(self, other: Cost) -> Cost:
        """The cost of both, one after the other."""
        return Cost(
            held=self.held + other.held,
            computed=self.computed + other.computed,
            temporary=max(self.temporary, other.temporary),
        )


@dataclass(frozen=True)
class Plan:
    """One entry per parameter and buffer, in the model's order. ``print(plan)`` shows it as a table.

    The plan of a sharded model also has this process's cost of each entry, which equality ignores.
    """

    entries: tuple[Entry, ...]
    costs: Mapping[str, Cost] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        twice = repeated(name for entry in self.entries for name in (entry.name, *entry.ties))
        if twice:
            raise PlanError(listed("a plan names every tensor once; these names occur again:", map(repr, twice)))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._named:
            raise KeyError(f"the plan has no parameter or buffer named {shown(name)}")
        return self._named[name]

    @functools.cached_property
    def _named(self) -> dict[str, Entry]:
        return {name: entry for entry in self.entries for name in (entry.name, *entry.ties)}

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all entries, in hexadecimal: equal for plans that give the same values to the same tensors.

        It does not depend on the names of rules. Computed on first access.
        """
        texts: dict[int, str] = {}  # by identity: equal initializers may differ in the sign of a zero

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

    @uncollected
    def to_json(self) -> str:
        """Return the plan as JSON text; ``Plan.from_json`` reads it back exactly."""
        writer = _RowWriter()
        document = {"format": FORMAT, "entries": [writer.row(entry) for entry in self.entries]}
        return json_text(document)

    @classmethod
    @uncollected
    def from_json(cls, text: str | bytes) -> Plan:
        """Build the plan that ``to_json`` described; ``PlanError`` if it is not one, or of a later format."""
        try:
            content = shallow(text)
            head = decode(content, _Head)
            if head.format not in (1, FORMAT):
                raise PlanError(f"it has format {head.format}; this zeta reads formats 1 and {FORMAT}")
            reader = _RowReader()
            return cls(tuple([reader.entry(row) for row in decode(content, _Document).entries]))
        except ZetaError as error:
            raise PlanError(f"not a plan in JSON: {error}") from error

    def with_dtype(self, dtype: torch.dtype) -> Plan:
        """Return the plan with every floating-point parameter in ``dtype``; buffers keep theirs."""
        meant = (one.dtype in dtypes.REAL and one.kind is not Kind.BUFFER for one in self.entries)
        return Plan(tuple(replace(one, dtype=dtype) if m else one for one, m in zip(self.entries, meant, strict=True)))

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows: a line for each parameter; equal lines of repeated layers are one.

        With ``width``, columns are left out until the table fits a terminal of that width.
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
            headings += ["held", "computed", "temporary"]
            held, computed, temporary = map(bytes_text, astuple(self._cost(self.entries)))
            total += f"\nthis rank: {held} held, {computed} computed, peak temporary memory {temporary}"
        right = headings[headings.index("bytes") :]
        return f"{table(headings, rows, right=right, width=width, expendable=expendable)}\n{total}"

    def _row(self, name: str, entries: Sequence[Entry]) -> tuple[str, ...]:
        """One line for entries that are equal except for numbers in their names."""
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


# -- JSON ------------------------------------------------------------------------------------------------------------


class _Row(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """An entry in JSON, for reading and writing. Fields with a default follow from the others."""

    name: Text
    ties: Texts
    shape: Shape
    dtype: Text
    kind: Kind
    rule: Text
    initializer: msgspec.Raw
    mean: float | None = None
    std: float | None = None
    nbytes: int | None = None
    axes: msgspec.Raw
    padding_idx: Size | None
    persistent: bool


class _Head(msgspec.Struct, frozen=True):
    format: int = 1  # the first format had no number


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: list[_Row]
    format: int = 1


class _RowWriter:
    """Turns entries into rows. Parts that many entries share are encoded once; the cache key distinguishes -0.0."""

    def __init__(self) -> None:
        self._axes: dict[Axes | None, msgspec.Raw] = {None: msgspec.Raw(b"null")}
        self._laws: dict[tuple[Any, ...], tuple[msgspec.Raw, float | None, float | None]] = {}
        self._dtypes: dict[torch.dtype, str] = {}

    def row(self, entry: Entry) -> _Row:
        """The entry as a row; ``PlanError`` if its mean or std is not finite."""
        shape, axes, dtype = entry.shape, entry.axes, entry.dtype
        text = encode(entry.initializer.to_json())
        law = self._laws.get((text, shape, axes))
        if law is None:
            law = self._laws[text, shape, axes] = (msgspec.Raw(text), *_mean_and_std(entry.initializer, entry.site))
        if axes not in self._axes:
            assert axes is not None
            self._axes[axes] = msgspec.Raw(encode(axes.to_json()))
        if dtype not in self._dtypes:
            self._dtypes[dtype] = dtypes.name_of(dtype)
        return _Row(
            name=entry.name,
            ties=entry.ties,
            shape=shape,
            dtype=self._dtypes[dtype],
            kind=entry.kind,
            rule=entry.rule,
            initializer=law[0],
            mean=law[1],
            std=law[2],
            nbytes=math.prod(shape) * dtype.itemsize,
            axes=self._axes[axes],
            padding_idx=entry.padding_idx,
            persistent=entry.persistent,
        )


def essences(plan: Plan) -> dict[str, bytes]:
    """Everything that decides the bytes of each entry, as text: NaN in a number would not equal itself."""
    writer = _RowWriter()
    return {entry.name: encode(writer.row(replace(entry, rule="", kind=Kind.OTHER))) for entry in plan}


class _RowReader:
    """Turns rows into entries. Parts that many rows share are checked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Initializer, Axes | None, torch.dtype]] = {}

    def entry(self, row: _Row) -> Entry:
        """The row as an entry whose values can be drawn; ``PlanError`` with its name if they cannot."""
        key = (bytes(row.initializer), bytes(row.axes), row.shape, row.dtype)
        known = self._known.get(key)
        padding = row.padding_idx
        try:
            if known is None:
                known = self._known[key] = _checked(*key)
            if padding is not None and not (row.shape and padding < row.shape[0]):
                raise PlanError(f"padding_idx is {padding}, but a tensor of shape {row.shape} has no such row")
        except ZetaError as error:
            raise PlanError(f"{shown(row.name)}: {error}") from error
        initializer, axes, dtype = known
        return Entry(
            name=row.name,
            ties=row.ties,
            shape=row.shape,
            dtype=dtype,
            kind=row.kind,
            rule=row.rule,
            initializer=initializer,
            axes=axes,
            padding_idx=padding,
            persistent=row.persistent,
        )


def _checked(
    initializer: bytes, axes: bytes, shape: tuple[int, ...], dtype: str
) -> tuple[Initializer, Axes | None, torch.dtype]:
    """The solved initializer, the axes and the dtype; ``ZetaError`` if they do not fit the shape."""
    found = dtypes.dtype_named(dtype)
    if math.prod(max(size, 1) for size in shape) * found.itemsize > LARGEST_SIZE:
        raise PlanError(f"shape {shape} in {dtype} takes more than 2^63 bytes, which no tensor has")
    roles = decode(axes, dict[str, Any] | None)  # type: ignore[arg-type]
    known = None if roles is None else Axes.from_json(roles)
    if known is not None:
        known.resolved(shape)
    site = Site(shape=shape, axes=known)
    solved = Initializer.from_json(decode(initializer, dict[str, Any])).solve(site)
    _mean_and_std(solved, site)
    return solved, known, found


def _mean_and_std(initializer: Initializer, site: Site) -> tuple[float | None, float | None]:
    moments = initializer.moments(site)
    if moments is None:
        return None, None
    if not (math.isfinite(moments.mean) and math.isfinite(moments.std)):
        raise PlanError(f"{initializer!r} has mean {moments.mean} and std {moments.std}, expected finite numbers")
    return moments.mean, moments.std
