"""Networks that look sick and are not, and their twins that are: each rule on both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import lookalikes
from zeta.check import CheckReport, check
from zeta.check.facts.places import SEVERITIES
from zeta.check.facts.results import Severity
from zeta.check.watch.batches import Call, call_of, tensors_in
from zeta.check.watch.criteria.objective import objective


def checked(case: lookalikes.Lookalike) -> CheckReport:
    torch.manual_seed(1)
    model, batch, *options = case.build()
    return check(model, batch, **(options[0] if options else {}))


def show(report: CheckReport) -> list[str]:
    return [f"{f.rule.id} {f.severity.value} {f.parameter or f.layer}: {f.message}" for f in report.findings]


@pytest.mark.parametrize("name", lookalikes.HEALTHY)
def test_what_only_looks_sick_does_not_fail(name: str) -> None:
    case = lookalikes.HEALTHY[name]
    report = checked(case)
    assert report.ok, show(report)
    found = [one.severity for one in report.findings if one.rule.id == case.rule]
    worse = SEVERITIES if case.severity is None else SEVERITIES[: SEVERITIES.index(Severity(case.severity))]
    assert not set(found).intersection(worse), show(report)


@pytest.mark.parametrize("name", lookalikes.SICK)
def test_its_sick_twin_is_found(name: str) -> None:
    case = lookalikes.SICK[name]
    report = checked(case)
    found = {(f.rule.id, f.severity.value) for f in report.findings}
    found |= {(one.rule, one.severity.value) for f in report.findings for one in f.consequences}
    assert (case.rule, case.severity) in found, show(report)


# most learn in 20 steps, the slowest one in 172
STEPS = 250


def loss_of(output: Any, call: Call, given: Any, wanted: dict[str, Tensor]) -> Tensor:
    """The loss of the check; where that is only a projection, the distance to fixed random values."""
    found = objective(output, call, given)
    if not found.surrogate:
        return found.value
    distances = []
    for name, values in tensors_in(output):
        if values.is_floating_point():
            scale = values.detach().std().clamp_min(0.1)
            wanted.setdefault(name, values.detach().mean() + scale * torch.randn(values.shape))
            distances.append((values - wanted[name]).square().mean() / scale.square())
    return torch.stack(distances).mean()


def learns(case: lookalikes.Lookalike, lr: float) -> bool:
    """Whether the loss falls by a tenth, for five steps."""
    torch.manual_seed(1)
    model, batch, *options = case.build()
    given = options[0].get("loss") if options else None
    call = call_of(model, batch, given)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=lr)
    wanted: dict[str, Tensor] = {}
    losses: list[float] = []
    while len(losses) < STEPS:
        optimizer.zero_grad()
        loss = loss_of(call.output_of(model), call, given, wanted)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) > 5 and max(losses[-5:]) < 0.9 * losses[0]:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", lookalikes.HEALTHY)
def test_what_only_looks_sick_learns_at_a_usual_learning_rate(name: str) -> None:
    assert learns(lookalikes.HEALTHY[name], 3e-3) or learns(lookalikes.HEALTHY[name], 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["forty_layers_with_the_defaults_of_torch", "seconds_since_1970_in_fp32", "images_that_were_divided_to_zero"],
)
def test_its_sick_twin_does_not(name: str) -> None:
    assert not learns(lookalikes.SICK[name], 3e-3)
    assert not learns(lookalikes.SICK[name], 1e-3)
