"""The differences between two plans, parameter by parameter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from zeta.base import dtypes, html
from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.base.text import count_text, fold, number_text, shape_text, table, terminal_width
from zeta.errors import SpecError
from zeta.initializers import Constant, Keep, Normal, Program
from zeta.report.distributions import same_distribution
from zeta.resolve.plans import Entry, Plan
from zeta.rules import Kind


class Aspect(StrEnum):
    """The property in which a parameter or buffer differs."""

    MISSING = "only in one"
    ROLE = "role"  # a parameter, a buffer, a buffer that is not saved
    SHAPE = "shape"
    DTYPE = "dtype"
    TIES = "ties"
    DISTRIBUTION = "distribution"
    PADDING = "padding row"
    SECTION = "section"  # the part that is written


@dataclass(frozen=True, kw_only=True)
class Change:
    """One parameter or buffer that two plans treat differently; ``a`` or ``b`` is ``None`` where it is missing."""

    name: str
    a: Entry | None
    b: Entry | None
    aspects: tuple[Aspect, ...]

    @property
    def is_buffer(self) -> bool:
        """Whether neither plan has it as a parameter."""
        return all(entry is None or entry.kind is Kind.BUFFER for entry in (self.a, self.b))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The differences between two plans. ``same`` is true if there are none; ``print(difference)`` shows a table.

    Iterating gives each :class:`Change`, and ``len`` their number, so that a ``Difference`` is true if there is a
    change. ``unsaid`` names the buffers that only one of the plans gives values to; these are not compared.
    """

    a: str
    b: str
    changes: tuple[Change, ...]
    parameters: int
    buffers: int
    unsaid: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    @property
    def same(self) -> bool:
        """Whether both plans do the same to every parameter and buffer."""
        return not self.changes

    @property
    def summary(self) -> str:
        """One line."""
        a, b = visible(self.a), visible(self.b)
        buffers = [change for change in self.changes if change.is_buffer]
        counts = [
            f"{changed} of {total} {what}{'s' if total != 1 else ''}"
            for changed, total, what in (
                (len(self.changes) - len(buffers), self.parameters, "parameter"),
                (len(buffers), self.buffers, "buffer"),
            )
            if changed
        ]
        if not counts:
            compared = self.buffers - len(self.unsaid)
            buffers_too = f" and {count_text(compared, 'buffer')}" if compared else ""
            parameters = "the one parameter" if self.parameters == 1 else f"all {self.parameters} parameters"
            return f"{a} and {b} do the same to {parameters}{buffers_too}"
        return f"{a} differs from {b} in {' and '.join(counts)}"

    def __repr__(self) -> str:
        changes = "the same" if self.same else count_text(len(self.changes), "change")
        return f"Difference({visible(self.a)}, {visible(self.b)}: {changes})"

    def __str__(self) -> str:
        return self.text(terminal_width())

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows: the summary, and a line for each change; equal changes of repeated layers are one line.

        With ``width``, columns are left out until the table fits a terminal of that width.
        """
        lines = [self.summary]
        if self.changes:
            headings = self._headings()
            lines.append(table(headings, self._rows(), width=width, expendable=[headings[4:]]))
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        table = html.table_section(self.summary, self._headings(), self._rows())
        return html.page(table if self.changes else html.lines([self.summary]), html.lines(self._remarks()))

    def _remarks(self) -> list[str]:
        if not self.unsaid:
            return []
        names = [name for name, _ in fold((name, None, None) for name in self.unsaid)]
        return [visible(f"not compared, as only one of them gives these buffers values: {', '.join(names)}")]

    def _headings(self) -> tuple[str, ...]:
        distinct = len({self.a, self.b, "name", "what"}) == 4
        labels = (self.a, self.b) if distinct else ("A", "B")
        return ("name", "what", *labels, *(f"by ({label})" for label in labels))

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for aspect in Aspect:
            changes = [change for change in self.changes if aspect in change.aspects]
            for name, folded in fold((change.name, _cells(change, aspect), change) for change in changes):
                rules = (_rules(change.a for change in folded), _rules(change.b for change in folded))
                yield (name, aspect.value, *_cells(folded[0], aspect), *rules)

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.as_dict(), indent=1)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "same": self.same,
            "a": self.a,
            "b": self.b,
            "parameters": self.parameters,
            "buffers": self.buffers,
            "unsaid": list(self.unsaid),
            "changes": [
                {
                    "name": change.name,
                    "aspects": [aspect.value for aspect in change.aspects],
                    "a": None if change.a is None else change.a.to_json(),
                    "b": None if change.b is None else change.b.to_json(),
                }
                for change in self.changes
            ],
        }


def diff(a: Plan, b: Plan, *, names: tuple[str, str] = ("A", "B")) -> Difference:
    """Compare two plans, parameter by parameter. Distributions are compared by their numbers, not by their names.

    Two distributions are the same if their family is, and their numbers agree to 6 digits and within the rounding of
    the dtype: a ``kaiming_normal()`` equals the ``Normal`` that it solves to, and not the ``TruncatedNormal`` of its
    std. Integers must be equal. Rules and source lines are shown but not compared. Buffers that one of the plans keeps
    are not compared.

    Args:
        a: a plan, of :func:`~zeta.record`, :func:`~zeta.verbs.plan` or ``Plan.from_json``.
        b: another.
        names: what to call them.

    Raises:
        SpecError: ``a`` or ``b`` is not a plan.

    >>> from torch import nn
    >>> from zeta import Rule, Rules, plan, record
    >>> from zeta.initializers import Normal
    >>> model, recorded = record(nn.Linear, 100, 5, bias=False)
    >>> difference = diff(recorded, plan(model, Rules([Rule("weight", Normal(0.1))])))
    >>> difference.same, [change.aspects[0].value for change in difference]
    (False, ['distribution'])
    """
    for each in (a, b):
        if not isinstance(each, Plan):
            raise SpecError(f"expected a Plan, of zeta.record, zeta.plan or Plan.from_json, got {shown(each)}")
    sides = [{name: entry for entry in each for name in (entry.name, *entry.ties)} for each in (a, b)]
    shared = sides[0].keys() & sides[1].keys()
    # the other names of shared tensors, only where one plan lacks them
    compared = {entry.name for each in (a, b) for entry in each} | (sides[0].keys() ^ sides[1].keys())
    wanted = [name for name in dict.fromkeys((*sides[0], *sides[1])) if name in compared]
    changes: list[Change] = []
    unsaid: list[str] = []
    buffers = 0
    for name in wanted:
        one, other = (side.get(name) for side in sides)
        buffers += all(entry is None or entry.kind is Kind.BUFFER for entry in (one, other))
        if one is not None and other is not None and _is_unsaid(one, other):
            unsaid.append(name)
        aspects = _aspects(one, other, shared=shared)
        if aspects:
            changes.append(Change(name=name, a=one, b=other, aspects=aspects))
    return Difference(
        a=names[0],
        b=names[1],
        changes=tuple(changes),
        parameters=len(wanted) - buffers,
        buffers=buffers,
        unsaid=tuple(unsaid),
    )


def _is_unsaid(one: Entry, other: Entry) -> bool:
    """Whether exactly one of two entries keeps a buffer's values."""
    return one.kind is other.kind is Kind.BUFFER and one.kept != other.kept


