"""The comparison that the tests of recording rely on finds what it says that it finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.recorded import compare, laws_differ, recorded

N = 40_000
Sample = Callable[[], Tensor]


def truncated(cutoff: float, std: float = 1.0) -> Sample:
    return lambda: nn.init.trunc_normal_(torch.empty(N), std=std, a=-cutoff * std, b=cutoff * std)


LAWS: dict[str, Sample] = {
    "normal": lambda: torch.randn(N),
    "shifted": lambda: torch.randn(N) + 0.1,
    "wider": lambda: torch.randn(N) * 1.05,
    "uniform of the same std": lambda: (torch.rand(N) - 0.5) * 12**0.5,
    "cut at 2": truncated(2),
    "cut at 2, of the same std": truncated(2, 1 / 0.8796),
    "cut at 3": truncated(3),
    "skewed": lambda: torch.distributions.Exponential(1.0).sample((N,)) - 1,
    "a tenth zero": lambda: torch.randn(N) * (torch.rand(N) > 0.1) / 0.9**0.5,
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_equals_itself_and_no_other(name: str) -> None:
    one = LAWS[name]().double()
    for other, sample in LAWS.items():
        found = laws_differ(one, sample().double())
        assert bool(found) is (other != name), f"{other}: {found}"


def test_few_values_are_pooled() -> None:
    """A bias of 64 elements is held against the same law, over 16 seeds and as many constructions."""
    model, plan, _ = recorded(nn.Linear, 16, 64)
    assert compare(model, plan, lambda: nn.Linear(16, 64), 16) == []
    assert [text.split(":")[0] for text in compare(model, plan, lambda: nn.Linear(8, 64))][:1] == ["weight"]

    def wrong() -> nn.Module:
        layer = nn.Linear(16, 64)
        nn.init.normal_(layer.bias, std=1 / 48**0.5)
        return layer

    problems = compare(model, plan, wrong, 16)
    assert problems
    assert all(text.startswith("bias: ") for text in problems)


def test_the_model_is_left_as_it_was() -> None:
    model, plan, _ = recorded(nn.Linear, 16, 64)
    before = model.weight.detach().clone()
    compare(model, plan, lambda: nn.Linear(16, 64))
    assert torch.equal(model.weight, before)
