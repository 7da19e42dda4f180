"""Pretrained weights with a head of another size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.initializers import Normal, Zeros

HEAD = Rules([Rule("head.weight", Normal(0.02)), Rule("head.bias", Zeros())])


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    trained = Net(1000)
    trained(torch.randn(32, 8))  # moves the statistics
    return {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("head.")}


def test_on_meta_what_was_loaded_stays(state: dict[str, torch.Tensor]) -> None:
    model, plan = zeta.record(Net, 10)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    report = zeta.materialize_(model, plan, seed=0)
    assert [item.name for item in report] == missing == ["head.weight", "head.bias"]
    assert unexpected == []
    assert set(report.kept) == set(state)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert zeta.verify(model, plan, seed=0, only="head.*").ok
    assert not zeta.verify(model, plan, seed=0).ok
    model(torch.randn(4, 8)).sum().backward()  # it trains


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")
def test_without_assign_the_report_shows_that_nothing_was_loaded(state: dict[str, torch.Tensor]) -> None:
    model, plan = zeta.record(Net, 10)
    model.load_state_dict(state, strict=False)
    report = zeta.materialize_(model, plan, seed=0)
    assert report.kept == ()
    assert len(list(report)) == 9


def test_on_a_live_model_only_the_head_is_written(state: dict[str, torch.Tensor]) -> None:
    model = Net(1000)
    model.load_state_dict(state, strict=False)
    model.head = nn.Linear(16, 10)
    report = zeta.init_(model, HEAD, seed=0, only="head.*")
    assert [item.name for item in report] == ["head.weight", "head.bias"]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    with pytest.raises(zeta.PlanError, match=r"only= names nothing(.|\n)*head"):
        zeta.init_(model, HEAD, seed=0, only="head")
    with pytest.raises(zeta.PlanError, match=r"no rule matches(.|\n)*body\.0\.weight"):
        zeta.init_(model, HEAD, seed=0)
