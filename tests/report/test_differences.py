"""What two plans do differently."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from zeta import Entry, Keep, Kind, Plan, Rule, Rules, SpecError
from zeta.initializers import Initializer, Normal, Ones, TruncatedNormal, Zeros, kaiming_normal
from zeta.report.plan_differences import Aspect, diff


def entry(name: str, initializer: Initializer | None = None, **more: Any) -> Entry:
    given = {"shape": (8, 4), "dtype": torch.float32, "kind": Kind.WEIGHT, "rule": "a rule", **more}
    return Entry(name=name, initializer=initializer or Normal(0.02), **given)


def aspects(one: Entry, other: Entry) -> list[str]:
    found = diff(Plan((one,)), Plan((other,)))
    assert len(found) <= 1
    assert found.same is not bool(found)
    return [aspect.value for change in found for aspect in change.aspects]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"rule": "another rule"}, []),
        ({"initializer": Normal(0.03)}, ["distribution"]),
        ({"initializer": Keep()}, ["distribution"]),
        ({"shape": (8, 5)}, ["shape"]),
        ({"dtype": torch.bfloat16}, ["dtype"]),
        ({"padding_idx": 3}, ["padding row"]),
        ({"kind": Kind.EMBEDDING}, []),
        ({"kind": Kind.BUFFER}, ["role"]),
        ({"shape": (8,), "dtype": torch.float64, "initializer": Ones()}, ["shape", "dtype", "distribution"]),
    ],
)
def test_aspects(changes: dict[str, Any], expected: list[str]) -> None:
    other = entry("w", **changes)
    assert aspects(entry("w"), other) == aspects(other, entry("w")) == expected


def test_buffers_that_one_plan_keeps_are_told_and_not_compared() -> None:
    kept, given = (entry("table", i, kind=Kind.BUFFER) for i in (Keep(), Ones()))
    for one, other in ((kept, given), (given, kept)):
        found = diff(Plan((one,)), Plan((other,)))
        assert found.same
        assert found.unsaid == ("table",)
        assert "not compared, as only one of them gives these buffers values: table" in str(found)
    assert diff(Plan((kept,)), Plan((kept,))).unsaid == ()
    assert aspects(kept, entry("table", Ones(), kind=Kind.BUFFER, dtype=torch.float64)) == ["dtype"]
    unsaved = entry("table", Ones(), kind=Kind.BUFFER, persistent=False)
    assert aspects(given, unsaved) == ["role"]


def test_missing_names() -> None:
    one = Plan((entry("a"), entry("b"), entry("steps", kind=Kind.BUFFER)))
    found = diff(one, Plan((entry("b"), entry("c", Ones()))), names=("mine", "theirs"))
    assert [(c.name, c.a is None, c.b is None) for c in found] == [
        ("a", False, True), ("steps", False, True), ("c", True, False),
    ]  # fmt: skip
    assert found.summary == "mine differs from theirs in 2 of 3 parameters and 1 of 1 buffer"
    rows = [line.split() for line in str(found).splitlines()[3:]]
    assert rows[0][:4] == ["a", "only", "in", "one"]
    assert "Ones()" in rows[2]


def test_ties() -> None:
    tied = Plan((entry("embed", ties=("head",)),))
    untied = Plan((entry("embed"), entry("head")))
    assert diff(tied, tied).same
    found = diff(tied, untied)
    assert [(c.name, c.aspects) for c in found] == [("embed", (Aspect.TIES,)), ("head", (Aspect.TIES,))]
    assert "tied to head" in str(found)
    assert "on its own" in str(found)
    renamed = Plan((entry("head", ties=("embed",)),))
    assert diff(tied, renamed).same, "which of the names is canonical is no difference of what is tied"
    only = diff(tied, Plan((entry("embed"),)))
    assert only.same is False
    assert [(c.name, c.aspects) for c in only] == [("head", (Aspect.MISSING,))]


def test_layers_are_folded_and_grouped_by_what_differs() -> None:
    one = Plan(tuple(entry(f"h.{n}.{w}") for n in range(12) for w in ("w1", "w2")))
    wider = {"shape": (8, 5)}
    other = Plan(
        tuple(
            entry(f"h.{n}.{w}", law, **(wider if n > 9 else {}))
            for n in range(12)
            for w, law in (("w1", Normal(0.03 if n == 3 else 0.02)), ("w2", TruncatedNormal(0.02)))
        )
    )
    summary, _, _, *rows = str(diff(one, other)).splitlines()
    assert summary == "A differs from B in 15 of 24 parameters"
    assert [re.split(r" {2,}", row.strip())[:4] for row in rows] == [
        ["h.{10..11}.w1", "shape", "8 x 4", "8 x 5"],
        ["h.{10..11}.w2", "shape", "8 x 4", "8 x 5"],
        ["h.{0..11}.w2", "distribution", "Normal(std=0.02)", "TruncatedNormal(std=0.02, cutoff=2): std 0.01759"],
        ["h.3.w1", "distribution", "Normal(std=0.02)", "Normal(std=0.03)"],
    ]


def test_numbers_that_look_alike_are_shown_in_full() -> None:
    shown = str(diff(Plan((entry("w", Normal(0.02)),)), Plan((entry("w", Normal(0.020001)),))))
    assert "Normal(std=0.020001)" in shown
    assert shown.count("Normal(std=0.02)") == 1


def test_a_narrow_terminal_loses_the_rules_first() -> None:
    found = diff(Plan((entry("w"),)), Plan((entry("w", Zeros()),)), names=("first", "second"))
    assert "by (first)" in found.text()
    narrow = found.text(60)
    assert "by (" not in narrow.splitlines()[1]
    assert "left out at this width: by (first), by (second)" in narrow
    assert max(map(len, narrow.splitlines())) <= 60
    assert "Normal(std=0.02)   Zeros()" in narrow


@pytest.mark.parametrize("names", [("x", "x"), ("name", "what")])
def test_any_labels(names: tuple[str, str]) -> None:
    shown = str(diff(Plan((entry("w"),)), Plan((entry("w", Zeros()),)), names=names)).splitlines()
    assert shown[1].split() == ["name", "what", "A", "B", "by", "(A)", "by", "(B)"]
    assert shown[0] == f"{names[0]} differs from {names[1]} in 1 of 1 parameter"


def test_json_has_everything() -> None:
    found = diff(Plan((entry("w"), entry("v"))), Plan((entry("w", Zeros()),)))
    data = json.loads(found.to_json())
    assert data == json.loads(json.dumps(found.as_dict()))
    assert (data["same"], data["a"], data["parameters"], data["buffers"]) == (False, "A", 2, 0)
    assert [(c["name"], c["aspects"]) for c in data["changes"]] == [("w", ["distribution"]), ("v", ["only in one"])]
    assert Entry.from_json(data["changes"][0]["b"]) == entry("w", Zeros())
    assert data["changes"][1]["b"] is None


def test_real_models() -> None:
    """A recording against rules that mean the same, and through JSON."""

    def build(gain: float = 1.0) -> nn.Module:
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.BatchNorm1d(32))
        nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")
        model[0].weight.data.mul_(gain)
        nn.init.zeros_(model[0].bias)
        return model

    model, recorded = zeta.record(build)
    rules = Rules([Rule("0.weight", kaiming_normal()), Rule("2.weight", Ones()), Rule("*.bias", Zeros())])
    planned = zeta.plan(model, rules)
    assert diff(recorded, planned).same
    assert (
        diff(Plan.from_json(recorded.to_json()), planned).summary
        == "A and B do the same to all 4 parameters and 3 buffers"
    )
    assert [c.name for c in diff(zeta.record(build, 1.5)[1], planned)] == ["0.weight"]


def test_one_thing_is_one_thing() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(3))
    model.register_buffer("steps", torch.zeros(3))
    plan = zeta.plan(model, Rules([Rule("*", Ones()), Rule("steps", Zeros(), buffers=True)]))
    assert diff(plan, plan).summary == "A and B do the same to the one parameter and 1 buffer"


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected a Plan, of zeta\.record, .* got 'llama'"):
        diff(Plan(()), "llama")  # type: ignore[arg-type]
    assert diff(Plan(()), Plan(())).same
