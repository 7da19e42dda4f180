"""The check of parametrized weights by their plan: the values that the plan gives, not those that are divided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import zeta
from zeta import Rule, Rules
from zeta.initializers import Initializer, Normal, Orthogonal, Uniform, Zeros

pytestmark = pytest.mark.filterwarnings("ignore::zeta.errors.ZetaNotice")


class Doubled(nn.Module):
    """A parametrization that spectral norm is put on or under."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, x: Tensor) -> Tensor:
        return x / 2


def _doubled(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(16, 16)),
    "over another": lambda: parametrizations.spectral_norm(_doubled(nn.Linear(16, 16))),
    "under another": lambda: _doubled(parametrizations.spectral_norm(nn.Linear(16, 16))),
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(16, 16)),
}


@pytest.mark.parametrize("initializer", [Normal(0.02, 0.01), Uniform(-0.3, 0.1), Orthogonal(2.0)], ids=repr)
@pytest.mark.parametrize("name", LAYERS)
def test_values_as_planned_are_as_planned(name: str, initializer: Initializer) -> None:
    model = nn.Sequential(LAYERS[name]())
    plan = zeta.plan(model, Rules([Rule("*.weight", initializer), Rule("*.bias", Zeros())]))
    assert zeta.apply_(model, plan, seed=0).ok
    report = zeta.check(model, torch.randn(64, 16), plan=plan)
    assert not {"Z201", "Z202"} & {finding.rule.id for finding in report.findings}
    with torch.no_grad():
        for original in model[0].parametrizations.weight.parameters():
            original.mul_(3)
            original[0].add_(1)
    report = zeta.check(model, torch.randn(64, 16), plan=plan)
    assert {"Z201"} <= {finding.rule.id for finding in report.findings}
