"""The helper of all tests of several processes: it neither fails for Gloo's sake nor passes for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.processes import run


def test_what_happens_after_the_result_does_not_count(tmp_path: Path) -> None:
    assert run("tests.helpers.ending_ranks", 2, tmp_path) == ["hello from 0\n", "hello from 1\n"]


def test_a_process_that_raises_is_shown_and_nobody_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)-- rank 1: no result, exit code 1\n.*ValueError: not today"):
        run("tests.helpers.ending_ranks", 2, tmp_path / "raises")


def test_a_process_that_should_have_died_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="-- rank 1: done"):
        run("tests.helpers.ending_ranks", 2, tmp_path, dying=[1])
