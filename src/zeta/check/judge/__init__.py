"""The rules, group by group: each looks at the evidence and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding
from zeta.check.judge import backward, forward, full, head, memory, plan, symmetry, update

Judge = Callable[[Evidence], Iterator[Finding]]

JUDGES: Final[tuple[Judge, ...]] = (
    memory.judge,
    plan.judge,
    symmetry.judge,
    forward.judge,
    backward.judge,
    head.judge,
    update.judge,
    full.judge,
)


def judge(evidence: Evidence) -> list[Finding]:
    """Everything that any rule finds."""
    return [finding for one in JUDGES for finding in one(evidence)]
