"""Write a rule of the catalogue in one call."""

from __future__ import annotations

from zeta.check.facts.results import Rule, Severity

FAIL, WARN, NOTE = Severity.FAIL, Severity.WARN, Severity.NOTE


def rule(number: str, name: str, severity: Severity, summary: str, advice: str, source: str) -> Rule:
    """The rule; ``severity`` is the worst of its findings."""
    return Rule(id=number, name=name, severity=severity, summary=summary, advice=advice, source=source)