def _aspects(one: Entry | None, other: Entry | None, *, shared: set[str]) -> tuple[Aspect, ...]:
    if one is None or other is None:
        return (Aspect.MISSING,)
    differs = {
        Aspect.ROLE: _role(one) != _role(other),
        Aspect.SHAPE: one.shape != other.shape,
        Aspect.DTYPE: one.dtype != other.dtype,
        # names that are in one plan only are reported as MISSING
        Aspect.TIES: _names(one) & shared != _names(other) & shared,
        Aspect.DISTRIBUTION: not _is_unsaid(one, other) and _draws_differently(one, other),
        Aspect.PADDING: one.padding_idx != other.padding_idx,
        Aspect.SECTION: not (one.kept or other.kept) and one.section != other.section,
    }
    return tuple(aspect for aspect in Aspect if differs.get(aspect))


def _draws_differently(one: Entry, other: Entry) -> bool:
    if one.shape != other.shape and any(isinstance(entry.initializer, Program) for entry in (one, other)):
        return False  # a program is made for one shape: only the shapes are reported
    return not same_distribution(one, other)


def _names(entry: Entry) -> set[str]:
    return {entry.name, *entry.ties}


# -- text ------------------------------------------------------------------------------------------------------------


def _cells(change: Change, aspect: Aspect) -> tuple[str, str]:
    """The texts for both sides; with all digits if they are equal in four digits."""
    one, other = (_cell(change.name, entry, aspect, exact=False) for entry in (change.a, change.b))
    if one == other:
        one, other = (_cell(change.name, entry, aspect, exact=True) for entry in (change.a, change.b))
    return one, other


def _cell(name: str, entry: Entry | None, aspect: Aspect, *, exact: bool) -> str:
    if entry is None:
        return ""
    match aspect:
        case Aspect.MISSING:
            return f"{shape_text(entry.shape)} {dtypes.name_of(entry.dtype)}, {entry.law_text}"
        case Aspect.ROLE:
            return _role(entry)
        case Aspect.SHAPE:
            return shape_text(entry.shape)
        case Aspect.DTYPE:
            return dtypes.name_of(entry.dtype)
        case Aspect.TIES:
            others = sorted(_names(entry) - {name})
            return f"tied to {', '.join(others)}" if others else "on its own"
        case Aspect.DISTRIBUTION:
            return repr(entry.initializer) if exact else _law_text(entry)
        case Aspect.PADDING:
            return "none" if entry.padding_idx is None else f"row {entry.padding_idx} is zero"
        case Aspect.SECTION:
            return "all of it" if entry.section is None else f"{entry.section}, the rest is kept"


def _rules(entries: Iterable[Entry | None]) -> str:
    """The rule that decided the entries; the first one, if there are several."""
    rules = list(dict.fromkeys(entry.rule_text for entry in entries if entry is not None))
    return f"{rules[0]} and others" if len(rules) > 1 else "".join(rules)


def _law_text(entry: Entry) -> str:
    """The initializer, followed by the std of its values unless the initializer's text shows it already."""
    shows_std = isinstance(entry.initializer, Constant | Normal | Keep | Program)
    return str(entry.initializer) if shows_std else f"{entry.initializer}: std {number_text(entry.std)}"


def _role(entry: Entry) -> str:
    if entry.kind is not Kind.BUFFER:
        return "parameter"
    return "buffer" if entry.persistent else "buffer, not saved"
