"""Z6: the loss function and its target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from zeta.check.facts.evidence import Criterion, Evidence
from zeta.check.facts.results import Finding, Severity
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge.base import found, graded, percent
from zeta.check.judge.head import head_of

# binary targets may be off by this: rounding in fp16
_ROUNDED: Final = 1e-3


def findings(evidence: Evidence) -> Iterator[Finding]:
    """The first problem of each kind: several losses often share one output."""
    parameter, layer = head_of(evidence)
    for rule, judge in _JUDGES.items():
        for criterion in evidence.criteria:
            problem = judge(criterion, evidence.thresholds)
            if problem is not None:
                severity, message, value, limit = problem
                yield found(
                    rule, message, parameter=parameter, layer=layer, severity=severity, value=value, limit=limit
                )
                break
    rising = _maximised(evidence)
    if rising is not None:
        yield found("Z608", rising, parameter=parameter, layer=layer)


#: the severity, the message, the value and its limit
Problem = tuple[Severity, str, float | None, float | None]


def _probabilities(criterion: Criterion, limits: Thresholds) -> Problem | None:
    if criterion.holds != "probabilities" or criterion.function in _OF_LOGARITHMS:
        return None
    name = _name(criterion)
    message = f"{name} gets probabilities instead of logits: between 0 and 1, they hardly differ"
    return Severity.WARN, message, None, None


def _logarithms(criterion: Criterion, limits: Thresholds) -> Problem | None:
    if criterion.holds is None or criterion.function not in _OF_LOGARITHMS or criterion.crossed is not None:
        return None
    # of probabilities, the loss is their negative: it has a lower bound, and gradients that vanish with them
    severity = Severity.FAIL if criterion.holds == "logits" else Severity.WARN
    return severity, f"{_name(criterion)} gets {criterion.holds} instead of log-probabilities", None, None


def _broadcast(criterion: Criterion, limits: Thresholds) -> Problem | None:
    if criterion.broadcast is None:
        return None
    message = (
        f"{_name(criterion)} compares a prediction of shape {_shape(criterion.shape)} with a target of shape "
        f"{_shape(criterion.target)}: they are broadcast to {_shape(criterion.broadcast)}, each prediction with every "
        "target"
    )
    return Severity.FAIL, message, None, None


def _crossed(criterion: Criterion, limits: Thresholds) -> Problem | None:
    if criterion.crossed is None:
        return None
    message = f"the probabilities sum to one over dimension {criterion.crossed}, and not over the classes"
    return Severity.FAIL, message, None, None


def _beyond(criterion: Criterion, limits: Thresholds) -> Problem | None:
    fit = criterion.fit
    if fit is None or fit.activation is None or criterion.constant:
        return None
    grade = graded(fit.beyond, limits.beyond_warn, limits.beyond_fail)
    if grade is None:
        return None
    least, most = _RANGES[fit.activation]
    message = (
        f"the output ends with {fit.activation}, which gives {least} to {most}, and the targets lie between "
        f"{fit.low:.4g} and {fit.high:.4g}: {percent(min(fit.beyond, 1.0))} of their variance cannot be learned"
    )
    return grade[0], message, fit.beyond, grade[1]


def _scale(criterion: Criterion, limits: Thresholds) -> Problem | None:
    fit = criterion.fit
    if fit is None or _beyond(criterion, limits) is not None:
        return None
    ratio = fit.target_rms / max(fit.output_rms, 1.0)
    grade = graded(ratio, limits.target_scale_warn, limits.target_scale_fail)
    if grade is None:
        return None
    message = f"the targets have rms {fit.target_rms:.3g}, and the outputs {fit.output_rms:.3g}"
    return grade[0], message, ratio, grade[1]


def _binary(criterion: Criterion, limits: Thresholds) -> Problem | None:
    if criterion.range is None:
        return None
    low, high = criterion.range
    if low >= -_ROUNDED and high <= 1 + _ROUNDED:
        return None
    message = f"the targets of {_name(criterion)} lie between {low:.4g} and {high:.4g}, and not between 0 and 1"
    return Severity.FAIL, message, low if low < 0 else high, 0.0 if low < 0 else 1.0


def _uncounted(criterion: Criterion, limits: Thresholds) -> Problem | None:
    if not criterion.counted:
        return Severity.FAIL, f"all labels of {_name(criterion)} {criterion.uncounted}", 0.0, None
    if not criterion.weightless:
        return None
    classes = ", ".join(map(str, criterion.weightless[:5])) + (", ..." if len(criterion.weightless) > 5 else "")
    noun = "class" if len(criterion.weightless) == 1 else "classes"
    message = f"{_name(criterion)} gives {noun} {classes} the weight zero, and labels of this batch name them"
    return Severity.WARN, message, criterion.counted, None


def _maximised(evidence: Evidence) -> str | None:
    """If moving toward the target raises every loss, and the sum is negative.

    A loss against a constant target is left alone: a generator may maximise its discriminator's loss.
    """
    loss = evidence.objective
    if not -math.inf < loss < 0:
        return None
    if any(one.falling > one.rising for one in evidence.criteria):
        return None
    for one in evidence.criteria:
        seen = one.falling + one.rising
        if seen and not one.constant and one.rising >= evidence.thresholds.rising * seen:
            return (
                f"the loss is {loss:.4g}, and rises for {one.rising:,} of {seen:,} samples if their prediction "
                f"moves toward the target: {_name(one)} is maximised"
            )
    return None


_OF_LOGARITHMS: Final = ("nll_loss", "kl_div")
_NAMES: Final = {"difference": "prediction - target", "by_hand": "the loss", "cross_entropy": "cross entropy"}
_RANGES: Final = {
    "tanh": ("-1", "1"),
    "sigmoid": ("0", "1"),
    "softmax": ("0", "1"),
    **dict.fromkeys(("relu", "softplus", "exp"), ("0", "infinity")),
}
_JUDGES: Final[dict[str, Callable[[Criterion, Thresholds], Problem | None]]] = {
    "Z605": _probabilities,
    "Z606": _logarithms,
    "Z607": _broadcast,
    "Z609": _crossed,
    "Z610": _beyond,
    "Z611": _scale,
    "Z612": _binary,
    "Z613": _uncounted,
}


def _name(criterion: Criterion) -> str:
    return _NAMES.get(criterion.function, criterion.function)


def _shape(shape: tuple[int, ...]) -> str:
    return str(shape).replace(" ", "") if len(shape) == 1 else str(shape)
