"""Helpers of the rules: make findings, grade values."""

from __future__ import annotations

from zeta.check.facts.catalogue import RULES
from zeta.check.facts.results import Finding, Severity


def found(
    rule: str,
    message: str,
    *,
    parameter: str | None = None,
    layer: str | None = None,
    severity: Severity | None = None,
    advice: str | None = None,
    value: float | None = None,
    limit: float | None = None,
) -> Finding:
    """A finding of the rule with this id; severity and advice are the rule's unless given."""
    known = RULES[rule]
    return Finding(
        rule=known,
        severity=severity or known.severity,
        parameter=parameter,
        layer=layer,
        message=message,
        advice=advice or known.advice,
        value=value,
        limit=limit,
    )


def graded(value: float, warn: float, fail: float) -> tuple[Severity, float] | None:
    """The severity of a value for which large is bad, and the limit that it passed; ``None`` below both limits."""
    if value > fail:
        return Severity.FAIL, fail
    return (Severity.WARN, warn) if value > warn else None


def percent(fraction: float) -> str:
    """``0.5`` as ``50%``; only exactly 0 and 1 are shown as ``0%`` and ``100%``.

    >>> percent(0.5), percent(0.9999), percent(0.0001), percent(1.0)
    ('50%', '99.99%', '0.01%', '100%')
    """
    digits = 0 if fraction in (0.0, 1.0) or 0.005 <= fraction < 0.995 else 2
    return f"{100 * fraction:.{digits}f}%"
