"""One cause is one finding: what follows from it is listed there, in every format."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor, nn

from tests.check.test_check_rules import evidence
from tests.helpers.networks import vectors
from zeta.check import CheckReport, check
from zeta.check.judge import folded
from zeta.check.judge.base import found as finding
from zeta.check.show import serial
from zeta.check.show.notebook import fragment


def dead(bias: float = -100.0) -> nn.Sequential:
    """The units of the second ReLU are off: nothing before it gets a gradient, nothing after it a signal."""
    torch.manual_seed(1)
    layers = [nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)]
    nn.init.constant_(layers[2].bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def found(report: CheckReport) -> list[tuple[str, str, list[tuple[str, str]]]]:
    return [
        (one.rule.id, one.parameter or one.layer or "", [(other.rule, other.place) for other in one.consequences])
        for one in report.findings
    ]


def test_dead_units_are_the_cause_of_gradients_that_are_zero() -> None:
    report = check(dead(), vectors(8))
    assert found(report)[0] == (
        *("Z404", "3"),
        [("Z506", "0.weight"), ("Z506", "2.weight"), ("Z412", "2.bias")],
    )
    assert not report.ok


def test_what_does_not_follow_is_a_finding_of_its_own() -> None:
    """A weight behind the dead units that does not lead to them, and what is worse than its cause."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dead, self.other, self.head = dead(), nn.Linear(8, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.dead(x) + self.head(self.other(x) * torch.zeros(4))

    rows = {(rule, place) for rule, place, _ in found(check(Two(), vectors(8)))}
    assert {("Z404", "dead.3"), ("Z506", "other.weight")} <= rows
    assert ("Z506", "dead.0.weight") not in rows


def test_who_accepts_the_cause_is_told_of_what_follows() -> None:
    report = check(dead(), vectors(8), suppress=["Z404"])
    assert ("Z506", "0.weight", []) in found(report)
    assert {one.rule.id for one in report.suppressed} == {"Z404"}
    report = check(dead(), vectors(8), suppress=["Z506"])
    assert found(report)[0] == ("Z404", "3", [("Z412", "2.bias")])


@pytest.fixture
def report() -> CheckReport:
    return check(dead(), vectors(8))


def test_consequences_are_in_every_format(report: CheckReport) -> None:
    sentence = "It causes Z506 at 0.weight, Z506 at 2.weight and Z412 at 2.bias."
    assert sentence in str(report)
    assert sentence in fragment(report)
    assert sentence in json.loads(report.to_sarif())["runs"][0]["results"][0]["message"]["text"]
    document: Any = json.loads(report.to_json())
    jsonschema.validate(document, serial.schema())
    assert [one["place"] for one in document["findings"][0]["consequences"]] == ["0.weight", "2.weight", "2.bias"]
    assert serial.from_json(document).findings == report.findings


def test_results_without_consequences_are_read(report: CheckReport) -> None:
    """As an earlier version wrote them."""
    document: Any = json.loads(report.to_json())
    for one in document["findings"]:
        del one["consequences"]
    assert all(one.consequences == () for one in serial.from_json(document).findings)


def test_labels_that_do_not_count_are_the_cause_of_a_loss_that_is_not_finite() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    report = check(model, (torch.randn(32, 8), torch.full((32,), -100)))
    assert found(report) == [("Z613", "2.weight", [("Z601", "2.weight")])]


def test_what_follows_from_a_consequence_and_from_its_cause_is_listed_under_the_cause() -> None:
    """Z401 causes Z601, and follows from Z613 itself."""
    made = [finding("Z401", "the layer", layer="x"), finding("Z601", "the loss"), finding("Z613", "the labels")]
    (cause,) = folded(made, evidence())
    assert (cause.rule.id, [other.rule for other in cause.consequences]) == ("Z613", ["Z401", "Z601"])
