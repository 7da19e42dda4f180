"""HTML for notebooks: the tables of ``text``, in sections that fold and scroll.

The HTML has no scripts, no style sheets and no outside resources. It takes font and colours from the page, so that it
is readable on a dark and on a light one. All text is untrusted and escaped here, by the functions that take it; only
``page`` and ``section`` take HTML, of the other functions, and ``figures`` takes pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress, islice
from typing import Final

from zeta.base.escaping import visible
from zeta.base.text import cells_of

#: the most rows of a table; the rest is counted
MOST_ROWS: Final = 500
#: a table with at most this many rows is unfolded at first
_OPEN: Final = 40
# the longest text in a cell that does not wrap
_SHORT: Final = 48
# a grey that is visible on black and on white; all other colours are those of the page
_LINE: Final = "1px solid rgba(128,128,128,.35)"
# notebooks have rules for tables and cells, which only the style of each cell overrides
_CELL: Final = "padding:.2em .9em .2em 0;vertical-align:top;color:inherit;background:none;border:0"
_STYLE: Final = {
    "page": "color:inherit;background:none;max-width:100%;line-height:1.4",
    "section": "margin:.2em 0",
    "title": "cursor:pointer;font-weight:600",
    "scroll": "overflow:auto;max-height:32em;margin:.3em 0",
    "table": "border-collapse:collapse;table-layout:auto;width:auto;margin:0;color:inherit;font-size:.92em",
    "th": f"{_CELL};border-bottom:1px solid currentColor;font-weight:600;white-space:nowrap",
    "td": f"{_CELL};border-bottom:{_LINE}",
    "line": "margin:.15em 0",
    "figures": "display:flex;flex-wrap:wrap;gap:.5em 2em;margin:.5em 0",
    "figure": "max-width:100%",
    "mono": "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.95em;white-space:nowrap",
    "short": "white-space:nowrap",
    "long": "white-space:normal;overflow-wrap:anywhere;min-width:16em;max-width:38em",
}


def page(*parts: str) -> str:
    """One result: sections and lines, each as HTML."""
    return f'<div style="{_STYLE["page"]}">{"".join(parts)}</div>'


def section(title: str, content: str, *, unfolded: bool = True) -> str:
    """A part that folds, under a title in plain text; ``content`` is HTML."""
    state = " open" if unfolded else ""
    return (
        f'<details{state} style="{_STYLE["section"]}"><summary style="{_STYLE["title"]}">{escaped(title)}</summary>'
        f"{content}</details>"
    )


def lines(texts: Iterable[str], *, bold: bool = False) -> str:
    """Each text in a line."""
    weight = ";font-weight:600" if bold else ""
    return "".join(f'<div style="{_STYLE["line"]}{weight}">{escaped(text)}</div>' for text in texts)


def figures(pictures: Iterable[tuple[str, str]]) -> str:
    """Pictures as SVG, each under its title, as many beside each other as have room."""
    shown = [f'<div style="{_STYLE["figure"]}">{lines([title], bold=True)}{svg}</div>' for title, svg in pictures]
    return f'<div style="{_STYLE["figures"]}">{"".join(shown)}</div>' if shown else ""


def table_section(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    unfolded: bool | None = None,
) -> str:
    """A table that folds and scrolls; its first column never wraps, the columns in ``right`` are aligned to the right.

    Of a text with hundreds of characters, the middle is left out. A short table is unfolded at first, unless
    ``unfolded`` says so. Empty columns are left out, and the last ones of very many rows.
    """
    rows = list(rows)
    filled = [number == 0 or not rows or any(row[number] for row in rows) for number in range(len(headings))]
    headings, rows = list(compress(headings, filled)), [list(compress(row, filled)) for row in rows]
    align = ["right" if heading in right else "left" for heading in headings]
    first = "".join(_cell("th", _STYLE["th"], *pair) for pair in zip(headings, align, strict=True))
    body = "".join(f"<tr>{_row(row, align)}</tr>" for row in islice(rows, MOST_ROWS))
    more = [f"and {len(rows) - MOST_ROWS:,} more rows; print() shows all"] if len(rows) > MOST_ROWS else []
    shown = (
        f'<div style="{_STYLE["scroll"]}"><table style="{_STYLE["table"]}"><thead><tr>{first}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{lines(more)}"
    )
    return section(title, shown, unfolded=len(rows) <= _OPEN if unfolded is None else unfolded)


def escaped(text: str) -> str:
    """Text for HTML, on one line, without characters that steer a terminal or turn the order of letters."""
    import html  # with a table of all entities of HTML, and here so that not each import of zeta reads it

    return html.escape(visible(text))


def _row(row: Sequence[str], align: Sequence[str]) -> str:
    name, *others = cells_of(row)
    cells = [(name, "mono"), *((text, "short" if len(text) <= _SHORT else "long") for text in others)]
    return "".join(
        _cell("td", f"{_STYLE['td']};{_STYLE[style]}", text, side)
        for (text, style), side in zip(cells, align, strict=True)
    )


def _cell(tag: str, style: str, text: str, side: str) -> str:
    return f'<{tag} style="{style};text-align:{side}">{escaped(text)}</{tag}>'
