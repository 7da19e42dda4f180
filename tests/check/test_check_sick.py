"""Sick models, one defect each: caught by the right rule, at the right place."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import sick_arguable, sick_copies, sick_losses, sick_recurrent, sick_updates  # noqa: F401 - they add their cases
from tests.helpers.sick import CASES, Case
from zeta.check import RULES, check


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_defect_is_found(case: Case) -> None:
    torch.manual_seed(1)
    model, batch, *rest = case.build()
    report = check(model, batch, **(rest[0] if rest else {}), **case.options)
    found = [finding for finding in report.findings if finding.rule.id == case.rule]
    assert found, [(finding.rule.id, finding.parameter, finding.layer, finding.message) for finding in report.findings]
    places = [(finding.parameter, finding.layer) for finding in found]
    assert case.where is None or any(case.where in place for place in places), places
    here = [f for f in found if case.where is None or case.where in (f.parameter, f.layer)]
    assert case.severity in {finding.severity.value for finding in here}, here
    assert report.ok is (not any(finding.severity.value == "fail" for finding in report.findings))


def test_there_are_many_of_them_and_every_rule_of_the_fast_level_is_among_them() -> None:
    assert len(CASES) >= 40
    benign = {"Z303", "Z304", "Z505"}
    assert {case.rule for case in CASES} >= {rule for rule in RULES if not rule.startswith("Z8")} - benign
