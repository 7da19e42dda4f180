"""What people see of a result: a short repr, a readable str, a summary without parentheses, HTML in a notebook."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Replicate

import zeta
from tests.base.test_html import Read
from zeta import Rule, Rules
from zeta.initializers import Keep, Normal, Ones, Zeros

NAME = "<b>&\x1b"
RULES = Rules([Rule("*.bias", Zeros()), Rule("*", Normal(0.5))])


@functools.cache
def results() -> dict[str, Any]:
    """One of each class, of a model whose names are not to be trusted."""
    model = nn.Sequential(*(nn.Linear(30, 30) for _ in range(200)))
    model.add_module(NAME, nn.Linear(30, 3))
    model.register_buffer(f"{NAME}mask", torch.zeros(3))
    plan = zeta.plan(model, RULES)
    report = zeta.apply_(model, plan, seed=0)
    equal = zeta.verify(model, plan, 0)
    other = zeta.plan(model, Rules([Rule("*.bias", Ones()), Rule("*", Normal(0.5))]))
    with torch.no_grad():
        model[3].weight += 1
    return {
        "plan": plan,
        "report": report,
        "equal": equal,
        "not equal": zeta.verify(model, plan, 0),
        "difference": zeta.diff(plan, other, names=(NAME, "B")),
        "same": zeta.diff(plan, plan),
        "check": zeta.check(nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4)),
        "rules": Rules([Rule(NAME, Zeros())]),
        "recipe": zeta.recipes.torch_default(model),
        "shards": zeta.shard_plan(plan, (2,), (Replicate(),), 1),
    }


EACH = ("plan", "report", "equal", "not equal", "difference", "same", "check", "rules", "recipe", "shards")


@pytest.mark.parametrize("which", EACH)
def test_the_repr_is_one_short_line(which: str) -> None:
    text = repr(results()[which])
    assert text.isprintable()
    assert len(text) < 200
    assert text.startswith(f"{type(results()[which]).__name__}(")


def test_reprs() -> None:
    found = results()
    size = 200 * (930) + 93
    assert repr(found["plan"]) == f"Plan(402 parameters, 1 buffer kept, {size:,} values, 744.4 kB)"
    assert repr(found["report"]) == "Report(402 tensors written, 744.4 kB, seed 0, all as planned)"
    assert repr(found["equal"]) == "Verification(402 tensors, seed 0, ok)"
    assert repr(found["not equal"]) == "Verification(402 tensors, seed 0, 1 problem(s))"
    assert repr(found["same"]) == "Difference(A, B: the same)"
    assert repr(found["difference"]) == "Difference(<b>&\\x1b, B: 201 changes)"
    assert repr(found["check"]).startswith("CheckReport(Sequential, ok: 1 layer, 0 failures")
    assert repr(found["shards"]) == "ShardPlan(rank 1 of a mesh of 2, 744.4 kB held)"


@pytest.mark.parametrize("which", EACH)
def test_in_a_notebook(which: str) -> None:
    made = results()[which]._repr_html_()
    read = Read(made)
    assert "b" not in read.tags
    assert "script" not in read.tags
    assert "\x1b" not in made
    assert len(made) < 100_000
    assert ("table" in read.tags) is (which not in ("equal", "same"))


@pytest.mark.parametrize("which", [which for which in EACH if which not in ("rules", "recipe")])
def test_the_summary_needs_no_parentheses(which: str) -> None:
    result = results()[which]
    assert type(result.summary) is str
    assert "\n" not in result.summary
    assert result.summary in str(result)


def test_kept_buffers_are_counted_and_not_listed() -> None:
    model = nn.BatchNorm1d(2)
    model.mask = nn.Module()
    for number in range(12):
        model.mask.register_buffer(f"{number}", torch.zeros(3))
    rules = Rules([Rule("weight", Ones()), Rule("bias", Keep())])
    plan = zeta.plan(model, rules)
    assert plan.summary == "2 parameters, 15 buffers (12 kept), 4 values, 184 B"
    assert "mask" not in str(plan)
    assert "running_mean" in str(plan)
    assert "bias" in str(plan), "a parameter that is kept is listed"
    assert "mask.{0..11}" in plan.text(buffers=True)
    made = plan._repr_html_()
    assert made.index("12 buffers kept") < made.index("mask.{0..11}")
    assert "<details open" in made.split("12 buffers kept")[0]
    assert made.split("12 buffers kept")[0].rindex("<details style") > made.index("running_mean")


class Terminal:
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1


@pytest.mark.parametrize("columns", [80, 100, 130, 160])
@pytest.mark.parametrize("which", ["plan", "report"])
def test_print_fits_the_terminal(which: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.cells import cell_len

    model, plan = zeta.record(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, batch_first=True), num_layers=2)
    )
    result = plan if which == "plan" else zeta.materialize_(model, plan, 0)
    whole = str(result)
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", Terminal())
        patched.setattr("os.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
        narrow = str(result)
    assert narrow == result.text(columns)
    assert max(map(cell_len, narrow.splitlines()[:-1])) <= columns
    headings = narrow.split("\n")[0].split()
    assert headings[0] == "name"
    assert ("initializer" if which == "plan" else "verdict") in headings
    assert set(headings) <= set(whole.split("\n")[0].split())


def headings(text: str, *which: str) -> tuple[str, ...]:
    return tuple(heading for heading in which if heading in text.splitlines()[0])


def test_columns_go_by_their_weight_and_name_and_initializer_stay() -> None:
    plan = results()["plan"]
    columns = ("name", "shape", "dtype", "kind", "initializer", "mean", "std", "fan in/out", "rule", "bytes")
    assert headings(plan.text(180), *columns) == columns
    assert headings(plan.text(30), *columns) == ("name", "initializer")
    for width in range(30, 180):
        text = plan.text(width)
        found = headings(text, *columns)
        line = " ".join(text.splitlines()[-5:-1])
        assert len(found) == 10 or f"left out at this width: {', '.join(c for c in columns if c not in found)};" in line
        assert width < 70 or "rule" in found, "what decided is worth more than a size"
    assert "left out" not in plan.text(180)
    assert "left out" not in plan.text()


def test_the_mean_of_a_norm_stays_in_a_narrow_report() -> None:
    report = zeta.init_(nn.LayerNorm(8), Rules([Rule("weight", Ones()), Rule("bias", Zeros())]), 0)
    assert headings(report.text(40), "planned", "mean", "std", "verdict") == ("mean", "std", "verdict")


def test_a_table_is_the_same_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = results()["plan"]
    expected = str(plan)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(plan) == expected
