"""The search for garbage is put off, and on again afterwards, whatever happens."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.base.process.garbage import uncollected
from zeta.initializers import Normal


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    gc.enable()


def test_off_inside_and_on_again_after_an_error() -> None:
    inside: list[bool] = []

    @uncollected
    def fail() -> None:
        inside.append(gc.isenabled())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [False]
    assert gc.isenabled()


def test_what_was_off_stays_off() -> None:
    gc.disable()
    uncollected(gc.isenabled)()
    assert not gc.isenabled()


def test_no_search_of_everything_while_a_model_is_planned_and_written() -> None:
    model = nn.ParameterList(torch.empty(2) for _ in range(3000))
    searches: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        searches.append(info["generation"])

    gc.collect()
    gc.callbacks.append(note)
    try:
        report = zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)
    finally:
        gc.callbacks.remove(note)
    assert 2 not in searches
    assert gc.isenabled()
    assert len(report.measured) == 3000
