"""LoRA without a library on a trained model: one call, by the names of its two matrices or by rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import Rule, Rules
from zeta.initializers import Keep, Zeros, lecun_uniform


class LoRA(nn.Module):
    """``down`` and ``up`` are the names of its two matrices."""

    def __init__(self, base: nn.Linear, rank: int, down: str, up: str) -> None:
        super().__init__()
        self.base, self.down, self.up = base.requires_grad_(False), down, up
        self.add_module(down, nn.Linear(base.in_features, rank, bias=False))
        self.add_module(up, nn.Linear(rank, base.out_features, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = getattr(self, self.up)(getattr(self, self.down)(x))
        return self.base(x) + added


def base() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def adapted(down: str, up: str) -> nn.Sequential:
    model = base()
    for place in (0, 2):
        layer = model[place]
        assert isinstance(layer, nn.Linear)
        model[place] = LoRA(layer, 4, down, up)
    return model


@pytest.mark.parametrize(("down", "up"), [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_by_the_recipe(down: str, up: str) -> None:
    model, x = adapted(down, up), torch.randn(5, 8)
    report = zeta.init_(model, "lora", seed=0)
    assert report.ok
    assert [item.name for item in report] == [f"{place}.{name}.weight" for place in (0, 2) for name in (down, up)]
    assert set(report.kept) == {f"{place}.base.{name}" for place in (0, 2) for name in ("weight", "bias")}
    assert report[f"0.{down}.weight"].planned_std == pytest.approx((1 / 8 / 3) ** 0.5)
    assert torch.equal(model(x), base()(x))
    model(x).square().sum().backward()
    state = dict(model.named_parameters())
    assert state[f"0.{up}.weight"].grad is not None  # and so it learns
    assert state[f"0.{up}.weight"].grad.any()
    assert state["0.base.weight"].grad is None


def test_other_names_by_rules() -> None:
    model, x = adapted("into", "out"), torch.randn(5, 8)
    with pytest.raises(zeta.PlanError, match=r"0\.into\.weight.*belongs to an adapter, which no recipe knows"):
        zeta.init_(model, "lora", seed=0)
    rules = Rules([Rule("*.into.weight", lecun_uniform()), Rule("*.out.weight", Zeros()), Rule("*.base.*", Keep())])
    plan = zeta.plan(model, rules)
    assert zeta.apply_(model, plan, seed=0).ok
    assert zeta.verify(model, plan, seed=0).ok
    assert torch.equal(model(x), base()(x))
