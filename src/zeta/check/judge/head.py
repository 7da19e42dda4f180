"""Z6: the initial loss, and attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from zeta.check.facts.evidence import Evidence, Use
from zeta.check.facts.results import Finding, Severity
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge.base import found, graded

# Z601: the advice, where no weights of a head make the spread
_OF_COMPARISONS: Final = "Lower the scale (raise the temperature), if it was not chosen on purpose."


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Initial loss, attention entropy, largest score."""
    parameter, layer = head_of(evidence)
    yield from _loss(evidence, parameter, layer)
    last = max((number for number, use in enumerate(evidence.live) if use.weighted), default=-1)
    for number, use in enumerate(evidence.live):
        if use.layer.entropy is not None and use.layer.largest_logit is not None:
            chosen = use.cosines or number > last
            yield from _attention(use, use.layer.entropy, use.layer.largest_logit, chosen, evidence.thresholds)


def _loss(evidence: Evidence, parameter: str | None, layer: str | None) -> Iterator[Finding]:
    loss, limits = evidence.loss, evidence.thresholds
    if loss is None or loss.classes is None or loss.classes < 2:
        return
    if not math.isfinite(loss.value):
        yield found("Z601", f"the initial loss is {loss.value}", parameter=parameter, layer=layer)
        return
    if loss.expected is None:
        return
    neutral = math.log(loss.classes)
    # only what the spread of the logits adds counts here; labels far from chance level are reported by Z602
    excess = min(loss.value, loss.expected) - neutral
    grade = graded(excess, limits.loss_excess_warn, max(limits.loss_excess_warn, limits.loss_excess_fail * neutral))
    if grade is not None:
        message = (
            f"the initial loss is {loss.value:.4g}; chance level is ln({loss.classes}) = {neutral:.4g}, and the spread "
            f"of the logits raises it to {loss.expected:.4g}"
        )
        yield found(
            "Z601",
            message,
            parameter=parameter,
            layer=layer,
            severity=Severity.WARN if evidence.compared else grade[0],
            advice=_OF_COMPARISONS if evidence.compared else None,
            value=loss.value,
            limit=neutral + grade[1],
        )
    if evidence.paired or evidence.compared:
        return  # similar inputs give a loss below chance level without any learning, and a margin one above
    missed = loss.value - loss.expected
    # The labels' logits miss the mean logit by up to their spread s, if the rows of a batch prefer the same classes.
    # It adds s^2 / 2 to the expected loss while it is small, and s times the mean of the largest of `classes` normal
    # values, at least s / 2, once it is large: both are 1/2 at s = 1.
    added = max(loss.expected - neutral, 0.0)
    spread = max(math.sqrt(2 * added), 2 * added)
    if abs(missed) > limits.loss_deficit + spread:
        side = "below" if missed < 0 else "above"
        message = f"the initial loss is {loss.value:.4g}, {abs(missed):.3g} {side} its expected value for random labels"
        yield found("Z602", message, parameter=parameter, layer=layer, value=loss.value, limit=loss.expected)


def head_of(evidence: Evidence) -> tuple[str | None, str | None]:
    """The weight and the layer that make the logits."""
    head = next((use for use in evidence.live if use.head), None)
    own = evidence.head.intersection(() if head is None else head.layer.parameters) or evidence.head
    weights = sorted(name for name in own if "bias" not in name)
    return (weights[0] if weights else None), (None if head is None else head.layer.name)


def _attention(use: Use, entropy: float, largest: float, chosen: bool, limits: Thresholds) -> Iterator[Finding]:
    """``chosen``: the scale of cosines is a choice, and weights that are the answer have a gradient as logits have."""
    if entropy < limits.entropy_warn:
        failed = entropy < limits.entropy_fail and not chosen
        message = f"the mean entropy of this attention is {entropy:.2g} times that of uniform attention"
        yield found(
            "Z603",
            message,
            layer=use.layer.name,
            severity=Severity.FAIL if failed else Severity.WARN,
            value=entropy,
            limit=limits.entropy_fail if failed else limits.entropy_warn,
        )
    if largest > limits.largest_logit:
        message = f"the largest attention score is {largest:.4g}"
        yield found("Z604", message, layer=use.layer.name, value=largest, limit=limits.largest_logit)
