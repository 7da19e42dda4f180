"""The first step of an optimizer, where parameters are computed one at a time: that of the model in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zeta
from tests.helpers.networks import LanguageModel, Mlp, tokens, vectors
from tests.helpers.streaming import ran_streamed
from zeta.check import CheckReport, check, supply
from zeta.check.facts.evidence import Subject
from zeta.check.measure import steps, updates


def both(make: Callable[[], nn.Module], batch: Any, optimizer: Any, **options: Any) -> list[CheckReport]:
    model, plan = zeta.record(make)
    made = optimizer(model) if isinstance(optimizer, Given) else optimizer
    held, streamed = (
        check(model, batch, plan=plan, seed=3, streamed=way, optimizer=made, **options) for way in (False, True)
    )
    assert ran_streamed(streamed)
    assert not ran_streamed(held)
    return [held, streamed]


class Given:
    """An optimizer of the model itself, in two groups, of which one has a bias too little."""

    def __call__(self, model: nn.Module) -> torch.optim.Optimizer:
        weights = [one for one in model.parameters() if one.ndim > 1]
        vectors = [one for one in model.parameters() if one.ndim == 1][1:]
        return torch.optim.AdamW([{"params": weights, "lr": 1e-2}, {"params": vectors, "weight_decay": 0.0}])


def equal(held: CheckReport, streamed: CheckReport) -> None:
    assert streamed.parameters == held.parameters
    assert streamed.findings == held.findings
    assert "Z701" not in dict(streamed.skipped)


ELEMENTWISE = sorted(steps._ELEMENTWISE, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_steps_of_all_classes_are_those_in_memory(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "SPAN", 100)  # elements: weights are moved in several parts
    held, streamed = both(lambda: Mlp(16, 32, 4, depth=3), vectors(16), lambda rows: kind(rows, lr=0.05))
    equal(held, streamed)
    assert all(one.update is not None and one.update > 0 for one in streamed.parameters if "weight" in one.name)


def halved() -> nn.Module:
    return Mlp(16, 32, 4, depth=3).to(torch.bfloat16)


def normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 4))


def by_width(rows: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [one], "lr": 0.1 * len(one)} for one in rows])


@pytest.mark.parametrize(
    ("make", "batch", "optimizer"),
    [
        (LanguageModel, tokens, torch.optim.AdamW),
        (lambda: LanguageModel(tied=True), tokens, Given()),
        (normed, lambda: vectors(16), Given()),
        (halved, lambda: vectors(16).bfloat16(), torch.optim.Adam),
        (lambda: Mlp(16, 32, 4), lambda: vectors(16), by_width),
    ],
    ids=["gpt", "given", "weight_norm", "bf16", "groups"],
)
def test_the_report_is_that_of_the_model_in_memory(make: Any, batch: Any, optimizer: Any) -> None:
    equal(*both(make, batch(), optimizer))


@pytest.mark.parametrize(
    ("make", "optimizer", "rule", "options"),
    [
        (lambda: Mlp(16, 32, 4), lambda rows: torch.optim.Adam(rows, lr=5.0), "Z701", {}),
        (lambda: Mlp(16, 32, 4), torch.optim.Adam, "Z702", {"loss": lambda out, _: 1e-14 * out.square().mean()}),
        (halved, lambda rows: torch.optim.SGD(rows, lr=1e-6), "Z703", {"loss": lambda out, _: out.square().mean()}),
    ],
    ids=["Z701", "Z702", "Z703"],
)
def test_a_step_that_is_wrong_is_found(make: Any, optimizer: Any, rule: str, options: Any) -> None:
    batch = vectors(16).bfloat16() if make is halved else vectors(16)
    held, streamed = both(make, batch, optimizer, **options)
    equal(held, streamed)
    assert rule in {one.rule.id for one in streamed.findings}


def test_a_large_parameter_is_moved_with_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "LARGE", 2**10)  # bytes
    monkeypatch.setattr("zeta.check.watch.streaming.source._SPAN", 2**7)  # elements
    seen: list[tuple[str, int]] = []
    take = steps.Steps.take

    def noted(self: steps.Steps, one: Subject, values: Tensor, gradient: Tensor | None) -> None:
        seen.append((one.name, len(values)))
        take(self, one, values, gradient)

    monkeypatch.setattr(steps.Steps, "take", noted)
    held, streamed = both(lambda: Mlp(16, 64, 4, depth=3), vectors(16), torch.optim.Adam)
    sizes, wanted = ({one.name: one.update or 0.0 for one in report.parameters} for report in (streamed, held))
    assert sizes == pytest.approx(wanted, rel=1e-6)
    assert min(size for name, size in sizes.items() if name.endswith("weight")) > 0
    assert [rows for name, rows in seen if name == "0.weight"] == [8] * 8


class Own(torch.optim.Adam):
    """A class that may do anything."""


def by_number(rows: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(rows, lr=0.1 * len(rows))


def by_place(rows: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(rows[-3:-1], lr=0.1)


class WithSpare(nn.Module):
    """One layer is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare = Mlp(16, 32, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (Own, "a step of Own may need all parameters"),
        (by_number, "the function makes other groups"),
        (by_place, "the function makes other groups"),
    ],
    ids=["class", "groups", "others"],
)
def test_what_a_step_needs_more_than_one_element_for_is_skipped(optimizer: Any, text: str) -> None:
    _, streamed = both(WithSpare, vectors(16), optimizer)
    assert text in dict(streamed.skipped)["Z701"]
    assert all(one.update is None for one in streamed.parameters)
    held, streamed = both(WithSpare, vectors(16), torch.optim.Adam)
    assert [one.update for one in streamed.parameters] == [one.update for one in held.parameters]
    assert "Z701" not in dict(streamed.skipped)
