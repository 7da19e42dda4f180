"""The ways out of a report: each returns its text, or writes it where asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.check.test_check_tensorboard import Notes
from tests.helpers.check_results import ALL
from zeta.check.show.html import page
from zeta.check.show.report import CheckReport
from zeta.check.show.sarif import to_sarif
from zeta.check.show.serial import to_json
from zeta.check.show.terminal import text


@pytest.fixture
def report() -> CheckReport:
    return CheckReport(**vars(ALL["odd"]()))


@pytest.mark.parametrize("way", ["to_json", "to_html", "to_sarif"])
def test_what_is_returned_is_what_is_written(report: CheckReport, way: str, tmp_path: Path) -> None:
    assert getattr(report, way)(tmp_path / "out") is None, "a console shows what is returned"
    assert (tmp_path / "out").read_bytes().decode() == getattr(report, way)()


def test_a_report_goes_every_way_that_results_go(report: CheckReport) -> None:
    results = ALL["odd"]()
    assert str(report) == text(results)
    assert json.loads(report.to_json()) == to_json(results)
    assert report.to_html() == page(results)
    assert json.loads(report.to_sarif(artifact="src/model.py")) == to_sarif(results, "src/model.py")
    notes = Notes()
    report.log_to(notes, step=3)
    assert notes.steps == {3}
