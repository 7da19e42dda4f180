"""First steps that are small, and enough."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.helpers.networks import LanguageModel, Mlp, tokens
from tests.helpers.sick_updates import adam, in_half, labelled, scaled, sgd
from zeta.check import check
from zeta.check.measure import updates


def found(model: nn.Module, batch: Any, **options: Any) -> list[str]:
    return [str(one.rule.id) for one in check(model, batch, **options).findings if one.rule.id.startswith("Z7")]


@pytest.mark.parametrize(
    ("factor", "optimizer"),
    [
        (1.0, adam()),
        (1e-3, adam()),
        (1e-12, sgd(1e11)),  # divides by nothing: the learning rate makes up for the factor
        (1e-12, adam(eps=1e-16)),
        (1.0, None),
        (1.0, sgd(1e-4)),
    ],
)
def test_a_step_that_is_large_enough_has_no_finding(factor: float, optimizer: Any) -> None:
    torch.manual_seed(1)
    assert found(Mlp(8, 32, 5), labelled(), loss=scaled(factor), optimizer=optimizer) == []


def test_a_language_model_of_half_precision_has_no_finding() -> None:
    torch.manual_seed(1)
    assert found(LanguageModel().float(), tokens(), optimizer=adam(3e-4)) == []
    assert found(LanguageModel(), tokens(), optimizer=lambda p: torch.optim.AdamW(p, lr=6e-4, eps=1e-8)) == []
    model, batch = in_half()
    assert found(model, batch, loss=scaled(1.0), optimizer=adam(1e-2)) == []


def test_a_gradient_that_is_not_contiguous_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "SPAN", 10)
    step, gradient = torch.randn(8, 25), torch.randn(25, 8).t()
    step[0, 3] = gradient[1, 2] = 0
    begun: list[Tensor] = []

    class Counting(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            begun.extend([made] if func is Tensor.flatten and made.numel() == 200 else [])
            return made

    with Counting():
        found = updates.moved(step, gradient)
    assert len(begun) == 2
    assert (found.count, found.asked, found.lost) == (200, 199, 1)
    assert found.squares == pytest.approx(float(step.double().square().sum()), rel=1e-12)


def test_one_cause_is_one_finding() -> None:
    torch.manual_seed(1)
    assert found(Mlp(8, 32, 5), labelled(), loss=scaled(1e-17), optimizer=adam()) == ["Z702"]
    model, batch = in_half()
    assert found(model, batch, loss=scaled(1.0), optimizer=adam(1e-8)) == ["Z703"]


def test_an_optimizer_that_is_given_as_such_is_asked_for_its_eps() -> None:
    torch.manual_seed(1)
    model = Mlp(8, 32, 5)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-3)
    assert found(model, labelled(), loss=scaled(1e-4), optimizer=optimizer) == ["Z702"]


@pytest.mark.slow
def test_adam_in_bf16_learns_as_its_learning_rate_allows() -> None:
    def left(lr: float) -> float:
        torch.manual_seed(1)
        model, (x, _) = in_half()
        batch = (x, (x[:, 0] > 0).long())
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        first = float(scaled(1.0)(model(x), batch).detach())
        for _ in range(200):
            optimizer.zero_grad()
            scaled(1.0)(model(x), batch).backward()
            optimizer.step()
        return float(scaled(1.0)(model(x), batch).detach()) / first

    assert left(1e-2) < 0.1
    assert left(1e-8) > 0.95
