"""What is connected to what: networks that are wired wrong are found, and their twins that are wired right are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.sick import Build, Case
from tests.helpers.wiring import WIRED_RIGHT, WIRED_WRONG
from zeta.check import CheckReport, check

pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:None of the inputs have")


def checked(build: Build, **options: Any) -> CheckReport:
    torch.manual_seed(1)
    model, batch, *rest = build()
    return check(model, batch, **(rest[0] if rest else {}), **options)


def shown(report: CheckReport) -> list[str]:
    return [f"{f.rule.id} {f.severity.value} {f.parameter or f.layer}: {f.message}" for f in report.findings]


@pytest.mark.parametrize("case", WIRED_WRONG, ids=lambda case: case.name)
def test_what_is_wired_wrong_is_found_and_nothing_else_is_said_of_it(case: Case) -> None:
    report = checked(case.build)
    found = [(f.rule.id, f.severity.value) for f in report.findings if f.rule.id != "Z903" or case.rule == "Z903"]
    assert (case.rule, case.severity) in found, (shown(report), report.skipped)
    assert case.where is None or case.where in {f.parameter or f.layer for f in report.findings}, shown(report)
    assert {rule for rule, severity in found if severity != "note"} <= {case.rule}, shown(report)


@pytest.mark.parametrize("name", WIRED_RIGHT)
def test_what_is_wired_right_is_not(name: str) -> None:
    report = checked(WIRED_RIGHT[name])
    assert report.ok, shown(report)
    assert [line for line in shown(report) if line.startswith("Z9") and " note " not in line] == []
