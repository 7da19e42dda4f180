"""Z3: units and layers that stay equal, and zeros that stay zero."""

from __future__ import annotations

from collections.abc import Iterator

from zeta.check.facts.evidence import Evidence, TensorFacts, Units
from zeta.check.facts.results import Finding
from zeta.check.judge.backward import so_far
from zeta.check.judge.base import found


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Duplicated units, zeros that stay zero, cloned layers."""
    seen = {name for use in evidence.uses for name in use.layer.parameters}
    later = evidence.later
    for one in evidence.tensors:
        if not one.is_weight or not one.trainable or one.gradient_stats is None or one.stats.nonfinite:
            continue
        if one.zero and one.still and one.name in seen:
            yield from _zero_and_still(one, evidence)
            continue
        units = evidence.units.get(one.name)
        if later is not None and one.name in later.parts and one.name not in evidence.head:
            count = units.count if units is not None else 0
            message = f"{later.parts[one.name]} of its {count} units and their gradients are exactly zero, and "
            yield found("Z302", message + so_far(later, "are"), parameter=one.name)
            continue
        # zero units of which only some get different gradients in this batch, such as experts that no token selected
        partly = one.zero and units is not None and units.apart > 0
        if units is not None and units.same and not partly and one.name not in evidence.head:
            yield _duplicated(one, units)
        elif one.zero:
            yield found("Z303", f"all zero; its gradient has rms {one.gradient_stats.rms:.3g}", parameter=one.name)
        elif units is not None and units.apart and not (later and one.name in later.still):
            message = f"{units.apart + 1} of {units.count} units have the weights of another, and a different gradient"
            yield found("Z304", message, parameter=one.name)
    yield from _clones(evidence)


def _zero_and_still(one: TensorFacts, evidence: Evidence) -> Iterator[Finding]:
    later = evidence.later
    if later is None or later.skipped is not None:
        return
    if one.name in later.still:
        message = f"it and its gradient are exactly zero, and {so_far(later, 'are')}"
        yield found("Z302", message, parameter=one.name)
    else:
        message = "all zero, without a gradient yet: it gets one as soon as another zero weight has moved"
        yield found("Z303", message, parameter=one.name)


def _duplicated(one: TensorFacts, units: Units) -> Finding:
    assert units.example is not None
    message = (
        f"only {units.distinct} of {units.count} units differ; units {units.example[0]} and {units.example[1]} have "
        "the same weights and the same gradient"
    )
    return found("Z301", message, parameter=one.name, value=units.distinct, limit=units.count)


def _clones(evidence: Evidence) -> Iterator[Finding]:
    """Weights with identical random values. Tables computed by a formula are excluded by their repeated rows."""
    groups: dict[object, list[TensorFacts]] = {}
    for one in evidence.tensors:
        if one.rows is not None and one.rows.distinct > one.rows.count // 2:
            groups.setdefault((one.slot.shape, one.slot.tensor.dtype, one.rows.first), []).append(one)
    for first, *others in groups.values():
        if others:
            names = ", ".join(one.name for one in others[:3]) + (", ..." if len(others) > 3 else "")
            message = f"{len(others) + 1} parameters have the very same values: {first.name}, {names}"
            yield found("Z305", message, parameter=others[0].name)
