"""Adapters of peft on a trained model: A random, B zero, the base model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.initializers import Normal, Zeros

peft = pytest.importorskip("peft")

A, B = "base_model.model.0.lora_A.default.weight", "base_model.model.0.lora_B.default.weight"


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def adapted(model: nn.Module, *, meta: bool = False) -> nn.Module:
    config = peft.LoraConfig(r=4, target_modules=["0", "2"])
    return peft.get_peft_model(model, config, low_cpu_mem_usage=meta)


def reset(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.reset_lora_parameters("default", True)


@pytest.mark.parametrize("meta", [False, True])
def test_adapters_by_pefts_own_reset(meta: bool) -> None:
    x = torch.randn(5, 8)
    expected = base()(x)
    model = adapted(base(), meta=meta)
    plan = zeta.plan(model, reset)
    report = zeta.materialize_(model, plan, seed=0) if meta else zeta.init_(model, reset, seed=0, only="*.lora_*")
    assert report.ok
    assert len(list(report)) == 4
    assert all(".lora_" in item.name for item in report)
    assert torch.equal(model(x), expected)
    state = dict(model.named_parameters())
    assert state[A].std() > 0.1
    assert not state[B].any()

    other = adapted(base(), meta=not meta)
    (zeta.apply_ if meta else zeta.materialize_)(other, plan, seed=0)
    assert torch.equal(dict(other.named_parameters())[A], state[A])


def test_adapters_by_rules() -> None:
    model = adapted(base())
    rules = Rules([Rule("*.lora_A.*", Normal(0.02)), Rule("*.lora_B.*", Zeros())])
    report = zeta.init_(model, rules, seed=0, only="*.lora_*")
    assert report.ok
    assert report[A].planned_std == 0.02
    assert report[B].planned_std == 0


def test_the_whole_model_recorded() -> None:
    model, plan = zeta.record(lambda: adapted(base()))
    assert plan[B].initializer == Zeros()
    assert zeta.materialize_(model, plan, seed=0).ok
    with pytest.raises(zeta.RecordingError, match=r"build their module inside the constructor"):
        zeta.record(adapted, base())
