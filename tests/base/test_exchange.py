"""Changes that all threads share: made by the first block, undone by the last."""

from __future__ import annotations

import threading

import pytest

from zeta.base.process.exchange import Exchanged, Shared


def test_the_first_makes_and_the_last_undoes() -> None:
    done: list[str] = []
    shared = Shared(lambda: done.append("made"), lambda: done.append("undone"))
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with shared:
            inside.set()
            assert leave.wait(30)

    thread = threading.Thread(target=work)
    with shared:
        thread.start()
        assert inside.wait(30)
        with shared:
            pass
    assert done == ["made"], "another thread is still in it"
    leave.set()
    thread.join()
    assert done == ["made", "undone"]


def test_a_change_that_fails_is_not_undone() -> None:
    done: list[str] = []

    def fails() -> None:
        raise KeyError("on purpose")

    shared = Shared(fails, lambda: done.append("undone"))
    for _ in range(2):
        with pytest.raises(KeyError), shared:
            pass
    assert done == []


def named(x: int, *, y: int = 1) -> str:
    return f"original {x} {y}"


def other(x: int, *, y: int = 1) -> str:
    return f"exchanged {x} {y}"


def test_code_is_exchanged_under_every_name() -> None:
    alias = named
    exchanged = Exchanged({"named": named}, {"named": other.__code__})
    with exchanged:
        assert alias(1, y=2) == "exchanged 1 2"
        assert exchanged.originals["named"](1) == "original 1 1"
    assert alias(1) == "original 1 1"
