"""The rules, one module for each group: each reads the evidence and yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding, Severity
from zeta.check.judge import backward, forward, full, head, memory, plan, symmetry, update, wiring

_GROUPS: Final[tuple[Callable[[Evidence], Iterator[Finding]], ...]] = (
    memory.findings,
    plan.findings,
    symmetry.findings,
    forward.findings,
    backward.findings,
    head.findings,
    update.findings,
    full.findings,
    wiring.findings,
)


#: by a rule that fails, the rules whose findings are its consequences
_CONSEQUENCES: Final = {
    "Z404": ("Z905",),
    "Z406": ("Z905",),
    "Z901": ("Z503",),
    "Z904": ("Z503",),
    "Z905": ("Z302", "Z506"),
}


def all_findings(evidence: Evidence) -> list[Finding]:
    """The findings of all rules, without those that follow from another one."""
    every = [finding for group in _GROUPS for finding in group(evidence)]
    failed = {finding.rule.id: finding for finding in reversed(every) if finding.severity is Severity.FAIL}
    causes: dict[str, Finding] = {}
    follow: set[str] = set()
    for rule, consequences in _CONSEQUENCES.items():  # what follows from another one is no cause
        if rule in failed and rule not in follow:
            causes[rule] = failed[rule]
            follow.update(consequences)
    return [_with_consequences(finding, every, causes) for finding in every if finding.rule.id not in follow]


def _with_consequences(finding: Finding, every: list[Finding], causes: dict[str, Finding]) -> Finding:
    """The finding; the first of a cause says what follows from it."""
    if causes.get(finding.rule.id) is not finding:
        return finding
    left = [other for other in every if other.rule.id in _CONSEQUENCES[finding.rule.id]]
    if not left:
        return finding
    ids = ", ".join(sorted({other.rule.id for other in left}))
    return replace(finding, message=f"{finding.message}; what follows from it is left out ({len(left)} of {ids})")
