"""Networks that look sick and are not, and their twins that are: each rule on both."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import lookalikes
from zeta.check import CheckReport, check
from zeta.check.facts.places import SEVERITIES
from zeta.check.facts.results import Severity


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
