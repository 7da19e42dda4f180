"""muP by hand: stds by rules that depend on the fans, learning rates by groups that depend on the width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zeta
from zeta import Match, Rule, Rules
from zeta.initializers import Normal, Zeros, kaiming_normal

BASE = 64


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(32, width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(torch.relu(self.input(x)))))


def of_output(match: Match) -> Normal:
    return Normal(BASE**0.5 / match.fans.fan_in)


RULES = Rules([Rule("output.weight", of_output), Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())])


def groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    scaled = ("hidden.weight", "output.weight")
    return [
        {"params": [parameter], "lr": lr * BASE / parameter.shape[1] if name in scaled else lr}
        for name, parameter in model.named_parameters()
    ]


def test_stds_follow_the_width() -> None:
    small, large = (zeta.plan(zeta.record(Net, width)[0], RULES) for width in (64, 256))
    ratio = {name: small[name].std / large[name].std for name in ("input.weight", "hidden.weight", "output.weight")}
    assert ratio == pytest.approx({"input.weight": 1, "hidden.weight": 2, "output.weight": 4})


def size_after_a_step(width: int, *, mup: bool) -> float:
    torch.manual_seed(0)
    x, y = torch.randn(64, 32), torch.randint(10, (64,))
    model = Net(width)
    assert zeta.init_(model, RULES, seed=0).ok
    optimizer = torch.optim.Adam(groups(model, 0.01) if mup else model.parameters(), lr=0.01)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    return model(x).square().mean().sqrt().item()


def test_outputs_have_one_size_at_every_width() -> None:
    growth = {mup: size_after_a_step(512, mup=mup) / size_after_a_step(64, mup=mup) for mup in (False, True)}
    assert 0.5 < growth[True] < 1.5
    assert growth[False] > 4
