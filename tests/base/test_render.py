"""Folded names, tables, numbers and sizes."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from zeta.base import text as rendering
from zeta.base.html import table_section
from zeta.base.text import TABLE_WIDTH, bytes_text, fold, number_text, range_text, shape_text, table

# -- fold --------------------------------------------------------------------------------------------------------------


def folded(names: Iterable[str]) -> list[str]:
    return [name for name, _ in fold((name, None, name) for name in names)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["w"], ["w"]),
        (["h.0.w"], ["h.0.w"]),
        (["h.0.w", "h.1.w"], ["h.{0..1}.w"]),
        (["h.0.w", "h.2.w"], ["h.{0,2}.w"]),
        (["h.0.w", "h.1.w", "h.3.w", "h.5.w", "h.6.w"], ["h.{0..1,3,5..6}.w"]),
        (["h.10.w", "h.9.w", "h.8.w"], ["h.{8..10}.w"]),
        (["0.0", "0.1", "1.0", "1.1"], ["{0..1}.{0..1}"]),
        # not a full grid: two names must not become four
        (["0.0", "0.1", "1.0"], ["{0..1}.0", "0.1"]),
        (["0.0", "1.1"], ["0.0", "1.1"]),
        (["h.0.w", "h.1.b"], ["h.0.w", "h.1.b"]),
        (["h.0.w", "h.1"], ["h.0.w", "h.1"]),
        # only whole numbers as Python writes them
        (["h.00.w", "h.01.w"], ["h.00.w", "h.01.w"]),
        (["h1.w", "h2.w"], ["h1.w", "h2.w"]),
        (["h.-1.w", "h.-2.w"], ["h.-1.w", "h.-2.w"]),
        (["", "."], ["", "."]),
    ],
)
def test_fold_names(names: list[str], expected: list[str]) -> None:
    assert folded(names) == expected


def test_fold_takes_names_of_any_length() -> None:
    """Python converts no text of more than 4,300 digits, and the time for two long ones would grow with the square."""
    digits = "1" * 5000
    assert folded([f"h.{digits}.w", f"h.{digits}2.w"]) == [f"h.{digits}.w", f"h.{digits}2.w"]
    assert folded(["h.1" + "0" * 17, "h.2"]) == ["h.{2,1" + "0" * 17 + "}"]
    deep = [".".join(map(str, range(first, first + 50_000))) for first in (0, 1)]
    begin = time.perf_counter()
    assert folded(deep) == deep
    assert time.perf_counter() - begin < 10  # it took minutes


CELLS = st.text(st.sampled_from("ab1.[]中é"), max_size=12)


@given(st.data())
def test_a_table_in_which_nothing_wraps_is_as_rich_draws_it(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 5))
    row = st.lists(CELLS, min_size=columns, max_size=columns)
    headings = [f"{number}{cell}" for number, cell in enumerate(data.draw(row))]
    rows = data.draw(st.lists(row, max_size=4))
    right = headings[1::2]
    assert rendering._table(headings, rows, right, None) == rendering._wrapped(headings, rows, right, TABLE_WIDTH)


def test_many_rows_take_no_minute() -> None:
    rows = [
        (f"layer{number}x.weight", "distribution", "uniform(-0.7, 0.7)", "uniform(-0.8, 0.8)")
        for number in range(20_000)
    ]
    begin = time.perf_counter()
    assert table(("name", "what", "A", "B"), rows).count("\n") == 20_001
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("numeral", ["²", "٣", "Ⅷ", "½"])
def test_fold_leaves_other_numerals_alone(numeral: str) -> None:
    assert folded([f"h.{numeral}.w", "h.1.w", "h.0.w"]) == [f"h.{numeral}.w", "h.{0..1}.w"]


def test_fold_keeps_apart_what_disagrees_and_every_item() -> None:
    named = [("h.0.w", "a", 10), ("x", "a", 11), ("h.1.w", "b", 12), ("h.2.w", "a", 13), ("h.3.w", "b", 14)]
    assert fold(named) == [("h.{0,2}.w", [10, 13]), ("x", [11]), ("h.{1,3}.w", [12, 14])]


def unfolded(name: str) -> list[str]:
    """Every name that a folded one stands for."""
    choices = []
    for part in re.findall(r"\{.*?\}|[^.]+", name):
        spans = [span.partition("..") for span in part.strip("{}").split(",")] if part[0] == "{" else []
        numbers = [str(n) for low, _, high in spans for n in range(int(low), int(high or low) + 1)]
        choices.append(numbers or [part])
    return [".".join(parts) for parts in itertools.product(*choices)]


NAMES = st.lists(
    st.lists(st.sampled_from(["0", "1", "2", "4", "11", "a", "b"]), min_size=1, max_size=4).map(".".join),
    unique=True,
    max_size=30,
)


@given(NAMES, st.integers(1, 3))
def test_folded_names_stand_for_exactly_the_names(names: list[str], classes: int) -> None:
    keys = {name: len(name) % classes for name in names}
    groups = fold((name, keys[name], name) for name in names)
    for text, items in groups:
        assert sorted(unfolded(text)) == sorted(items)
        assert len({keys[name] for name in items}) == 1
    assert sorted(name for _, items in groups for name in items) == sorted(names)
    first = [names.index(items[0]) for _, items in groups]
    assert first == sorted(first), "in the order of first appearance"


# -- table -------------------------------------------------------------------------------------------------------------


def test_a_table() -> None:
    shown = table(("name", "shape", "bytes"), [("a", "2 x 3", "24 B"), ("bias", "3", "1.2 kB")], right=("bytes",))
    assert shown == (" name   shape    bytes\n ─────────────────────\n a      2 x 3     24 B\n bias   3       1.2 kB")


@pytest.mark.parametrize("rows", [[], [("", "")]])
def test_an_empty_table_has_its_headings(rows: list[Sequence[str]]) -> None:
    lines = table(("name", "shape"), rows).splitlines()
    assert lines[0].split() == ["name", "shape"]
    assert len([line for line in lines if line.strip()]) == 2


@pytest.mark.parametrize("columns", ["10", "1000"])
def test_the_width_is_that_of_the_content_whatever_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("x" * 60, "y" * 60)]
    expected = table(("name", "other"), rows)
    monkeypatch.setenv("COLUMNS", columns)
    assert table(("name", "other"), rows) == expected
    assert ("x" * 60 in expected, "y" * 60 in expected) == (True, True)


def test_a_long_column_folds_and_loses_nothing() -> None:
    name, rule, size = "layer." * 10 + "w", "r" * 300, "123,456.7 kB"
    lines = table(("name", "rule", "bytes"), [(name, rule, size)], right=("bytes",)).splitlines()
    assert all(cell_len(line) <= TABLE_WIDTH for line in lines)
    assert name in lines[2]
    assert lines[2].endswith(size)
    assert "".join(lines).count("r") == 300 + "name rule bytes".count("r") + name.count("r")


def test_a_name_wider_than_the_table_loses_nothing() -> None:
    name = "layer." * 35 + "weight"
    shown = table(("name", "kind"), [(name, "bias")])
    assert "weight" in shown
    assert "bias" in shown


@pytest.mark.parametrize(
    "text", ["[bold]x[/bold]", "[0, 1]", "(a)", "\\[", "http://a.b/c", "2 x 3", "γ", "重み", "e\u0301"]
)
def test_cells_are_shown_as_they_are(text: str) -> None:
    lines = table(("name", "kind"), [(text, text), ("other", "other")]).splitlines()
    assert lines[2].count(text) == 2
    assert "\x1b" not in "".join(lines)
    # columns line up, wide characters being two cells
    assert cell_len(lines[2].rpartition(text)[0]) == cell_len(lines[3].rpartition("other")[0])


def test_no_emoji_appear() -> None:
    assert "user:key:item" in table(("name",), [("user:key:item",)])


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "text"), [((), "scalar"), ((3,), "3"), ((768, 2304), "768 x 2304"), ((0, 2), "0 x 2")]
)
def test_shapes(shape: tuple[int, ...], text: str) -> None:
    assert shape_text(shape) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (0.02, "0.02"), (0.123456, "0.1235"), (-12345.6, "-1.235e+04"), (float("inf"), "inf")],
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0], "1"), ([2.0, -1.0, 0.5], "-1..2"), ([0.10001, 0.10002], "0.1"), ((x for x in (3.0, 1.0)), "1..3")],
)
def test_ranges(values: Iterable[float], text: str) -> None:
    assert range_text(values) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (497_759_232, "497.8 MB"),
        (1_000_000, "1.0 MB"),
        (2 * 10**9, "2.0 GB"),
        (810 * 10**9, "810.0 GB"),
        (1_500 * 10**12, "1500.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(("count", "text"), [(999_960, "1.0 MB"), (999_999_999, "1.0 GB")])
def test_sizes_that_round_up_to_the_next_unit(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_a_long_cell_is_wrapped_in_a_narrow_terminal_and_pushes_no_column_out() -> None:
    rows = [("weight", " ".join(["word"] * 30), "1")]
    lines = table(("name", "long", "short"), rows, width=70, expendable=("short",)).splitlines()
    assert max(map(cell_len, lines)) <= 70
    assert lines[0].split() == ["name", "long", "short"]
    assert sum(line.count("word") for line in lines) == 30
    name = "x" * 60
    assert name in table(("name", "long"), [(name, "y" * 60)], width=70), "a name is never broken"


def test_a_narrow_terminal_gets_the_columns_that_fit() -> None:
    headings, rows = ("name", "long", "short"), [("weight", "x" * 50, "1"), ("bias", "y", "22")]
    assert "x" * 50 in table(headings, rows, width=80, expendable=("long",))
    narrow = table(headings, rows, width=40, expendable=("long", "short"))
    assert narrow.splitlines()[0].split() == ["name", "short"]
    assert narrow.splitlines()[-3].split() == ["bias", "22"]
    assert narrow.splitlines()[-2:] == ["left out at this width: long; text() and", "a wider terminal show all"]
    together = table(headings, rows, width=40, expendable=(("short", "long"), "no such"))
    assert together.splitlines()[0].split() == ["name"], "columns of a tuple go together"
    assert "left out" not in table(headings[:1], [("x" * 50,)], width=40, expendable=("no such",))
    assert table(headings, rows) == table(headings, rows, expendable=("long",))


@pytest.mark.parametrize("letter", ["r", "\x1b", "\u202e"])
def test_long_texts_of_any_column_are_cut(letter: str) -> None:
    long = letter * 200_000
    rows = [(f"{number}{long}", f"{number}{long}", "1") for number in range(200)]
    for made in (table(("name", "rule", "n"), rows), table(("name", "rule", "n"), rows, width=100)):
        assert len(made) < 1_000_000
        assert made.count("characters") >= 200
    assert len(table_section("t", ("name", "rule", "n"), rows)) < 500_000
    text = "a" * 300 + "b" * 300
    assert table_section("t", ("name", "rule"), [("x", text)]).count(text) == 1, "of a shorter one nothing is lost"
    assert "characters" not in table(("name", "rule"), [("x", text)])
