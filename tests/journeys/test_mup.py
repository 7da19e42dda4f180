"""muP: one object for stds, learning rates and multipliers that follow the width."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(32, width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(torch.relu(self.input(x)))))


def scaling(width: int, how: str = "mup") -> zeta.Scaling:
    return zeta.scale(Net, base={"width": 32}, target={"width": width}, how=how)


def test_stds_follow_the_width() -> None:
    small, large = scaling(64).plan, scaling(256).plan
    ratio = {name: small[name].std / large[name].std for name in ("input.weight", "hidden.weight", "output.weight")}
    assert ratio == pytest.approx({"input.weight": 1, "hidden.weight": 2, "output.weight": 1})
    assert [each.factor for each in scaling(256).multipliers] == [1 / 8]


def size_after_a_step(width: int, how: str) -> float:
    torch.manual_seed(0)
    x, y = torch.randn(64, 32), torch.randint(10, (64,))
    model, scaled = Net(width), scaling(width, how)
    assert zeta.init_(model, scaled, seed=0).ok
    scaled.apply_multipliers_(model)
    optimizer = torch.optim.Adam(scaled.param_groups(model, "adam", lr=0.01))
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    return model(x).square().mean().sqrt().item()


def test_outputs_have_one_size_at_every_width() -> None:
    growth = {how: size_after_a_step(512, how) / size_after_a_step(64, how) for how in ("sp", "mup")}
    assert 0.5 < growth["mup"] < 1.5
    assert growth["sp"] > 4
