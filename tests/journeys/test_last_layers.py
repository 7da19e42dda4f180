"""The last layers start again, with the values that a full run gives them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.initializers import Zeros, kaiming_normal

RULES = Rules([Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())])


def build() -> nn.Module:
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(6)))


def test_a_part_gets_the_values_of_a_full_run() -> None:
    model = build()
    plan = zeta.plan(model, RULES)
    zeta.apply_(model, plan, seed=0)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    report = zeta.apply_(model, plan, seed=0, only="{4..5}.*")
    written = {item.name for item in report}
    assert written == {"4.weight", "4.bias", "5.weight", "5.bias"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (start if name in written else trained)[name])

    zeta.apply_(model, plan, seed=1, only=lambda name: name == "5.weight")
    assert not torch.equal(model[5].weight, start["5.weight"])
    with pytest.raises(zeta.PlanError, match="only= names nothing"):
        zeta.apply_(model, plan, seed=0, only="7.*")


def test_the_optimizer_keeps_its_parameters() -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 16)).sum().backward()
    gradient = model[5].weight.grad
    before = [id(parameter) for parameter in optimizer.param_groups[0]["params"]]
    zeta.init_(model, RULES, seed=0, only="5.*")
    assert [id(parameter) for parameter in model.parameters()] == before
    assert model[5].weight.grad is gradient
