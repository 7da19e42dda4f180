"""``Plan.override``: a recorded plan, except for what rules say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import zeta
from zeta import Keep, Rule, Rules
from zeta.initializers import Normal, Ones, Zeros, kaiming_normal
from zeta.rules import kind, module


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.decay = nn.Parameter(torch.log(torch.empty(4).uniform_(1, 16)))
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)))


def test_only_what_a_rule_matches_changes() -> None:
    model, recorded = zeta.record(Net)
    rules = Rules(
        [
            Rule("blocks.2.weight", Zeros()),
            Rule(module(nn.Linear) & kind("weight"), lambda m: kaiming_normal() / (m.depth or 1)),
            Rule("mask", Ones(), buffers=True),
        ]
    )
    plan = recorded.override(rules, model)
    changed = {"blocks.0.weight", "blocks.1.weight", "blocks.2.weight", "mask", "embed.weight"}
    assert [entry.name for entry in plan] == [entry.name for entry in recorded]
    assert {entry.name for entry, old in zip(plan, recorded, strict=True) if entry != old} == changed
    assert plan["blocks.2.weight"].initializer == Zeros()
    assert plan["blocks.0.weight"].std == pytest.approx((2 / 4) ** 0.5 / 3)
    assert plan["head.weight"] is plan["embed.weight"], "tied: the rule matches the head"
    assert plan["blocks.0.weight"].rule == "(module Linear & kind weight)"
    assert zeta.materialize_(model, plan, 3).ok
    other, _ = zeta.record(Net)
    zeta.materialize_(other, recorded, 3)
    for (name, value), whole in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, whole) is (name not in changed | {"head.weight"}), name
    assert zeta.verify(model, plan, 3).ok
    assert recorded.override(rules, model) == plan, "of a real model too"


def test_keep_leaves_alone_and_plans_from_files_compose() -> None:
    model, recorded = zeta.record(nn.Linear, 4, 2)
    again = zeta.Plan.from_json(recorded.to_json())
    plan = again.override(Rules([Rule("bias", Keep())]), model)
    assert plan["bias"].kept
    assert plan["weight"] == recorded["weight"]


@pytest.mark.filterwarnings("ignore:.*is under spectral_norm")
def test_the_vectors_of_a_new_weight_are_not_those_of_the_old_one() -> None:
    model, recorded = zeta.record(lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(40, 30))))
    plan = recorded.override(Rules([Rule("0.weight", Normal(0.1))]), model)
    assert plan["0.parametrizations.weight.0._u"].kept
    zeta.materialize_(model, plan, 0)
    model.eval()
    assert float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) == pytest.approx(1, rel=0.05)
    assert zeta.verify(model, plan, 0).ok


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules([Rule("blokcs.*", Zeros())]), r"never win.*\n  - rule 1 \(blokcs\.\*\): .*; did you mean 'blocks\.\*'"),
        (Rules([Rule("mask", Ones())]), r"never win.*\n  - rule 1 \(mask\)"),
        (Rules([Rule("norm.weight", kaiming_normal())]), r"norm\.weight 4, rule 1 \(norm\.weight\)"),
    ],
)
def test_rules_that_do_nothing_or_do_not_fit(rules: Rules, message: str) -> None:
    model, recorded = zeta.record(Net)
    with pytest.raises(zeta.PlanError, match=message):
        recorded.override(rules, model)


def test_a_plan_of_another_model_and_wrong_arguments() -> None:
    model, recorded = zeta.record(Net)
    rules = Rules([Rule("*", Zeros())])
    with pytest.raises(
        zeta.PlanError, match=r"not of this model; only one of them has these names and ties:\n  - bias"
    ):
        recorded.override(rules, nn.Linear(2, 2))
    untied: Any = Net()
    untied.head.weight = nn.Parameter(torch.ones(10, 4))
    with pytest.raises(zeta.PlanError, match=r"- embed\.weight\n  - embed\.weight, head\.weight\n  - head\.weight"):
        recorded.override(rules, untied)
    wide = Net()
    wide.blocks[1] = nn.Linear(4, 6)
    with pytest.raises(zeta.PlanError, match=r"shapes differ:\n  - blocks\.1\.weight: planned 4 x 4, found 6 x 4"):
        recorded.override(rules, wide)
    narrow = recorded.with_dtype(torch.bfloat16).override(rules, model)
    assert {entry.dtype for entry in narrow.parameters} == {torch.bfloat16}
    with pytest.raises(zeta.SpecError, match=r"expected Rules\(\[\.\.\.\]\) or the name of a recipe, got \[\]"):
        recorded.override([], model)  # type: ignore[arg-type]
    with pytest.raises(zeta.LayerTypeError):
        recorded.override(rules, Net)  # type: ignore[arg-type]
