"""Text for people: tables, in which equal rows of repeated layers are one row; numbers and sizes."""

from __future__ import annotations

import io
import os
import sys
import textwrap
from collections.abc import Hashable, Iterable, Sequence
from typing import Final, TypeVar

from zeta.base.escaping import visible

TABLE_WIDTH: Final = 180
#: characters of a name, the first text of a row, and of any other, such as a finding's advice; of a longer one, the
#: middle is left out
_LONGEST_NAME: Final = 300
#: joined names before a reason
_MOST_NAMES: Final = 8
_LONGEST_TEXT: Final = 600
# characters in a line of a notebook's output, in a window of usual width
_NOTEBOOK_WIDTH: Final = 110
# cells between two columns, and that of a column whose longer texts are wrapped to fit a terminal
_GAP: Final = 3
_WRAPPED: Final = 44
# cells that are left for all other columns, below which they are not wrapped to fit a terminal
_NARROWEST: Final = 30
_LEFT_OUT: Final = "left out at this width: {names}; text() and a wider terminal show all"
#: rows up to which long cells wrap, which takes a millisecond for each row; of more rows, their middle is left out
_MOST_WRAPPED: Final = 1000
_LONGEST_CELL: Final = 60
#: digits of a whole number in a name; more are text, as Python converts thousands of digits slowly or not at all
_MOST_DIGITS: Final = 18
#: places at which names may differ to be joined; the time grows with the square
_MOST_PLACES: Final = 16

T = TypeVar("T")
NamePart = str | frozenset[int]
#: the parts of a name, and the positions of the items that have it
Group = tuple[tuple[NamePart, ...], tuple[int, ...]]


def fold(named: Iterable[tuple[str, Hashable, T]]) -> list[tuple[str, list[T]]]:
    """Join items whose names differ only in whole numbers and whose second member is equal.

    Takes (name, what must be equal, item); returns (joined name, items), in the order of first appearance.

    >>> fold([("h.0.w", "a", 0), ("h.1.w", "a", 1), ("h.2.w", "b", 2)])
    [('h.{0..1}.w', [0, 1]), ('h.2.w', [2])]
    """
    listed = [(_parts(name), agreeing, item) for name, agreeing, item in named]
    alike: dict[Hashable, list[int]] = {}
    for number, (parts, agreeing, _) in enumerate(listed):
        words = tuple(part if isinstance(part, str) else None for part in parts)
        alike.setdefault((words, agreeing), []).append(number)
    # only items in the same group can be joined
    groups = [group for numbers in alike.values() for group in _folded([(listed[n][0], (n,)) for n in numbers])]
    return [
        (".".join(map(_part_text, parts)), [listed[number][2] for number in numbers])
        for parts, numbers in sorted(groups, key=lambda group: group[1][0])
    ]


