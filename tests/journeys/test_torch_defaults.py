"""Torch's own starting values, the same everywhere: the constructor is recorded, as the recipe knows torch's layers."""

from __future__ import annotations

import torch
from torch import nn

import zeta
from zeta.initializers import Keep


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))
        self.positions = nn.Parameter(torch.randn(16, width) * 0.02)


def values(number: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(number)
    model, plan = zeta.record(Net, 64)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert zeta.materialize_(model, plan, seed=0).ok
    return model.state_dict()


def test_the_values_are_those_of_the_seed_alone() -> None:
    one, other = values(1), values(2)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(one) == 4


def test_the_laws_are_those_of_the_constructor() -> None:
    torch.manual_seed(0)
    real = Net(64)
    model, plan = zeta.record(Net, 64)
    zeta.materialize_(model, plan, seed=0)
    for name, tensor in real.state_dict().items():
        mine = model.state_dict()[name]
        assert (mine.std() - tensor.std()).abs() <= 0.25 * tensor.std()  # a fc.bias of 64 values: 5 sigma
        assert mine.mean().abs() <= tensor.mean().abs() + 0.5 * tensor.std()


def test_the_recipe_keeps_what_is_not_of_a_layer_of_torch() -> None:
    model, recorded = zeta.record(Net, 64)
    recipe = zeta.plan(model, "torch")
    assert [recipe[name].initializer for name in ("scale", "positions")] == [Keep(), Keep()]
    assert [str(recorded[name].initializer) for name in ("scale", "positions")] == [
        "Constant(value=0.1)",
        "Normal(std=0.02)",
    ]
    assert recipe["fc.weight"].std == recorded["fc.weight"].std
