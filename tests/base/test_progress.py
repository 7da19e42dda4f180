"""Progress: bars in terminals and notebooks, functions of the caller, and nothing where nobody looks."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.base import progress
from zeta.base.escaping import visible
from zeta.base.progress import Done, bar, progress_of, short
from zeta.errors import SpecError
from zeta.initializers import Normal, Orthogonal

RULES = Rules([Rule("0.weight", Orthogonal()), Rule("*", Normal(0.5))])


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 300), nn.Linear(300, 32))


def nothing(*_: object) -> None:
    pass


# -- which one ---------------------------------------------------------------------------------------------------------


def test_a_function_is_called_itself() -> None:
    with progress_of(nothing) as tell:
        assert tell is nothing
    for off in (None, False):
        with progress_of(off) as tell:
            assert tell is None


@pytest.mark.parametrize(("unit", "takes"), [("B", "name, bytes_done"), ("s", "what, seconds_done")])
def test_what_is_no_progress(unit: Any, takes: str) -> None:
    with (
        pytest.raises(SpecError, match=rf"progress must be a function \({takes}.*, or True for a bar, got 5"),
        progress_of(5, unit),  # type: ignore[arg-type]
    ):
        pass


def test_nothing_is_shown_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    zeta.init_(model(), RULES, 0, progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [80, 100, 200])
@pytest.mark.parametrize("unit", ["B", "s"])
def test_a_bar_in_a_terminal_has_a_fixed_width(unit: Any, columns: int) -> None:
    before = set()
    for done, name in ((10, "short"), (500, "long." * 50 + "weight"), (900, "\x1b[31mred [red]")):
        stream = io.StringIO()
        terminal = Console(file=stream, force_terminal=True, width=columns, color_system=None, legacy_windows=False)
        with bar(unit, terminal) as tell:
            assert tell is not None
            tell(name, done, 1000)
        [*_, shown] = [line.split("\x1b[2K")[-1] for line in stream.getvalue().splitlines() if "%" in line]
        assert cell_len(shown) <= columns, "on one line"
        assert visible(name)[:3] in shown
        assert columns <= 100 or short(name).rstrip() in shown
        assert f"{done // 10}%" in shown
        assert (f"{done} B of 1.0 kB" in shown) is (unit == "B")
        assert (f"{1000 - done} s left" in shown) is (unit == "s")
        before.add(cell_len(shown.split("%")[0]))
        assert "\x1b[31m" not in stream.getvalue()
    assert before == {progress._BAR + 4}


@pytest.mark.parametrize("name", ["", "w", "x" * 36, "x" * 37, "layer." * 100, "\x1b" * 30])
def test_names_have_one_length(name: str) -> None:
    assert len(short(name)) == 36
    assert [len(short(name, width)) for width in range(1, 40)] == list(range(1, 40))
    assert short(name).isprintable()


class Shown:
    """Looks like tqdm's bar."""

    made: list[Shown]

    def __init__(self, **options: Any) -> None:
        self.options, self.n, self.total, self.names, self.closed = options, 0, options["total"], [], False
        Shown.made.append(self)

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.names: list[str] = [*self.names, text]

    def update(self, amount: float) -> None:
        self.n += amount

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Shown]:
    Shown.made = []
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    return Shown


@pytest.mark.parametrize("widgets", [True, False])
def test_a_bar_in_a_notebook(widgets: bool, notebook: type[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm, of_notebook = pytest.importorskip("tqdm"), pytest.importorskip("tqdm.notebook")
    monkeypatch.setattr(of_notebook, "IProgress", object if widgets else None)
    monkeypatch.setattr(of_notebook if widgets else tqdm, "tqdm", notebook)
    net = model()
    report = zeta.init_(net, RULES, 0, progress=True)
    [shown] = notebook.made
    assert (shown.n, shown.total, shown.closed) == (report.nbytes, report.nbytes, True)
    assert {len(name) for name in shown.names} == {36}
    with pytest.raises(ZeroDivisionError), bar("s"):
        raise ZeroDivisionError
    assert [each.closed for each in notebook.made] == [True, True]


def test_a_notebook_without_tqdm(notebook: type[Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert zeta.init_(model(), RULES, 0, progress=True).ok


# -- the verbs ---------------------------------------------------------------------------------------------------------


def test_what_is_done_adds_up() -> None:
    told: list[Any] = []
    done = Done(10, lambda *call: told.append(call))
    done.add("a", 4)
    done.add("b", 6)
    assert told == [("a", 4, 10), ("b", 10, 10)]
    Done(10, None).add("a", 4)


def check_calls(told: list[Any], total: int) -> None:
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {all_ for _, _, all_ in told} == {total}
    assert told[-1][1] == total


def test_verify_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[Any] = []
    net = model()
    net.register_buffer("kept", torch.ones(7))
    plan = zeta.plan(net, RULES)
    report = zeta.apply_(net, plan, 0)
    assert zeta.verify(net, plan, 0, progress=lambda *call: told.append(call)).ok
    check_calls(told, report.nbytes)
    assert [name for name, _, _ in told] == [entry.name for entry in plan if not entry.kept]
    saved = zeta.save(net, plan, tmp_path, 0, max_shard_size=20_000)
    told.clear()
    assert zeta.verify(tmp_path, progress=lambda *call: told.append(call)).ok
    check_calls(told, saved.nbytes)
    assert len(told) > 2


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The units of the bars that were shown."""
    units: list[str] = []

    @contextlib.contextmanager
    def shown(unit: str = "B", console: object = None) -> Iterator[Callable[..., None]]:
        units.append(unit)
        yield nothing

    monkeypatch.setattr(progress, "bar", shown)
    return units


def test_every_verb_shows_a_bar(asked: list[str], tmp_path: Path) -> None:
    net = model()
    plan = zeta.plan(net, RULES)
    with torch.device("meta"):
        empty = model()
    calls: list[Callable[[], Any]] = [
        lambda: zeta.apply_(net, plan, 0, progress=True),
        lambda: zeta.init_(net, RULES, 0, progress=True),
        lambda: zeta.verify(net, plan, 0, progress=True),
        lambda: zeta.save(net, plan, tmp_path, 0, progress=True),
        lambda: zeta.verify(tmp_path, progress=True),
        lambda: zeta.check(empty, torch.randn(4, 32), plan=plan, seed=0, progress=True),
        lambda: zeta.materialize_(empty, plan, 0, progress=True),
    ]
    for number, call in enumerate(calls, start=1):
        call()
        assert asked == ["B"] * number
    zeta.check(net, torch.randn(4, 32), level="full", progress=True)
    assert asked[len(calls) :] == ["s"]


def test_a_wrong_progress_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    net = model()
    plan = zeta.plan(net, RULES)
    for call in (
        lambda: zeta.save(net, plan, tmp_path / "out", 0, progress=5),  # type: ignore[arg-type]
        lambda: zeta.verify(tmp_path / "out", progress="yes"),  # type: ignore[arg-type]
        lambda: zeta.check(net, torch.randn(4, 32), progress=5),  # type: ignore[arg-type]
    ):
        with pytest.raises(SpecError, match="progress must be"):
            call()
    assert not (tmp_path / "out").exists()
