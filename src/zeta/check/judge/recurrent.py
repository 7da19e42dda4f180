"""Z4: gates, memory and growth inside of recurrent modules."""

from __future__ import annotations

import math
from collections.abc import Iterator

from zeta.check.facts.evidence import Evidence, Recurrent
from zeta.check.facts.results import Finding
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge.base import found, graded, percent


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Saturated candidates and gates, states that are lost or never written, states that grow."""
    for one in evidence.recurrent:
        bad = list(_saturated(one, evidence.thresholds))
        yield from bad
        if not bad:  # what is saturated forgets, or grows, for that reason
            yield from _memory(one, evidence.thresholds)
        yield from _growth(one, evidence.thresholds)


def _saturated(one: Recurrent, limits: Thresholds) -> Iterator[Finding]:
    for name, share in one.saturated:
        grade = graded(share, limits.saturated_warn, limits.saturated_fail)
        if grade is not None:
            where = "at 0" if "gate" in name else "at -1 and 1"
            message = f"{percent(share)} of the values of this {one.kind}'s {name} lie {where}"
            yield found(
                "Z407", message, parameter=one.weight, layer=one.module, severity=grade[0], value=share, limit=grade[1]
            )


def _memory(one: Recurrent, limits: Thresholds) -> Iterator[Finding]:
    if one.written is not None and one.written * one.steps < limits.state_written:
        message = (
            f"this {one.kind} writes almost nothing to its state: {one.written:.2g} of its candidate in each of "
            f"{one.steps:,} steps"
        )
        yield found(
            "Z408", message, parameter=one.weight, layer=one.module, value=one.written, limit=limits.state_written
        )
    elif one.factor is not None and one.factor < limits.state_kept:
        why = f"its forget gate is {one.kept:.2g} on average, and " if one.kept is not None else ""
        message = (
            f"this {one.kind} keeps {one.factor:.2g} of a change of its state from one step to the next: {why}the "
            f"spectral radius of its recurrent weight is {one.radius:.2g}"
        )
        yield found("Z408", message, parameter=one.weight, layer=one.module, value=one.factor, limit=limits.state_kept)


def _growth(one: Recurrent, limits: Thresholds) -> Iterator[Finding]:
    if not one.factor:
        return
    total = math.log(one.factor) * (one.steps - 1)
    grade = graded(total, limits.depth_scales_warn, limits.depth_scales_fail)
    if grade is not None:
        message = (
            f"a change of this {one.kind}'s state grows by a factor of {one.factor:.3g} per step, by e^{total:.2g} "
            f"over {one.steps:,} steps; the spectral radius of its recurrent weight is {one.radius:.2g}"
        )
        yield found(
            "Z409", message, parameter=one.weight, layer=one.module, severity=grade[0], value=total, limit=grade[1]
        )
