"""Assertions for tests of models."""

from __future__ import annotations

from typing import Any

from torch import nn

from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.check import CheckReport, check
from zeta.check.facts.places import counts_text, where
from zeta.check.facts.results import Finding, Severity
from zeta.errors import SpecError

__all__ = ["assert_can_learn"]


def assert_can_learn(model: nn.Module, batch: Any, *, strict: bool = False, **options: Any) -> CheckReport:
    """Fail a test if ``model`` cannot learn from its initial values; return the report of ``zeta.check`` otherwise.

    Args:
        model: as for ``zeta.check``. It does not change.
        batch: as for ``zeta.check``: a tensor, a tuple or a mapping, with or without a target; a ``DataLoader``.
        strict: whether warnings fail the test, too.
        options: the other arguments of ``zeta.check``, such as ``loss=``, ``optimizer=`` and ``suppress=``.

    Raises:
        AssertionError: naming each failure with its place, its reason and what to do.

    >>> import torch
    >>> report = assert_can_learn(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(32, 8))
    >>> report.ok
    True
    """
    if not isinstance(strict, bool):
        raise SpecError(f"strict must be True or False, got {shown(strict)}")
    report = check(model, batch, **options)
    reasons = (Severity.FAIL, Severity.WARN) if strict else (Severity.FAIL,)
    failed = [finding for finding in report.findings if finding.severity in reasons]
    if failed:
        raise AssertionError(failure_text(report.model, failed))
    return report


def failure_text(model: str, failed: list[Finding]) -> str:
    """The findings for somebody who reads a log: one paragraph each."""
    first = f"{visible(model)} cannot learn from its initial values: {counts_text(failed)}"
    if not any(finding.severity is Severity.FAIL for finding in failed):
        first = f"{visible(model)} may not learn well from its initial values: {counts_text(failed)}"
    paragraphs = [
        f"{finding.rule.id} {finding.rule.name}, {visible(where(finding))}\n    {visible(finding.message)}\n"
        f"    {visible(finding.advice)}"
        for finding in failed
    ]
    return "\n\n".join([first, *paragraphs])
