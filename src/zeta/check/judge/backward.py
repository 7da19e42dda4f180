"""Z5: the gradients in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from zeta.base.text import fold
from zeta.check.facts.evidence import Evidence, Later, TensorFacts, Use
from zeta.check.facts.results import Finding, Severity
from zeta.check.judge.base import found, graded
from zeta.check.judge.forward import streams, weight_of
from zeta.rules import Kind

# a moving average that follows another parameter differs from it by at most this part; independent values by sqrt(2)
_FOLLOWS: Final = 0.5
# Z506: the advice, where the input is zero
_FED: Final = "Look at the batch, if zeros are not meant; else it learns from batches whose input is not zero."


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
    at = {name: cut.at for cut in evidence.cuts for name in cut.parameters}
    missing = [one for one in learned if one.gradient_stats is None and 0 not in one.slot.shape]
    missing = [one for one in missing if one.name not in at or at[one.name].explicit]  # the others: Z904
    cut = [one for one in missing if _is_used(one, evidence) and (one.name in at or _is_cut(one, evidence))]
    if cut and (copies := _copies(cut, learned)):
        yield _frozen_copy(copies)
    else:
        places: dict[str, list[TensorFacts]] = {}
        for one in cut:
            known = at.get(one.name)
            where = "" if known is None else f" by {known.operation} in {known.module}"
            places.setdefault(where, []).append(one)
        for where, some in places.items():
            yield from _together("Z502", f"used in the forward pass, and cut off from the loss{where}", some, learned)
    if evidence.differentiable:
        spare = [one for one in missing if one not in cut]
        used = [one for one in spare if _is_used(one, evidence)]
        yield from _together("Z501", "used, but without a part in the loss", used, learned)
        idle = [one for one in spare if one not in used]
        yield from _together("Z501", "not used in the forward pass", idle, learned)


def _is_used(one: TensorFacts, evidence: Evidence) -> bool:
    return one.used or one.name in evidence.touched


def _is_cut(one: TensorFacts, evidence: Evidence) -> bool:
    """Whether it was used, but behind a detach, or only by calls without a graph."""
    if not _is_used(one, evidence):
        return False
    if one.detached or not evidence.differentiable:
        return one.detached
    if one.name in evidence.touched:
        return not evidence.touched[one.name]
    uses = [use for use in evidence.uses if one.name in use.layer.parameters]
    return bool(uses) and not any(use.attached for use in uses)


def _together(rule: str, what: str, some: list[TensorFacts], learned: list[TensorFacts]) -> Iterator[Finding]:
    """One finding for each of the largest modules all of whose trainable parameters are among ``some``."""
    names, groups = {one.name for one in some}, dict[str, list[TensorFacts]]()
    others = [one.name for one in learned if one.name not in names]
    for one in some:
        groups.setdefault(_branch(one.name, others), []).append(one)
    for branch, (first, *more) in groups.items():
        count = f"{len(more):,} other parameter{'' if len(more) == 1 else 's'}"
        subject = f"it and {count} of {branch} are" if more else "it is"
        yield found(rule, f"{subject} {what}", parameter=first.name)


def _branch(name: str, others: list[str]) -> str:
    """The outermost module around a parameter that has none of the other ones; else the parameter itself."""
    ends = [position for position, letter in enumerate(name) if letter == "."]
    branches = (name[:end] for end in ends)
    return next((one for one in branches if not any(other.startswith(f"{one}.") for other in others)), name)


def _copies(cut: list[TensorFacts], learned: list[TensorFacts]) -> dict[str, str]:
    """By parameter, the one that it is a copy of; empty unless all are copies, each weight of one other weight."""
    others = [one for one in learned if one.gradient_stats is not None]
    copies: dict[str, str] = {}
    for one in cut:
        twins = [other.name for other in others if _alike(one, other)]
        if not twins or (one.is_weight and one.stats.std > 0 and len(twins) > 1):
            return {}
        copies[one.name] = twins[0]
    weights = {one.name for one in cut if one.is_weight and one.stats.std > 0}
    return copies if weights else {}


def _alike(one: TensorFacts, other: TensorFacts) -> bool:
    """Whether one has the values of another, or follows it, as the moving average of a teacher does."""
    mine, others = one.sample, other.sample
    if one.slot.shape != other.slot.shape or mine.shape != others.shape or mine.device != others.device:
        return False
    return bool((mine.float() - others.float()).norm() <= _FOLLOWS * others.float().norm())


def _frozen_copy(copies: dict[str, str]) -> Finding:
    first, original = next(iter(copies.items()))
    count = "it is" if len(copies) == 1 else f"it and {len(copies) - 1:,} other parameters are"
    return found(
        "Z502",
        f"{count} cut off from the loss, with the values of parameters that learn, here {original}: a frozen copy",
        parameter=first,
        severity=Severity.NOTE,
        advice="If it is a target or a teacher, freeze it with requires_grad_(False): no optimizer decays it then.",
    )


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
    paths = list(streams(evidence.live)) or [_main_path(evidence.live)]
    for path in paths:
        reached = [(uses[0], size) for uses in _shared(path) if 0 < (size := _total(uses)) < math.inf]
        if len(reached) < 3:
            continue
        (first, size), (last, final) = reached[0], reached[-1]
        ratio = size / final
        grade = graded(max(ratio, 1 / ratio), limits.gradient_ratio_warn, limits.gradient_ratio_fail)
        if grade is not None:
            verb = "vanish" if ratio < 1 else "explode"
            message = (
                f"gradients {verb}: their norm is {size:.3g} at {first.layer.name} and {final:.3g} at {last.layer.name}"
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


def _shared(path: Sequence[Use]) -> list[list[Use]]:
    """The uses of each layer or block, in the order of its first: what is used many times has one gradient."""
    uses: dict[tuple[str, tuple[str, ...]], list[Use]] = {}
    for use in path:
        uses.setdefault((use.module, use.layer.parameters), []).append(use)
    return list(uses.values())


def _total(uses: Sequence[Use]) -> float:
    return math.hypot(*(norm(use) for use in uses))


def _main_path(uses: Sequence[Use]) -> list[Use]:
    """The weighted layers, except those of queries and keys, whose gradients are small at initialization."""
    return [use for use in uses if use.weighted and not use.scored]


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
    cut = {name for cut in evidence.cuts if not cut.at.explicit for name in cut.parameters}  # Z904
    padding &= {one.name for one in learned if one.slot.kind is Kind.EMBEDDING and not one.zero}
    still = [one for one in learned if one.is_weight and one.still and one.name in later.still and one.name not in cut]
    weights = [one for one in learned if one.is_weight]
    missed = [one for one in still if one.name not in reached or one.name in padding]  # for example an expert
    yield from _together("Z501", "not reached by any sample of this batch", missed, weights)
    for one in still:
        if one in missed or one.zero:
            continue
        fed = _zero_input(one, evidence)
        severity = Severity.WARN if fed and not evidence.batch_zero else Severity.FAIL
        message = f"{fed}, and with it the gradient" if fed else f"its gradient is exactly zero, and {so_far(later)}"
        yield found("Z506", message, parameter=one.name, severity=severity, advice=_FED if fed else None)


def _zero_input(one: TensorFacts, evidence: Evidence) -> str | None:
    """What is zero before a weight in this batch, if that is why it has no gradient."""
    uses = [use for use in evidence.uses if one.name in use.layer.parameters]
    if [use.steps for use in uses] == [1] and "weight_hh" in one.slot.local_name:
        return "its input is zero in this batch, as the state before the only step is"
    if uses and all(use.input_square == 0 for use in uses):
        return "its input is zero in this batch" + (", as the whole batch is" if evidence.batch_zero else "")
    return None


def _not_finite(learned: list[TensorFacts], evidence: Evidence) -> Iterator[Finding]:
    """Only if the forward pass is finite: otherwise Z401 reports where it begins."""
    bad = [one for one in learned if one.gradient_stats is not None and one.gradient_stats.nonfinite]
    loss = evidence.loss
    forward = any(use.layer.output.nonfinite > use.masked for use in evidence.live) or evidence.output_nonfinite
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