def by_reason(problems: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason, with the names that it holds for, in the order of the first.

    >>> by_reason([("h.0.weight", "is on meta"), ("scale", "is lazy"), ("h.1.weight", "is on meta")])
    ['h.{0..1}.weight: is on meta', 'scale: is lazy']
    """
    names: dict[str, list[str]] = {}
    for name, reason in problems:
        names.setdefault(reason, []).append(name)
    return [f"{_several(each)}: {reason}" for reason, each in names.items()]


def _several(names: list[str]) -> str:
    known = fold((name, None, name) for name in names)
    rest = sum(len(each) for _, each in known[_MOST_NAMES:])
    return ", ".join(name for name, _ in known[:_MOST_NAMES]) + (f" and {rest} more" if rest else "")


def _folded(groups: list[Group]) -> list[Group]:
    """Join groups with the same words: place by place, those that differ at this place only."""
    if len(groups) == 1:
        return groups
    whole = groups[0][0]
    places = [
        place for place, parts in enumerate(zip(*(parts for parts, _ in groups), strict=True)) if len({*parts}) > 1
    ]
    if len(places) > _MOST_PLACES:
        return groups
    short = [(tuple(parts[place] for place in places), numbers) for parts, numbers in groups]
    for position in range(len(places)):
        alike: dict[Hashable, list[Group]] = {}
        for parts, numbers in short:
            alike.setdefault((parts[:position], parts[position + 1 :]), []).append((parts, numbers))
        short = [_merged(members, position) for members in alike.values()]
    if not places:  # the same name again
        short = [_merged(short, 0)]
    return [(_put(whole, places, parts), numbers) for parts, numbers in short]


def _merged(members: list[Group], position: int) -> Group:
    parts = members[0][0]
    if len(members) > 1 and parts:
        together = frozenset(n for other, _ in members for n in other[position] if isinstance(n, int))
        parts = (*parts[:position], together, *parts[position + 1 :])
    return parts, tuple(number for _, numbers in members for number in numbers)


def _put(whole: tuple[NamePart, ...], places: Sequence[int], parts: Sequence[NamePart]) -> tuple[NamePart, ...]:
    """``whole`` with ``parts`` at ``places``."""
    changed = list(whole)
    for place, part in zip(places, parts, strict=True):
        changed[place] = part
    return tuple(changed)


def _parts(name: str) -> tuple[NamePart, ...]:
    return tuple(frozenset((int(part),)) if _is_number(part) else part for part in name.split("."))


def _is_number(part: str) -> bool:
    return part.isdecimal() and len(part) <= _MOST_DIGITS and part == str(int(part))


def _part_text(part: NamePart) -> str:
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
    expendable: Sequence[str | tuple[str, ...]] = (),
) -> str:
    """A plain-text table; the first column never wraps, the columns in ``right`` are aligned to the right.

    It has no colours and a fixed width, so that a log and a terminal show the same. Only a very long name exceeds the
    width; of a text with hundreds of characters, and of the long cells of a table with over a thousand rows, the middle
    is left out. With ``width``, those ``expendable`` columns are left out that have no room, the first ones first and
    those of a tuple together, and a line says which; if the table still does not fit, long cells are wrapped.
    """
    from rich.cells import cell_len  # imported when something is shown: the import takes longer than all of zeta's

    shown = map(cells_of, rows)
    headings, right = ([*map(visible, names)] for names in (headings, right))
    groups = [[*map(visible, (group,) if isinstance(group, str) else group)] for group in expendable]
    columns = {heading: cells for heading, *cells in zip(headings, *shown, strict=True)}

    def needed(heading: str, cells: Sequence[str]) -> int:
        """The width of a column; what can be wrapped need not be shown on one line."""
        longest = max(map(cell_len, (heading, *cells)))
        return longest if heading in right or heading == headings[0] else min(longest, _WRAPPED)

    left_out: list[str] = []
    if width is not None:
        widths = {heading: needed(heading, cells) + _GAP for heading, cells in columns.items()}
        room = width - sum(widths.values()) + sum(widths.get(heading, 0) for group in groups for heading in group)
        for group in reversed(groups):
            taken = sum(widths.get(heading, 0) for heading in group)
            if taken > room:
                left_out += group
            else:
                room -= taken
    kept = [heading for heading in columns if heading not in left_out]
    shown_table = _table(kept, list(zip(*(columns[heading] for heading in kept), strict=True)), right, width)
    names = ", ".join(heading for heading in columns if heading in left_out)
    return "\n".join(
        [shown_table, *textwrap.wrap(_LEFT_OUT.format(names=names), width)] if names and width else [shown_table]
    )


def cells_of(row: Sequence[str]) -> list[str]:
    """The texts of a row, without characters that steer a terminal, and of long ones the two ends."""
    most = (_LONGEST_NAME, *[_LONGEST_TEXT] * (len(row) - 1))
    # cut first: a file may have texts of a million characters
    return [brief(visible(brief(text, longest)), longest) for text, longest in zip(row, most, strict=True)]


def brief(name: str, longest: int = _LONGEST_NAME) -> str:
    """The name or text; if it is too long, its two ends, and the number of characters between them."""
    if len(name) <= longest:
        return name
    end = longest // 3
    return f"{name[:end]}...({len(name) - 2 * end:,} characters)...{name[-end:]}"


def in_notebook() -> bool:
    """Whether the output goes to a notebook."""
    return type(sys.stdout).__module__.startswith("ipykernel.")


def terminal_width() -> int | None:
    """The width of the terminal or notebook that ``print`` writes to; ``None`` if it writes to something else."""
    if in_notebook():
        return _NOTEBOOK_WIDTH
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
    except (AttributeError, OSError, ValueError):  # no stdout, or one that is no file
        return None


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], width: int | None) -> str:
    from rich.cells import cell_len

    longest = max((cell_len(row[0]) for row in rows), default=0)
    if width is None or width < longest + _NARROWEST:
        width = max(TABLE_WIDTH, longest + 120)
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    if sum(widths) + _GAP * len(widths) > width:
        if len(rows) <= _MOST_WRAPPED:
            return _wrapped(headings, rows, right, width)
        rows = [(row[0], *(brief(cell, _LONGEST_CELL) for cell in row[1:])) for row in rows]
        widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=True)]
    # where nothing wraps, the same as Rich draws
    sides = [str.rjust if heading in right else str.ljust for heading in headings]
    lines = [
        " "
        + (" " * _GAP).join(
            pad(cell, across - cell_len(cell) + len(cell)) for pad, across, cell in zip(sides, widths, row, strict=True)
        )
        for row in (headings, *rows)
    ]
    rule = " " + "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(widths) + _GAP * (len(widths) - 1))
    return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:])).strip("\n")


def _wrapped(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        fixed = number == 0 or heading in right
        shown.add_column(heading, overflow="fold", no_wrap=fixed, justify="right" if heading in right else "left")
    for row in rows:
        shown.add_row(*row)
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        legacy_windows=False,
        emoji=False,
        force_jupyter=False,  # or a notebook gets the table as an output, and the text stays empty
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
    """The smallest and largest of some numbers as a range, or one number if both look equal; empty for no numbers."""
    ordered = sorted(values)
    if not ordered:
        return ""
    low, high = number_text(ordered[0]), number_text(ordered[-1])
    return low if low == high else f"{low}..{high}"


def count_text(count: int, noun: str) -> str:
    """A number of things.

    >>> count_text(1, "buffer"), count_text(1200, "buffer")
    ('1 buffer', '1,200 buffers')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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
