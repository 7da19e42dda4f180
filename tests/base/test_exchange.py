"""Changes that all threads share: made by the first block, undone by the last."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from zeta.base.process.exchange import Exchanged, Shared
from zeta.errors import ZetaError


def test_the_first_makes_and_the_last_undoes() -> None:
    done: list[str] = []
    shared = Shared(lambda: done.append("made"), lambda: done.append("undone"))
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with shared.held():
            inside.set()
            assert leave.wait(30)

    thread = threading.Thread(target=work)
    with shared.held():
        thread.start()
        assert inside.wait(30)
        with shared.held():
            pass
    assert done == ["made"], "another thread is still in it"
    leave.set()
    thread.join()
    assert done == ["made", "undone"]


def test_a_change_that_fails_in_the_middle_is_undone() -> None:
    done: list[str] = []

    def fails() -> None:
        done.append("begun")
        raise KeyError("on purpose")

    shared = Shared(fails, lambda: done.append("undone"))
    for _ in range(2):
        with pytest.raises(KeyError), shared.held():
            pass
    assert done == ["begun", "undone"] * 2


def named(x: int, *, y: int = 1) -> str:
    return f"original {x} {y}"


def other(x: int, *, y: int = 1) -> str:
    return f"exchanged {x} {y}"


def test_code_is_exchanged_under_every_name() -> None:
    alias = named
    exchanged = Exchanged({"named": named}, {"named": other.__code__})
    with exchanged.held():
        assert alias(1, y=2) == "exchanged 1 2"
        assert exchanged.originals["named"](1) == "original 1 1"
    assert alias(1) == "original 1 1"


def loosely(*args: Any, **kwargs: Any) -> str:
    return f"exchanged {args} {kwargs}"


@pytest.mark.parametrize("decorate", [functools.wraps(named), lambda wrapper: wrapper], ids=["wraps", "plain"])
def test_what_another_library_wrapped_is_exchanged(decorate: Callable[[Any], Any]) -> None:
    prefix = "wrapped"

    @decorate
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return f"{prefix} {named(*args, **kwargs)}"

    exchanged = Exchanged({"named": wrapper}, {"named": loosely.__code__})
    with exchanged.held():
        assert wrapper(1, y=2).endswith("exchanged (1,) {'y': 2}")
        assert exchanged.originals["named"](1).endswith("original 1 1")
    assert wrapper(1) == "wrapped original 1 1"


class Replacement:
    def __call__(self, x: int) -> str:
        return f"replaced {x}"


@pytest.mark.parametrize("replacement", [Replacement(), lambda x: f"replaced {x}"])
def test_what_cannot_be_exchanged_is_said_when_it_is_needed(replacement: Any) -> None:
    exchanged = Exchanged({"named": named, "it": replacement}, {"named": loosely.__code__, "it": other.__code__})
    with pytest.raises(ZetaError, match=r"another library replaced it by <.* import zeta first"), exchanged.held():
        pass
    assert named(1) == "original 1 1"
    assert replacement(1) == "replaced 1"
