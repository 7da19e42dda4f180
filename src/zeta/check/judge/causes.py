"""One cause is one finding: leave out the findings that follow from another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from zeta.check.facts.results import Finding, Severity

#: for a rule that concerns the whole model, the rules whose findings follow from its failure
_CONSEQUENCES: Final[Mapping[str, tuple[str, ...]]] = {
    "Z613": ("Z302", "Z401", "Z506", "Z507", "Z601", "Z602"),  # a loss of 0 or 0/0 has gradients of 0 or NaN
    **dict.fromkeys(("Z404", "Z405", "Z406"), ("Z412",)),  # the layer after a large bias is named already
    "Z504": ("Z702",),  # gradients that vanish on the way are small
}


def causes(findings: Sequence[Finding]) -> list[Finding]:
    """The findings without the consequences of others."""
    failed = {finding.rule.id for finding in findings if finding.severity is Severity.FAIL}
    follow = {rule for cause in failed for rule in _CONSEQUENCES.get(cause, ())}
    return [finding for finding in findings if finding.rule.id not in follow]
