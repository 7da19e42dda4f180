"""Z5: the gradients in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from zeta.base.text import fold
from zeta.check.facts.evidence import Evidence, Later, TensorFacts, Use
from zeta.check.facts.results import Finding
from zeta.check.judge.base import found, graded
from zeta.check.judge.forward import streams, weight_of
from zeta.rules import Kind


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Unused, detached or frozen parameters; gradients that vanish, explode, are zero or not finite."""
    learned = [one for one in evidence.tensors if one.trainable and not one.buffer]
    if not evidence.differentiable:
        message = "no trainable parameter gets a gradient" if learned else "no parameter is trainable"
        yield found("Z503", message)
    yield from _without(learned, evidence)
    yield from _frozen(evidence)
    yield from _ratio(evidence)
    yield from _still(learned, evidence)
    yield from _not_finite(learned, evidence)


def _without(learned: list[TensorFacts], evidence: Evidence) -> Iterator[Finding]:
    for one in learned:
        if one.gradient_stats is not None or not math.prod(one.slot.shape):
            continue
        cut = one.detached or (evidence.differentiable and _under_no_grad(one, evidence))
        if one.used and cut:
            yield found("Z502", "it takes part in the forward pass, and is cut off from the loss", parameter=one.name)
        elif evidence.differentiable:
            how = "its output takes no part in the loss" if one.used else "nothing used it in the forward pass"
            yield found("Z501", how, parameter=one.name)


def _under_no_grad(one: TensorFacts, evidence: Evidence) -> bool:
    uses = [use for use in evidence.uses if one.name in use.layer.parameters]
    return bool(uses) and not any(use.attached for use in uses)


def _frozen(evidence: Evidence) -> Iterator[Finding]:
    frozen = [one for one in evidence.tensors if not one.trainable and not one.buffer]
    if frozen:
        names = [name for name, _ in fold((one.name, one.slot.shape, one) for one in frozen)]
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        count = "1 parameter is" if len(frozen) == 1 else f"{len(frozen):,} parameters are"
        yield found("Z505", f"{count} frozen: {shown}", parameter=frozen[0].name)


# -- size ------------------------------------------------------------------------------------------------------------


def norm(use: Use) -> float:
    """The norm of the gradient with respect to an output."""
    gradient = use.layer.gradient
    return 0.0 if gradient is None else gradient.rms * math.sqrt(gradient.count)


def _ratio(evidence: Evidence) -> Iterator[Finding]:
    """Compare gradient norms along the residual stream if there is one, else along the weighted layers."""
    limits = evidence.thresholds
    paths = list(streams(evidence.uses)) or [_main_path(evidence.uses)]
    for path in paths:
        reached = [use for use in path if norm(use) > 0 and math.isfinite(norm(use))]
        if len(reached) < 3:
            continue
        first, last = reached[0], reached[-1]
        ratio = norm(first) / norm(last)
        grade = graded(max(ratio, 1 / ratio), limits.gradient_ratio_warn, limits.gradient_ratio_fail)
        if grade is not None:
            verb = "vanish" if ratio < 1 else "explode"
            message = (
                f"gradients {verb}: their norm is {norm(first):.3g} at {first.layer.name} and {norm(last):.3g} at "
                f"{last.layer.name}"
            )
            yield found(
                "Z504",
                message,
                parameter=weight_of(first),
                layer=first.layer.name,
                severity=grade[0],
                value=ratio,
                limit=grade[1] if ratio > 1 else 1 / grade[1],
            )


def _main_path(uses: Sequence[Use]) -> list[Use]:
    """The weighted layers outside of attention: the gradients of queries and keys are small at initialization."""
    weighted = [use for use in uses if use.weighted]
    modules = {use.module for use in uses if use.layer.entropy is not None and use.module}
    inside = tuple(_with_projections(module, weighted) for module in modules)
    return [use for use in weighted if not f"{use.module}.".startswith(inside)]


def _with_projections(module: str, weighted: Sequence[Use]) -> str:
    """The prefix of the innermost module around ``module`` with weights: the softmax may be a separate module."""
    while "." in module and not any(f"{use.module}.".startswith(f"{module}.") for use in weighted):
        module = module.rpartition(".")[0]
    return f"{module}."


def so_far(later: Later, verb: str = "is") -> str:
    """A text: how long a gradient of zero was observed."""
    if not later.steps:
        return "no other has one that is not zero, so that nothing ever moves"
    return f"still {verb} after {later.steps} steps of gradient descent"


def _still(learned: list[TensorFacts], evidence: Evidence) -> Iterator[Finding]:
    later = evidence.later
    if later is None:
        return
    reached = {name for use in evidence.uses for name in use.layer.parameters}
    # embeddings of which the batch uses only the padding row
    padding = {name for use in evidence.uses if use.layer.output.zeros == 1.0 for name in use.layer.parameters}
    padding &= {one.name for one in learned if one.slot.kind is Kind.EMBEDDING and not one.zero}
    for one in learned:
        if not one.is_weight or not one.still or one.name not in later.still:
            continue
        if one.name not in reached or one.name in padding:  # for example an expert
            yield found("Z501", "no sample of this batch reached it", parameter=one.name)
        elif not one.zero:
            message = f"its gradient is exactly zero, and {so_far(later)}"
            yield found("Z506", message, parameter=one.name)


def _not_finite(learned: list[TensorFacts], evidence: Evidence) -> Iterator[Finding]:
    """Only if the forward pass is finite: otherwise Z401 reports where it begins."""
    bad = [one for one in learned if one.gradient_stats is not None and one.gradient_stats.nonfinite]
    loss = evidence.loss
    forward = any(use.layer.output.nonfinite > use.masked for use in evidence.uses) or evidence.output_nonfinite
    if not bad or forward or (loss is not None and not math.isfinite(loss.value)):
        return
    # in the backward pass, it begins after the last layer whose output has a nonfinite gradient
    met = [use for use in evidence.uses if use.layer.gradient is not None and use.layer.gradient.nonfinite]
    last = met[-1] if met else None
    message = f"the gradients of {len(bad)} parameters are NaN or infinite, that of {bad[0].name} first"
    if last is not None:
        message += f"; it begins after {last.layer.name}, whose output is finite"
    parameter = None if last is None else weight_of(last)
    yield found("Z507", message, parameter=parameter or bad[-1].name, layer=None if last is None else last.layer.name)
