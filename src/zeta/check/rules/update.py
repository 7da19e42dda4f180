"""Z7: the optimizer's first step."""

from __future__ import annotations

from collections.abc import Iterator

from zeta.check.evidence import Evidence
from zeta.check.results import Finding, Severity
from zeta.check.rules.base import found, graded


def judge(evidence: Evidence) -> Iterator[Finding]:
    """Steps that are large or small beside the weights."""
    limits = evidence.thresholds
    for one in evidence.held:
        size = evidence.updates.get(one.name)
        if size is None or not one.is_weight:
            continue
        grade = graded(size, limits.update_warn, limits.update_fail)
        if grade is not None:
            message = f"the first step changes it by {size:.3g} of its rms"
            yield found("Z701", message, parameter=one.name, severity=grade[0], value=size, limit=grade[1])
        elif size < limits.update_least and not one.still:
            message = f"the first step changes it by {size:.1g} of its rms, too little to learn"
            yield found(
                "Z701", message, parameter=one.name, severity=Severity.WARN, value=size, limit=limits.update_least
            )
