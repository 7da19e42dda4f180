"""An LSTM: fans of one gate, gates orthogonal by themselves, a forget bias of 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.fans import Fans
from zeta.initializers import Orthogonal, Zeros, xavier_uniform

RULES = Rules([Rule("*weight_ih*", xavier_uniform()), Rule("*weight_hh*", Orthogonal()), Rule("*bias*", Zeros())])


def start(model: nn.Module) -> None:
    zeta.init_(model, RULES)
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            n = module.hidden_size
            for name, bias in module.named_parameters():
                if "bias_ih" in name:
                    nn.init.ones_(bias[n : 2 * n])


def test_each_gate_is_a_map_of_its_own() -> None:
    lstm = nn.LSTM(32, 64, num_layers=2)
    plan = zeta.plan(lstm, RULES)
    assert zeta.apply_(lstm, plan, seed=0).ok
    assert zeta.fans(lstm, "weight_ih_l0") == Fans(fan_in=32, fan_out=64)
    assert plan["weight_ih_l0"].std == pytest.approx((2 / (32 + 64)) ** 0.5)
    for gate in lstm.weight_hh_l1.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(64), atol=1e-5)
    attention = nn.MultiheadAttention(64, 4)
    assert zeta.fans(attention, "in_proj_weight") == Fans(fan_in=64, fan_out=64)


@pytest.mark.parametrize("meta", [False, True])
def test_a_forget_bias_by_a_function_is_part_of_the_plan(meta: bool) -> None:
    with torch.device("meta" if meta else "cpu"):
        lstm = nn.LSTM(32, 64, num_layers=2)
    plan = zeta.plan(lstm, start)
    assert (zeta.materialize_ if meta else zeta.apply_)(lstm, plan, seed=0).ok
    for layer in (0, 1):
        assert getattr(lstm, f"bias_ih_l{layer}").view(4, 64).mean(1).tolist() == [0, 1, 0, 0]
        assert not getattr(lstm, f"bias_hh_l{layer}").any()
    assert zeta.verify(lstm, plan, seed=0).ok

    plain = nn.LSTM(32, 64, num_layers=2)
    zeta.init_(plain, RULES, seed=0)
    assert torch.equal(plain.weight_hh_l1, lstm.weight_hh_l1)


def test_by_hand_afterwards_verify_sees_the_biases() -> None:
    lstm = nn.LSTM(32, 64)
    plan = zeta.plan(lstm, RULES)
    zeta.apply_(lstm, plan, seed=0)
    with torch.no_grad():
        lstm.bias_ih_l0[64:128] = 1
    found = zeta.verify(lstm, plan, seed=0)
    assert not found.ok
    assert "bias_ih_l0" in str(found)
    assert "weight" not in str(found)
