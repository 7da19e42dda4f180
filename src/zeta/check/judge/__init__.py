"""The rules, one module for each group: each reads the evidence and yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding
from zeta.check.judge import arguable, backward, forward, full, head, memory, plan, recurrent, wiring
from zeta.check.judge.causes import folded
from zeta.check.judge.symmetry import units
from zeta.check.judge.training import losses, update

__all__ = ["all_findings", "folded"]

_GROUPS: Final[tuple[Callable[[Evidence], Iterator[Finding]], ...]] = (
    memory.findings,
    plan.findings,
    units.findings,
    forward.findings,
    recurrent.findings,
    arguable.findings,
    backward.findings,
    head.findings,
    losses.findings,
    update.findings,
    full.findings,
    wiring.findings,
)


def all_findings(evidence: Evidence) -> list[Finding]:
    """The findings of all rules."""
    return [finding for group in _GROUPS for finding in group(evidence)]
