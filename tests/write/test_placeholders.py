"""Parameters that stand for memory elsewhere are refused by name, before anything is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules, TargetError
from zeta.initializers import Normal

RULES = Rules([Rule("*", Normal(0.02))])


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Conv1d(3, 2, 5), nn.Embedding(6, 2))


def zero3(net: nn.Sequential) -> None:
    """As DeepSpeed leaves a parameter that is partitioned."""
    weight = net[0].weight
    weight.ds_id, weight.ds_shape = 7, weight.shape
    weight.data = torch.empty(0)


def emptied(layer: int, name: str, left: int) -> Callable[[nn.Sequential], None]:
    """As FSDP1 leaves original parameters: what this rank has of them, flat."""

    def change(net: nn.Sequential) -> None:
        setattr(net[layer], name, nn.Parameter(torch.zeros(left)))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (zero3, r"0.weight: belongs to DeepSpeed's ZeRO-3, which holds its \(3, 4\) elsewhere; .*GatheredParameters"),
        (emptied(0, "weight", 0), "0.weight: has 0 elements, but its Linear says 12"),
        (emptied(0, "bias", 1), "0.bias: has 1 elements, but its Linear says 3"),
        (emptied(1, "weight", 0), "1.weight: has 0 elements, but its LayerNorm says 3"),
        (emptied(2, "weight", 29), "2.weight: has 29 elements, but its Conv1d says 30"),
        (emptied(3, "weight", 0), "3.weight: has 0 elements, but its Embedding says 12"),
    ],
)
def test_placeholders_are_refused_and_nothing_is_written(change: Callable[[nn.Sequential], None], message: str) -> None:
    net = model()
    change(net)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    plan = zeta.plan(net, RULES)
    with pytest.raises(TargetError, match=message):
        zeta.apply_(net, plan, seed=0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_its_module_says_is_empty_is_fine() -> None:
    net = nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 0))
    assert zeta.init_(net, RULES, seed=0).ok
