"""The plan: one frozen entry per parameter and buffer; it prints as a table and is exact in JSON."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Final

import msgspec
import torch
from msgspec.structs import astuple, replace
from torch import nn

from zeta import recipes
from zeta.base import dtypes, html
from zeta.base.modules import check_module
from zeta.base.process.garbage import uncollected
from zeta.base.reading import decode, encode, is_file, json_text, repeated, shallow, shown
from zeta.base.spelling import did_you_mean
from zeta.base.text import bytes_text, count_text, fold, number_text, shape_text, table, terminal_width
from zeta.errors import PlanError, SpecError, ZetaError, listed
from zeta.fans import Axes
from zeta.initializers import Initializer, Program
from zeta.resolve.entries import Cost, Entry, Row, RowReader, RowWriter, text_of
from zeta.resolve.resolver import groups, overriding, unruled
from zeta.resolve.slots import changed_with, unwrap, walk
from zeta.resolve.solving import check_dtype
from zeta.rules import Kind, Rules

__all__ = ["FORMAT", "Cost", "Entry", "Plan", "essences"]

#: the value of ``format`` in JSON; raised by every change that old readers cannot read
FORMAT: Final = 2
#: the columns of a table that a narrow terminal has no room for, the first ones first; name and initializer stay
_EXPENDABLE: Final = (
    "dtype",
    "kind",
    "fan in/out",
    "temporary",
    "computed",
    "bytes",
    "mean",
    "std",
    "held",
    "shape",
    "rule",
)


@dataclass(frozen=True)
class Plan:
    """One entry per parameter and buffer, in the model's order. ``print(plan)`` shows it as a table.

    The plan of a sharded model also has this process's cost of each entry, which equality ignores.
    """

    entries: tuple[Entry, ...]
    costs: Mapping[str, Cost] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        for entry in self.entries:
            if entry.ties:
                names += entry.ties
        if len(set(names)) < len(names):
            twice = map(repr, repeated([name for entry in self.entries for name in (entry.name, *entry.ties)]))
            raise PlanError(listed("a plan names every tensor once; these names occur again:", twice))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._named:
            raise KeyError(f"the plan has no parameter or buffer named {shown(name)}{did_you_mean(name, self._named)}")
        return self._named[name]

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """All names, those of tied tensors too."""
        return frozenset([name for entry in self.entries for name in (entry.name, *entry.ties)])

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
                texts[id(part)] = text_of(part)
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
        writer = RowWriter()
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
            reader = RowReader()
            return cls(tuple([reader.entry(row) for row in decode(content, _Document).entries]))
        except ZetaError as error:
            raise PlanError(f"not a plan in JSON: {error}{_instead_of_a_path(text)}") from error

    def with_dtype(self, dtype: torch.dtype) -> Plan:
        """Return the plan with every floating-point parameter in ``dtype``; buffers keep theirs."""
        meant = (one.dtype in dtypes.REAL and one.kind is not Kind.BUFFER for one in self.entries)
        return Plan(tuple(replace(one, dtype=dtype) if m else one for one, m in zip(self.entries, meant, strict=True)))

    def override(self, rules: Rules | str, model: nn.Module) -> Plan:
        """Return this plan of ``model``, except for what ``rules`` match: the model's own initialization, except ...

        Args:
            rules: which tensors get another initializer, or the name of a recipe; a rule that never wins is an error,
                as in ``zeta.plan``.
            model: the model that this plan is of, real or on meta; rules look at its modules.

        Raises:
            PlanError: rules that never win or do not fit, or the plan is of another model.
            SpecError: ``rules`` are no ``Rules``.

        >>> from torch import nn
        >>> from zeta import Rule, record
        >>> from zeta.initializers import Zeros
        >>> model, recorded = record(lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
        >>> plan = recorded.override(Rules([Rule("1.weight", Zeros())]), model)
        >>> plan["1.weight"].initializer, plan["0.weight"] == recorded["0.weight"]
        (Zeros(), True)
        """
        check_module(model)
        inner = unwrap(model)
        rules = recipes.rules_for(rules, inner) if isinstance(rules, str) else rules
        if not isinstance(rules, Rules):
            raise SpecError(f"expected Rules([...]) or the name of a recipe, got {shown(rules)}")
        everything = groups(walk(inner))
        names = {frozenset(slot.name for slot in group) for group in everything}
        planned = {frozenset((entry.name, *entry.ties)) for entry in self.entries}
        if names != planned:
            other = sorted(", ".join(sorted(tied)) for tied in names ^ planned)
            raise PlanError(listed("this plan is not of this model; only one of them has these names and ties:", other))
        shapes = {group[0].name: group[0].shape for group in everything}
        differ = [
            f"{entry.name}: planned {shape_text(entry.shape)}, found {shape_text(shapes[entry.name])}"
            for entry in self.entries
            if entry.shape != shapes[entry.name]
        ]
        if differ:
            raise PlanError(listed("this plan is not of this model; shapes differ:", differ))
        new = {entry.name: entry for entry in overriding(rules, everything, inner)}
        follow = changed_with(group[0] for group in everything if group[0].name in new)
        for group in everything:  # these are computed from the new weight
            if id(group[0].tensor) in follow:
                new.setdefault(group[0].name, unruled(group))
        for entry in self.entries:  # the plan may be in another dtype than the model
            if entry.name in new:
                new[entry.name] = replace(new[entry.name], dtype=entry.dtype)
                check_dtype(new[entry.name].initializer, entry.dtype)
        return Plan(tuple(new.get(entry.name, entry) for entry in self.entries))

    @property
    def summary(self) -> str:
        """One line: the number of parameters, buffers, values and bytes."""
        numel = sum(entry.numel for entry in self.parameters)
        counts = (count_text(len(self.parameters), "parameter"), self._buffers, f"{numel:,} values")
        total = ", ".join((*counts, bytes_text(self.nbytes)))
        programs = sum(isinstance(entry.initializer, Program) for entry in self)
        return total + (f"; {programs} by programs, on the CPU" if programs else "")

    @property
    def _buffers(self) -> str:
        total = count_text(len(self.entries) - len(self.parameters), "buffer")
        kept = sum(_is_kept_buffer(entry) for entry in self)
        if kept == len(self.entries) - len(self.parameters):
            return f"{total} kept" if kept else total
        return f"{total} ({kept:,} kept)" if kept else total

    def __repr__(self) -> str:
        return f"Plan({self.summary})"

    def __str__(self) -> str:
        return self.text(terminal_width())

    def text(self, width: int | None = None, *, buffers: bool = False) -> str:
        """What ``print`` shows: a line for each parameter; equal lines of repeated layers are one.

        Buffers that are kept are only counted, unless ``buffers`` is true. With ``width``, columns are left out until
        the table fits a terminal of that width; ``print`` takes that of the terminal it writes to.
        """
        headings, rows, right = self._cells(entry for entry in self if buffers or not _is_kept_buffer(entry))
        shown = table(headings, rows, right=right, width=width, expendable=_EXPENDABLE)
        return "\n".join([shown, *self._totals])

    def _repr_html_(self) -> str:
        title, *more = self._totals
        headings, rows, right = self._cells(entry for entry in self if not _is_kept_buffer(entry))
        parts = [html.table_section(title, headings, rows, right=right), html.lines(more)]
        if kept := [entry for entry in self if _is_kept_buffer(entry)]:
            headings, rows, right = self._cells(kept)
            title = f"{count_text(len(kept), 'buffer')} kept"
            parts.append(html.table_section(title, headings, rows, right=right, unfolded=False))
        return html.page(*parts)

    @property
    def _totals(self) -> list[str]:
        """The lines below the table."""
        if self.costs is None:
            return [self.summary]
        held, computed, temporary = map(bytes_text, astuple(self._cost(self.entries)))
        return [self.summary, f"this rank: {held} held, {computed} computed, peak temporary memory {temporary}"]

    def _cells(self, entries: Iterable[Entry]) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
        """The headings and rows of the table, and the headings of numbers."""
        named = (
            (entry.name, (entry.shape, entry.dtype, entry.kind, entry.rule, entry.initializer, entry.section), entry)
            for entry in entries
        )
        headings = ["name", "shape", "dtype", "kind", "initializer", "mean", "std", "fan in/out", "rule", "bytes"]
        headings += [] if self.costs is None else ["held", "computed", "temporary"]
        rows = [self._row(name, entries) for name, entries in fold(named)]
        return headings, rows, headings[headings.index("bytes") :]

    def _row(self, name: str, entries: Sequence[Entry]) -> tuple[str, ...]:
        """One line for entries that are equal except for numbers in their names."""
        first = entries[0]
        costs = () if self.costs is None else astuple(self._cost(entries))
        return (
            name,
            shape_text(first.shape),
            dtypes.name_of(first.dtype),
            first.kind.value,
            first.law_text,
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


def _instead_of_a_path(given: object) -> str:
    """The end of a message about what is no JSON: what to write if it is the path of a file; or nothing."""
    if isinstance(given, PathLike):
        given = os.fspath(given)
    elif not isinstance(given, str) or not (given.endswith(".json") or is_file(Path(given))):
        return ""
    return f"; from_json takes the text of a file: Path({shown(given)}).read_text()"


def _is_kept_buffer(entry: Entry) -> bool:
    return entry.kind is Kind.BUFFER and entry.kept


# -- JSON ------------------------------------------------------------------------------------------------------------


class _Head(msgspec.Struct, frozen=True):
    format: int = 1  # the first format had no number


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: list[Row]
    format: int = 1


def essences(plan: Plan) -> dict[str, bytes]:
    """Everything that decides the bytes of each entry, as text: NaN in a number would not equal itself."""
    writer = RowWriter()
    return {entry.name: encode(writer.row(replace(entry, rule="", kind=Kind.OTHER))) for entry in plan}
