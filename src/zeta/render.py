"""Text for people: tables with repeated layers folded, numbers, sizes."""

from __future__ import annotations

import io
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from zeta.escaping import visible

TABLE_WIDTH: Final = 180

T = TypeVar("T")
Part = str | frozenset[int]
Group = tuple[tuple[Part, ...], Hashable, list[T]]


def fold(named: Iterable[tuple[str, Hashable, T]]) -> list[tuple[str, list[T]]]:
    """Fold items whose names differ only in whole numbers and whose second member is equal.

    Takes (name, what must agree, item); returns (folded name, items), in the order of first appearance.

    >>> fold([("h.0.w", "a", 0), ("h.1.w", "a", 1), ("h.2.w", "b", 2)])
    [('h.{0..1}.w', [0, 1]), ('h.2.w', [2])]
    """
    groups: list[Group[T]] = [(_parts(name), agreeing, [item]) for name, agreeing, item in named]
    for position in range(max((len(parts) for parts, _, _ in groups), default=0)):
        alike: dict[Hashable, list[Group[T]]] = {}
        for group in groups:
            parts = group[0]
            number = position < len(parts) and isinstance(parts[position], frozenset)
            rest = (*parts[:position], None, *parts[position + 1 :]) if number else parts
            alike.setdefault((rest, group[1]), []).append(group)
        groups = [_merged(members, position) for members in alike.values()]
    return [(".".join(map(_part_text, parts)), items) for parts, _, items in groups]


def _merged(members: list[Group[T]], position: int) -> Group[T]:
    parts, agreeing, _ = members[0]
    if len(members) > 1 and position < len(parts):
        numbers = frozenset(n for member in members for n in member[0][position] if isinstance(n, int))
        parts = (*parts[:position], numbers or parts[position], *parts[position + 1 :])
    return parts, agreeing, [item for member in members for item in member[2]]


def _parts(name: str) -> tuple[Part, ...]:
    return tuple(frozenset((int(p),)) if p.isdecimal() and p == str(int(p)) else p for p in name.split("."))


def _part_text(part: Part) -> str:
    if isinstance(part, str):
        return part
    spans: list[list[int]] = []
    for number in sorted(part):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [str(low) if low == high else f"{low}..{high}" for low, high in spans]
    return texts[0] if len(part) == 1 else "{" + ",".join(texts) + "}"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    width: int | None = None,
    expendable: Sequence[str] = (),
) -> str:
    """A plain-text table; the first column never wraps, the columns in ``right`` are aligned to the right.

    No colours and a fixed width, which only a very long name exceeds, so that a log and a terminal show the same. A
    table for a terminal of ``width`` leaves out ``expendable`` columns, the first of them first, until it fits.
    """
    shown = ([visible(cell) for cell in row] for row in rows)
    headings, right, expendable = ([*map(visible, names)] for names in (headings, right, expendable))
    columns = {heading: cells for heading, *cells in zip(headings, *shown, strict=True)}
    for heading in expendable:
        if width is None or sum(max(map(cell_len, (title, *cells))) + 3 for title, cells in columns.items()) <= width:
            break
        columns.pop(heading, None)
    return _table(list(columns), list(zip(*columns.values(), strict=True)), right)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> str:
    longest = max((cell_len(row[0]) for row in rows), default=0)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        fixed = number == 0 or heading in right
        shown.add_column(heading, overflow="fold", no_wrap=fixed, justify="right" if heading in right else "left")
    for row in rows:
        shown.add_row(*row)
    console = Console(
        file=io.StringIO(), width=max(TABLE_WIDTH, longest + 120), color_system=None, legacy_windows=False, emoji=False
    )
    console.print(shown, markup=False)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n")


def shape_text(shape: Sequence[int]) -> str:
    """``(768, 2304)`` as ``768 x 2304``; a 0-d tensor is ``scalar``."""
    return " x ".join(map(str, shape)) or "scalar"


def number_text(value: float | None) -> str:
    """Four significant digits, or nothing for ``None``."""
    return "" if value is None else f"{value:.4g}"


def range_text(values: Iterable[float]) -> str:
    """The smallest and largest of some numbers, or the one that they are; nothing for none."""
    ordered = sorted(values)
    if not ordered:
        return ""
    low, high = number_text(ordered[0]), number_text(ordered[-1])
    return low if low == high else f"{low}..{high}"


def bytes_text(count: int) -> str:
    """A size in decimal units.

    >>> bytes_text(497_759_232)
    '497.8 MB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(size, 1) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
