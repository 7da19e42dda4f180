"""Three members by ``torch.manual_seed``, as in a program that has it already."""

from __future__ import annotations

import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.initializers import Zeros, kaiming_normal

RULES = Rules([Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())])


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def member(number: int) -> tuple[nn.Module, int]:
    torch.manual_seed(number)
    model = build()
    report = zeta.init_(model, RULES)
    assert report.ok
    return model, report.seed


def test_members_differ_and_come_again() -> None:
    members = [member(number) for number in (1, 2, 3)]
    assert len({seed for _, seed in members}) == 3
    first = [model[0].weight for model, _ in members]
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    for number, (model, seed) in zip((1, 2, 3), members, strict=True):
        again, same = member(number)
        assert same == seed
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_the_seed_of_the_report_is_enough() -> None:
    model, seed = member(2)
    again = build()
    plan = zeta.plan(again, RULES)
    zeta.apply_(again, plan, seed=seed)
    assert torch.equal(again[0].weight, model[0].weight)
    assert zeta.verify(model, plan, seed=seed).ok


def test_the_constructors_draws_do_not_matter_where_the_seed_is_given() -> None:
    torch.manual_seed(1)
    one = build()
    other = build()
    zeta.init_(one, RULES, seed=1)
    zeta.init_(other, RULES, seed=1)
    assert torch.equal(one[2].weight, other[2].weight)
