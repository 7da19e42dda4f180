"""Z9: what is connected to what: parameters to the model, the optimizer and the loss, samples and positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zeta.base.text import count_text
from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding, Severity
from zeta.check.facts.wiring import Reach, Stray
from zeta.check.judge.base import found
from zeta.check.judge.forward import rounded_head

# names that a message lists
_NAMED = 3


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Not registered, not optimized, cut off, constant, dropped, mixed, leaking, misaligned."""
    yield from _strays(evidence.wires.strays)
    yield from _optimizer(evidence)
    yield from _cuts(evidence)
    yield from _constant(evidence)
    yield from _dropped(evidence)
    yield from _mixing(evidence)
    yield from _tokens(evidence)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


# -- parameters ------------------------------------------------------------------------------------------------------


def _strays(strays: Sequence[Stray]) -> Iterator[Finding]:
    """One finding for each attribute that holds some, and for each module that made some."""
    groups: dict[tuple[str, bool], list[Stray]] = {}
    for one in strays:
        holder = (one.module or "") if one.place is None else one.place.partition("[")[0]
        groups.setdefault((holder, one.of_loss), []).append(one)
    for (_, of_loss), members in groups.items():
        members.sort(key=lambda one: one.place or "")
        first, count = members[0], count_text(len(members), "trainable tensor")
        what = _listed([f"{one.place or 'one'} of shape {one.shape}" for one in members])
        if of_loss:
            message = f"the loss has {count} of its own, which the optimizer needs too: {what}"
            yield found("Z901", message, severity=Severity.NOTE)
            continue
        how = "made anew in each forward pass" if first.place is None else "not in model.parameters()"
        inside = "" if first.module is None else f", used in {first.module or 'the model'}"
        yield found("Z901", f"the loss depends on {count} {how}: {what}{inside}", parameter=first.place)


def _optimizer(evidence: Evidence) -> Iterator[Finding]:
    belongs = evidence.membership
    if belongs is None:
        return
    if belongs.missing:
        count = count_text(len(belongs.missing), "trainable parameter")
        message = f"{count} not in any group of the optimizer: {_listed(belongs.missing)}"
        if not belongs.given:
            message += "; the function leaves them out"
        elif belongs.foreign:
            message += (
                f"; it has {count_text(belongs.foreign, 'tensor')} of something else: it may be made of another copy "
                "of the model, or before parameters were replaced"
            )
        if belongs.partial:
            message += "; the optimizer's class does not take all shapes, so that another one may have these"
        severity = Severity.WARN if belongs.partial else None
        yield found("Z902", message, parameter=belongs.missing[0], severity=severity)
    if belongs.decayed:
        count = count_text(len(belongs.decayed), "tensor")
        message = f"weight decay acts on {count} of biases and scales of norms: {_listed(belongs.decayed)}"
        yield found("Z903", message, parameter=belongs.decayed[0])


def _cuts(evidence: Evidence) -> Iterator[Finding]:
    for cut in evidence.cuts:
        if cut.at.explicit:
            continue  # Z502
        moved = "" if cut.moved is None else f" by {cut.moved:.2g} of its value"
        message = (
            f"{cut.at.operation} in {cut.at.module} cuts the graph: the loss moves{moved} with "
            f"{count_text(len(cut.parameters), 'parameter')} that it gives no gradient, {_listed(cut.parameters)}"
        )
        severity = Severity.WARN if evidence.surrogate and cut.handed else None
        yield found("Z904", message, parameter=cut.parameters[0], severity=severity)


# -- samples ---------------------------------------------------------------------------------------------------------


def _place(reach: Reach) -> str:
    if reach.module is None:
        return "between the modules"
    return f"in the code of {reach.module}, before one of its modules" if reach.code else f"in {reach.module}"


def _layer(reach: Reach, evidence: Evidence) -> str | None:
    return reach.module if any(use.layer.name == reach.module for use in evidence.uses) else None


def _constant(evidence: Evidence) -> Iterator[Finding]:
    reach = evidence.pairs.constant
    if reach is not None and not any(rounded_head(use, evidence) for use in evidence.uses):
        message = (
            f"the output is the same for all samples, also after all parameters are changed; samples become equal "
            f"{_place(reach)}"
        )
        yield found("Z905", message, layer=_layer(reach, evidence))


def _dropped(evidence: Evidence) -> Iterator[Finding]:
    names = [name or "the model" for name, rate in evidence.dropping.items() if rate == 1]
    if names:
        yield found("Z906", f"dropout with p=1 in {_listed(names)}")


def _mixing(evidence: Evidence) -> Iterator[Finding]:
    reach = evidence.pairs.mixing
    if reach is not None:
        message = (
            f"another sample's output moves by {reach.moved:.2g} of its rms when one sample changes; it begins "
            f"{_place(reach)}"
        )
        yield found("Z907", message, layer=_layer(reach, evidence), value=reach.moved, limit=evidence.thresholds.moved)


def _tokens(evidence: Evidence) -> Iterator[Finding]:
    offsets, pairs = evidence.wires.offsets, evidence.pairs
    if 1 in offsets and pairs.leak is not None:
        reach = pairs.leak
        message = (
            f"earlier logits move by {reach.moved:.2g} of their rms when later tokens change; it begins {_place(reach)}"
        )
        yield found(
            "Z908",
            message,
            layer=_layer(reach, evidence),
            severity=_leak_severity(evidence),
            value=reach.moved,
            limit=evidence.thresholds.moved,
        )
    if offsets == {0} and pairs.copies and evidence.wires.ignored:
        message = (
            "the model takes the targets, and gives no loss for them; they are the input's own tokens, not shifted: as "
            "targets of its output, they would let it learn to copy"
        )
        yield found("Z909", message, severity=Severity.WARN)
    elif offsets == {0} and pairs.copies:
        yield found("Z909", "the targets are the input's own tokens, not shifted: the model learns to copy its input")
    if offsets and min(offsets) > 1:
        message = f"the targets are {min(offsets)} tokens ahead: labels are shifted {min(offsets)} times"
        yield found("Z909", message, severity=Severity.WARN)


def _leak_severity(evidence: Evidence) -> Severity:
    """A failure if the targets that were given are next tokens, and nothing is called an encoder."""
    if evidence.wires.guessed:
        return Severity.WARN if evidence.pairs.masked else Severity.NOTE
    return Severity.WARN if evidence.pairs.encoded else Severity.FAIL
