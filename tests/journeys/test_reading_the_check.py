"""A sick model: what the findings say, mend, check again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.initializers import Zeros, kaiming_normal
from zeta.utils import init_constant_, init_kaiming_normal_


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(128, 32, generator=generator), torch.randint(10, (128,), generator=generator)


def deep() -> nn.Module:
    return nn.Sequential(*(part for _ in range(10) for part in (nn.Linear(32, 32), nn.ReLU())), nn.Linear(32, 10))


def findings(report: zeta.CheckReport) -> dict[str, tuple[str, str | None]]:
    return {finding.rule.id: (finding.severity.value, finding.parameter) for finding in report.findings}


def test_a_signal_that_vanishes_is_found_and_mended() -> None:
    model = deep()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02) if parameter.ndim == 2 else nn.init.zeros_(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = zeta.check(model, batch())
    assert not report.ok
    found = findings(report)
    assert found["Z402"] == ("fail", "18.weight")
    assert [one.rule for one in report.findings[0].consequences] == ["Z504", "Z702"]
    assert "zeta.gain" in report.findings[0].advice
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    rules = Rules([Rule("20.weight", Zeros()), Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())])
    zeta.init_(model, rules, seed=0)
    report = zeta.check(model, batch())
    assert report.ok
    assert findings(report) == {"Z303": ("note", "20.weight")}


def test_equal_units_are_found_and_mended() -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    init_kaiming_normal_(model, seed=0)
    for layer in (model[2], model[4]):
        init_constant_(layer, 0.05)
    report = zeta.check(model, batch())
    assert not report.ok
    assert "only 1 of 64 units differ" in str(report)

    init_kaiming_normal_(model, seed=0)
    assert zeta.check(model, batch()).ok


def test_a_plan_that_was_never_applied_is_found() -> None:
    model = deep()
    plan = zeta.plan(model, Rules([Rule("*.weight", kaiming_normal()), Rule("*.bias", Zeros())]))
    assert not zeta.check(model, batch(), plan=plan).ok
    zeta.apply_(model, plan, seed=0)
    assert zeta.check(model, batch(), plan=plan).ok


def test_an_unknown_rule_to_suppress_is_an_error() -> None:
    with pytest.raises(zeta.SpecError, match="Z999"):
        zeta.check(deep(), batch(), suppress=["Z999"])
