"""Z7: the optimizer's first step."""

from __future__ import annotations

from collections.abc import Iterator

from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding, Severity
from zeta.check.judge.base import found, graded


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Steps that are too large or too small compared with the weights."""
    limits = evidence.thresholds
    for one in evidence.tensors:
        update = evidence.updates.get(one.name)
        if update is None or not one.is_weight:
            continue
        step = f"the first step{'' if update.group is None else f' of {update.group}'} changes it by"
        grade = graded(update.size, limits.update_warn, limits.update_fail)
        if grade is not None:
            message = f"{step} {update.size:.3g} of its rms"
            yield found("Z701", message, parameter=one.name, severity=grade[0], value=update.size, limit=grade[1])
        elif update.size < limits.update_least and not one.still:
            message = f"{step} {update.size:.1g} of its rms, too little to learn"
            least = limits.update_least
            yield found("Z701", message, parameter=one.name, severity=Severity.WARN, value=update.size, limit=least)
