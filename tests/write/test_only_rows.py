"""``only=`` with rows: these get the values of the whole tensor there, and the others stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.errors import PlanError, SpecError, TargetError
from zeta.initializers import Blocks, Normal, Orthogonal, Uniform, Zeros

RULES = Rules([Rule("emb.weight", Normal(0.3)), Rule("out.*", Uniform(-1, 1))])


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"emb": nn.Embedding(20, 4), "out": nn.Linear(4, 6)})


@pytest.mark.parametrize("rows", [slice(15, None), slice(0, 3), slice(4, 9), slice(-2, None), slice(19, 20)])
def test_the_rows_are_those_of_the_whole(rows: slice) -> None:
    part, full = model(), model()
    before = part["emb"].weight.detach().clone()
    zeta.init_(full, RULES, seed=5)
    report = zeta.init_(part, RULES, seed=5, only={"emb.weight": rows})
    expected = before.clone()
    expected[rows] = full["emb"].weight.detach()[rows]  # type: ignore[index]
    assert torch.equal(part["emb"].weight, expected)
    assert torch.equal(part["out"].weight, model()["out"].weight)
    assert [item.count for item in report] == [expected[rows].numel()]
    plan = zeta.plan(full, RULES)
    assert zeta.verify(part, plan, 5, only={"emb.weight": rows}).ok
    assert not zeta.verify(part, plan, 5, only=["emb.weight"]).ok


@pytest.mark.parametrize(
    "law", [Normal(0.1), Zeros(), Orthogonal(), Blocks(Normal(0.1), Zeros()), Blocks(Orthogonal(), Normal(1.0))]
)
def test_every_kind_of_initializer(law: Any) -> None:
    part, full = nn.Linear(6, 8, bias=False), nn.Linear(6, 8, bias=False)
    before = part.weight.detach().clone()
    rules = Rules([Rule("weight", law)])
    zeta.init_(full, rules, seed=1)
    plan = zeta.plan(part, rules)
    zeta.apply_(part, plan, 1, only={"weight": slice(3, 7)})
    assert torch.equal(part.weight[3:7], full.weight[3:7])
    assert torch.equal(part.weight[[0, 1, 2, 7]], before[[0, 1, 2, 7]])


def test_a_recorded_program() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(9, 4).log1p() * torch.randn(9, 1))

    odd, plan = zeta.record(Odd)
    zeta.materialize_(odd, plan, seed=2)
    other = Odd()
    before = other.weight.detach().clone()
    zeta.apply_(other, plan, 2, only={"*": slice(6, None)})
    assert torch.equal(other.weight, torch.cat([before[:6], odd.weight.detach()[6:]]))


def test_several_globs_and_whole_tensors() -> None:
    part, full = model(), model()
    zeta.init_(full, RULES, seed=5)
    zeta.init_(part, RULES, seed=5, only={"emb.*": slice(1, 2), "out.*": slice(None)})
    assert torch.equal(part["out"].weight, full["out"].weight)
    assert torch.equal(part["emb"].weight[1], full["emb"].weight[1])
    assert torch.equal(part["emb"].weight[2], model()["emb"].weight[2])


def test_the_digest_has_the_rows() -> None:
    one, two = (zeta.init_(model(), RULES, seed=5, only={"emb.weight": slice(k, None)}) for k in (1, 2))
    assert one.digest != two.digest


@pytest.mark.parametrize(
    ("only", "error", "message"),
    [
        ({"emb.weight": 3}, SpecError, "only gives rows as a slice with step 1"),
        ({"emb.weight": slice("a", None)}, SpecError, "only gives rows as a slice with step 1"),
        ({"emb.weight": slice(0, 9, 2)}, PlanError, r"emb\.weight: slice\(0, 9, 2\) of shape 20 x 4 is no rows"),
        ({"emb.weight": slice(20, None)}, PlanError, r"emb\.weight: slice\(20, None, None\) of shape 20 x 4 is no"),
        ({"nothing": slice(1, None)}, PlanError, "only= names nothing"),
    ],
)
def test_rows_that_are_none(only: Any, error: type[Exception], message: str) -> None:
    part = model()
    before = part["emb"].weight.detach().clone()
    with pytest.raises(error, match=message):
        zeta.init_(part, RULES, seed=5, only=only)
    assert torch.equal(part["emb"].weight, before)


def test_on_meta_the_other_rows_would_have_no_value() -> None:
    with torch.device("meta"):
        part = model()
    with pytest.raises(TargetError, match="the plan keeps some or all of their values"):
        zeta.init_(part, RULES, seed=5, only={"emb.weight": slice(3, None)})


def test_a_parametrized_weight_is_written_whole() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    with pytest.raises(TargetError, match=r"is parametrized, so that a part of it, \[1:4\], cannot be written alone"):
        zeta.init_(layer, Rules([Rule("weight", Normal(1.0))]), seed=0, only={"weight": slice(1, None)})
