"""HTML for notebooks: well formed, escaped, folded, and without anything that runs or comes from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from zeta.base.html import MOST_ROWS, escaped, lines, page, section, table_section

NASTY = ["<script>alert(1)</script>", '" onclick="x', "a&b", "' x='", "</td></table>", "\x1b[31m", "\u202egnp", "a\nb"]


class Read(HTMLParser):
    """Reads HTML: its tags, their attributes and its text; tags must be closed in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.mark.parametrize("text", NASTY)
def test_all_text_is_escaped(text: str) -> None:
    made = page(
        lines([text]), section(text, lines([text])), table_section(text, (text, "b"), [(text, text)], right=(text,))
    )
    read = Read(made)
    assert set(read.tags) == {"div", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"}
    assert read.attributes == {"style", "open"}
    assert made.isprintable()
    assert len(read.cells) == 4
    assert read.cells[2] == read.cells[3] == read.cells[0]
    assert escaped(text) in made


def test_nothing_runs_and_nothing_is_fetched() -> None:
    made = table_section("t", ("a", "b"), [("1", "2")])
    assert not re.search(r"(?i)script|src=|href|url\(|@import|http", made)


def test_colours_are_those_of_the_page() -> None:
    made = page(lines(["x"], bold=True), table_section("t", ("a", "b"), [("1", "2")]))
    assert not re.search(r"#[0-9a-f]{3}|white;|black|background:(?!none)", made)
    assert set(re.findall(r"[^-]color:([^;\"]*)", made)) == {"inherit"}


def test_long_tables_are_folded_and_very_long_ones_cut() -> None:
    def made(count: int) -> str:
        return table_section("t", ("name", "n"), [(f"w{n}", str(n)) for n in range(count)])

    assert "<details open" in made(3)
    assert "<details style" in made(100)
    assert "<details open" in table_section("t", ("a",), [("x",)] * 100, unfolded=True)
    assert "more rows" not in made(MOST_ROWS)
    assert "and 7 more rows" in made(MOST_ROWS + 7)
    assert len(Read(made(MOST_ROWS + 7)).cells) == 2 * (MOST_ROWS + 1)


def test_empty_columns_are_left_out_and_long_names_too() -> None:
    read = Read(table_section("t", ("name", "empty", "n"), [("x" * 1000, "", "1"), ("y", "", "")]))
    assert [cell for cell in read.cells if "x" not in cell] == ["name", "n", "1", "y", ""]
    assert "(800 characters)" in read.cells[2]
    assert Read(table_section("t", ("name", "b"), [])).cells == ["name", "b"]
