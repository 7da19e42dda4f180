"""Calls of ``torch.nn.init`` stay in the constructor, or become functions of ``zeta.utils`` with the same law."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import zeta
from zeta import utils
from zeta.initializers import Normal, TruncatedNormal, Zeros


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)
        self.token = nn.Parameter(torch.empty(1, 64))
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)
        nn.init.trunc_normal_(self.token, std=0.02)


def test_calls_in_a_constructor_are_read() -> None:
    model, plan = zeta.record(Net)
    assert plan["fc.weight"].std == pytest.approx((2 / 64) ** 0.5)
    assert isinstance(plan["fc.weight"].initializer, Normal)
    assert plan["fc.bias"].initializer == Zeros()
    assert plan["token"].initializer == TruncatedNormal(0.02, low=-2, high=2)
    assert zeta.materialize_(model, plan, seed=0).ok
    assert zeta.verify(model, plan, seed=0).ok


PAIRS: list[tuple[Callable[[torch.Tensor], object], Callable[[nn.Module], object]]] = [
    (lambda w: nn.init.uniform_(w, -0.1, 0.1), lambda m: utils.init_uniform_(m, -0.1, 0.1)),
    (lambda w: nn.init.normal_(w, std=0.02), lambda m: utils.init_normal_(m, std=0.02)),
    (lambda w: nn.init.constant_(w, 0.5), lambda m: utils.init_constant_(m, 0.5)),
    (nn.init.xavier_uniform_, utils.init_xavier_uniform_),
    (nn.init.xavier_normal_, utils.init_xavier_normal_),
    (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), utils.init_kaiming_normal_),
    (nn.init.orthogonal_, utils.init_orthogonal_),
]


@pytest.mark.parametrize(("of_torch", "of_zeta"), PAIRS)
def test_a_function_has_the_law_of_its_namesake(
    of_torch: Callable[[torch.Tensor], object], of_zeta: Callable[[nn.Module], object]
) -> None:
    layer = nn.Linear(30, 40)

    def before(layer: nn.Module) -> None:
        of_torch(layer.weight)
        nn.init.zeros_(layer.bias)

    assert not zeta.diff(zeta.plan(layer, before), zeta.plan(layer, of_zeta))
