"""Real processes that do not agree find out, each of them, and none is left waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import zeta
from tests.helpers.processes import run
from zeta import Rule, Rules, SpecError
from zeta.initializers import Ones


def test_processes_that_differ_are_named(tmp_path: Path) -> None:
    run("tests.helpers.confirm_ranks", 4, tmp_path)


@pytest.mark.parametrize("verb", ["apply_", "materialize_", "init_", "verify"])
def test_there_must_be_processes_to_ask(verb: str) -> None:
    model, rules = nn.Linear(2, 2), Rules([Rule("*", Ones())])
    plan, before = zeta.plan(model, rules), model.weight.clone()
    name = "reduce" if verb == "verify" else "confirm"
    with pytest.raises(SpecError, match=rf"{name}=True needs the process group of torch\.distributed"):
        getattr(zeta, verb)(model, rules if verb == "init_" else plan, 0, **{name: True})
    assert model.weight.equal(before)
