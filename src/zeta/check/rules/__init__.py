"""The rules, group by group: each looks at the evidence and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from zeta.check.evidence import Evidence
from zeta.check.results import Finding

Judge = Callable[[Evidence], Iterator[Finding]]

JUDGES: Final[tuple[Judge, ...]] = ()


def judge(evidence: Evidence) -> list[Finding]:
    """Everything that any rule finds."""
    return [finding for one in JUDGES for finding in one(evidence)]
