"""Sick models, one defect each: caught by the right rule, at the right place."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import sick_arguable, sick_copies, sick_losses, sick_recurrent, sick_updates  # noqa: F401 - they add their cases
from tests.helpers.sick import CASES, Case
from tests.helpers.wiring import WIRED_WRONG
from zeta.check import RULES, check


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_defect_is_found(case: Case) -> None:
    torch.manual_seed(1)
    model, batch, *rest = case.build()
    report = check(model, batch, **(rest[0] if rest else {}), **case.options)
    found = [(f.rule.id, f.severity.value, {f.parameter, f.layer}) for f in report.findings]
    found += [(c.rule, c.severity.value, {c.place}) for f in report.findings for c in f.consequences]
    assert case.rule in {rule for rule, *_ in found}, found
    here = [(rule, severity) for rule, severity, places in found if case.where is None or case.where in places]
    assert (case.rule, case.severity) in here, found
    assert report.ok is (not any(finding.severity.value == "fail" for finding in report.findings))


def test_there_are_many_of_them_and_every_rule_of_the_fast_level_is_among_them() -> None:
    assert len(CASES) >= 40
    benign = {"Z303", "Z304", "Z505"}
    assert {case.rule for case in CASES + WIRED_WRONG} >= {rule for rule in RULES if not rule.startswith("Z8")} - benign
