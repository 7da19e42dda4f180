"""Branches that are copies, and those that only look like it; tables of positions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import Mlp, vectors
from tests.helpers.sick_copies import Buffered, Critics, Ensemble, Mixture, Sentence, Vit, of_both_critics, patches
from zeta.check import check

OF_COPIES = {"Z305", "Z306", "Z307"}


def found(model: nn.Module, batch: Any, loss: Any = None) -> list[tuple[str, str, str | None]]:
    report = check(model, batch, loss)
    return [(one.rule.id, one.severity.value, one.parameter) for one in report.findings if one.rule.id in OF_COPIES]


def labelled(width: int = 8, classes: int = 3) -> Any:
    return vectors(width), torch.arange(64) % classes


def test_branches_that_were_drawn_apart_have_no_finding() -> None:
    torch.manual_seed(1)
    assert found(Critics(False), vectors(10), of_both_critics) == []
    assert found(Ensemble([Mlp(8, 32, 3) for _ in range(5)]), labelled()) == []
    assert found(Mixture(False, cloned=False), labelled(8, 5)) == []
    assert found(Mixture(True, cloned=False), labelled(8, 5)) == []


class Target(nn.Module):
    """A critic with a frozen copy, as in DQN."""

    def __init__(self) -> None:
        super().__init__()
        self.online = Mlp(8, 32, 3)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            wanted = self.target(x)
        return self.online(x), wanted


def test_a_frozen_copy_is_no_twin() -> None:
    torch.manual_seed(1)
    loss = lambda y, b: F.mse_loss(y[0], 1 + 0.9 * y[1])  # noqa: E731
    assert found(Target(), vectors(8), loss) == []


class Encoders(nn.Module):
    """Two encoders of one checkpoint, each with an input of its own, as in dense retrieval."""

    def __init__(self) -> None:
        super().__init__()
        self.query = Mlp(8, 32, 16)
        self.passage = copy.deepcopy(self.query)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.query(x[:, :8]), dim=1) @ F.normalize(self.passage(x[:, 8:]), dim=1).T


def test_copies_with_different_gradients_are_warned_of() -> None:
    torch.manual_seed(1)
    loss = lambda y, b: F.cross_entropy(y / 0.1, torch.arange(64))  # noqa: E731
    assert {(rule, severity) for rule, severity, _ in found(Encoders(), vectors(16), loss)} == {("Z305", "warn")}
    assert {(rule, severity) for rule, severity, _ in found(Mixture(True), labelled(8, 5))} == {("Z305", "warn")}


@pytest.mark.parametrize("active", [True, False])
def test_dropout_in_the_branches_separates_them(active: bool) -> None:
    torch.manual_seed(1)
    member = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
    model = Ensemble([copy.deepcopy(member) for _ in range(3)]).train(active)
    assert {rule for rule, _, _ in found(model, labelled())} == {"Z305" if active else "Z306"}


def test_a_branch_is_told_once() -> None:
    torch.manual_seed(1)
    (one,) = [one for one in check(Critics(True), vectors(10), of_both_critics).findings if one.rule.id in OF_COPIES]
    assert one.message == "q1 and q2 have the same values and the same gradients, and stay equal in every step"


@pytest.mark.parametrize("build", [lambda: Vit(0.02), lambda: Vit(1.0)])
def test_a_table_of_positions_that_is_filled_has_no_finding(build: Any) -> None:
    torch.manual_seed(1)
    assert found(build(), patches()) == []


@pytest.mark.parametrize("kind", [Sentence, Buffered])
def test_positions_of_words_have_no_finding(kind: Any) -> None:
    torch.manual_seed(1)
    assert found(kind(True), (torch.randint(50, (8, 16)), torch.randint(50, (8, 16)))) == []


def test_zero_biases_of_relative_positions_have_no_finding() -> None:
    torch.manual_seed(1)
    model = Vit(0.02)
    model.relative_position_bias_table = nn.Parameter(torch.zeros(9, 4))
    assert found(model, patches()) == []


@pytest.mark.slow
def test_twins_stay_equal_and_others_do_not() -> None:
    for cloned in (True, False):
        torch.manual_seed(1)
        model, batch = Critics(cloned), vectors(10)
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            of_both_critics(model(batch), batch).backward()
            optimizer.step()
        assert torch.equal(model.q1[0].weight, model.q2[0].weight) is cloned
