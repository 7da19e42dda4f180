"""Z7: the optimizer's first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import torch

from zeta.check.facts.evidence import Evidence, TensorFacts, Update
from zeta.check.facts.results import Finding, Severity
from zeta.check.judge.base import found, graded, percent

# the eps of torch's Adam, where no optimizer is given
_USUAL_EPS: Final = 1e-8


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Steps that are too large or too small compared with the weights, or that are rounded away."""
    steps = [(one, evidence.updates[one.name]) for one in evidence.tensors if one.name in evidence.updates]
    weights = [(one, update) for one, update in steps if one.is_weight]
    tiny = _tiny(evidence)
    if tiny is not None:
        yield tiny
    lost = None if tiny is not None else _rounded(weights, evidence)
    if lost is not None:
        yield lost
    for one, update in weights:
        yield from _size(one, update, evidence, explained=tiny is not None or lost is not None)


def _size(one: TensorFacts, update: Update, evidence: Evidence, *, explained: bool) -> Iterator[Finding]:
    limits = evidence.thresholds
    step = f"the first step{'' if update.group is None else f' of {update.group}'} changes it by"
    grade = graded(update.size, limits.update_warn, limits.update_fail)
    if grade is not None:
        message = f"{step} {update.size:.3g} of its rms"
        yield found("Z701", message, parameter=one.name, severity=grade[0], value=update.size, limit=grade[1])
    elif update.size < limits.update_least and not one.still and not explained:
        message = f"{step} {update.size:.1g} of its rms, too little to learn"
        least = limits.update_least
        yield found("Z701", message, parameter=one.name, severity=Severity.WARN, value=update.size, limit=least)


def _tiny(evidence: Evidence) -> Finding | None:
    """If the largest gradient is below eps. Single ones may be: those of queries and keys are small at first."""
    if evidence.surrogate:
        return None
    sizes = [
        (one.gradient_stats.rms, one)
        for one in evidence.tensors
        if one.is_weight and one.gradient_stats is not None and not one.gradient_stats.nonfinite
    ]
    size, one = max(sizes, key=lambda pair: pair[0], default=(0.0, None))
    if one is None or size == 0:
        return None
    update = evidence.updates.get(one.name)
    if evidence.updates and (update is None or update.eps is None):
        return None  # an optimizer that divides by nothing, such as SGD
    eps = _USUAL_EPS if update is None or update.eps is None else update.eps
    limit = evidence.thresholds.gradient_over_eps * eps
    if size >= limit:
        return None
    whose = f"the optimizer's eps, {eps:.3g}" if evidence.updates else f"the eps of Adam, {eps:.3g}"
    message = f"the largest gradient, that of {one.name}, has rms {size:.2g}, less than {whose}"
    severity = Severity.FAIL if evidence.updates else Severity.WARN
    return found("Z702", message, parameter=one.name, severity=severity, value=size, limit=limit)


def _rounded(weights: Sequence[tuple[TensorFacts, Update]], evidence: Evidence) -> Finding | None:
    """One finding for all weights: the learning rate and the dtype are usually common to them.

    Steps that even fp32 rounds away are less than ``update_least`` of the weights: Z701 reports them.
    """
    limits = evidence.thresholds
    coarse = [(one, update) for one, update in weights if torch.finfo(one.dtype).eps > limits.update_least * 10]
    lost = [(update.rounded, one) for one, update in coarse if update.rounded > limits.rounded_warn and not one.still]
    share, one = max(lost, key=lambda pair: pair[0], default=(0.0, None))
    if one is None:
        return None
    every = len(lost) == len(weights) and min(pair[0] for pair in lost) > limits.rounded_fail
    message = (
        f"the first step leaves {percent(share)} of the elements of {one.name} as they are, because "
        f"{str(one.slot.tensor.dtype).removeprefix('torch.')} has no number so near, and more than "
        f"{percent(limits.rounded_warn)} of {len(lost)} of {len(weights)} weights"
    )
    severity = Severity.FAIL if every else Severity.WARN
    limit = limits.rounded_fail if every else limits.rounded_warn
    return found("Z703", message, parameter=one.name, severity=severity, value=share, limit=limit)
