"""A function for ``model.apply`` moves to zeta: as it is, on meta, and as rules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules, ZetaNotice
from zeta.initializers import Ones, Zeros, xavier_uniform
from zeta.rules import kind


def init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def build(norm: type[nn.Module] = nn.LayerNorm) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), norm(32), nn.ReLU(), nn.Linear(32, 2))


def apply(model: nn.Module) -> None:
    model.apply(init_weights)


def test_on_a_live_model_the_rest_is_kept() -> None:
    model = build()
    nn.init.constant_(model[1].weight, 3.0)
    report = zeta.init_(model, apply, seed=0)
    assert report.ok
    assert {item.name for item in report} == {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert report.kept == ("1.weight", "1.bias")
    assert (model[1].weight == 3).all()

    torch.manual_seed(5)  # has no say where there is a seed
    again = build()
    zeta.init_(again, apply, seed=0)
    assert torch.equal(again[0].weight, model[0].weight)
    assert not torch.equal(again[0].weight[:2, :2], model[3].weight[:2, :2])


def test_the_function_without_apply_writes_nothing_and_a_notice_says_so() -> None:
    with pytest.warns(ZetaNotice, match=r"lambda model: model\.apply\(function\)"):
        report = zeta.init_(build(), init_weights, seed=0)
    assert list(report) == []
    assert len(report.kept) == 6


@pytest.mark.parametrize("only", [None, "3.*"])
def test_the_statistics_of_a_trained_model_stay(only: str | None) -> None:
    model = build(nn.BatchNorm1d)
    model(5 * torch.randn(64, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    zeta.init_(model, apply, seed=0, only=only)
    unchanged = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert {name for name in before if name.startswith("1.")} <= unchanged
    assert "3.weight" not in unchanged


def test_on_meta_a_fallback_gives_the_rest_its_values() -> None:
    with torch.device("meta"):
        model = build(nn.BatchNorm1d)
    with pytest.raises(zeta.RecordingError, match=r"1\.weight(.|\n)*1\.bias"):
        zeta.plan(model, apply)
    plan = zeta.plan(model, apply, fallback=zeta.recipes.torch_default(model))
    assert zeta.materialize_(model, plan, seed=0).ok
    assert (model[1].weight == 1).all()
    assert (model[1].running_var == 1).all()

    live = build(nn.BatchNorm1d)
    zeta.init_(live, apply, seed=0)
    assert torch.equal(live[0].weight, model[0].weight)


@pytest.mark.parametrize("fallback", ["torch", Rules([Rule("*", Ones())])])
def test_a_fallback_that_gives_a_live_model_nothing_is_noticed(fallback: Rules | str) -> None:
    model = build()
    nn.init.constant_(model[1].weight, 3.0)
    with pytest.warns(ZetaNotice, match=r"fallback= gave nothing: .* \(2 parameters, such as 1\.weight") as caught:
        zeta.init_(model, apply, seed=0, fallback=fallback)
    assert (model[1].weight == 3).all()
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_a_fallback_that_is_not_needed_needs_no_notice() -> None:
    zeta.plan(build(lambda width: nn.BatchNorm1d(width, affine=False)), apply, fallback="torch")
    zeta.plan(nn.Sequential(nn.Linear(2, 2), nn.Identity()), apply, fallback="real")


class Attention(nn.Module):
    """Of which a function for linear layers writes a part."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 2)


def test_what_the_function_does_not_write_follows_the_seed_in_a_recorded_builder() -> None:
    def built() -> nn.Module:
        return Attention().apply(init_weights)

    assert "attention.in_proj_weight" in zeta.init_(Attention(), apply, seed=0).kept
    model, plan = zeta.record(built)
    assert not any(entry.kept for entry in plan)
    assert zeta.materialize_(model, plan, seed=0).ok
    other = built()
    zeta.apply_(other, plan, seed=0)
    assert torch.equal(other.attention.in_proj_weight, model.attention.in_proj_weight)


def test_rules_do_the_same() -> None:
    rules = Rules([Rule(kind("weight"), xavier_uniform()), Rule(kind("norm_scale"), Ones()), Rule("*.bias", Zeros())])
    one, other = build(), build()
    fallback = zeta.recipes.torch_default(one)
    with torch.device("meta"):
        plan = zeta.plan(build(), apply, fallback=fallback)
    assert not zeta.diff(plan, zeta.plan(other, rules))
    zeta.apply_(one, plan, seed=0)
    zeta.init_(other, rules, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
