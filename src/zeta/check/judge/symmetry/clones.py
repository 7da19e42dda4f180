"""Z3: layers and branches that start with the same random values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zeta.check.facts.evidence import Evidence, TensorFacts
from zeta.check.facts.results import Finding
from zeta.check.judge.base import found


@dataclass(frozen=True, kw_only=True)
class _Branches:
    """The modules of which equal weights are parts: ``q1`` and ``q2`` of ``q1.0.weight`` and ``q2.0.weight``."""

    names: tuple[str, ...]
    weights: tuple[TensorFacts, ...]


def clones(evidence: Evidence) -> Iterator[Finding]:
    """Weights with identical random values: branches that stay equal, and layers that do not."""
    groups = [_Branches(names=_branches(equal), weights=tuple(equal)) for equal in _equal(evidence.tensors)]
    apart = {group.names for group in groups if not _alike(group.weights, evidence.thresholds.same_gradient)}
    apart |= {group.names for group in groups if _dropped(group.names, evidence.dropping)}
    told: set[tuple[str, ...]] = set()
    for group in groups:
        first, *others = group.weights
        if group.names in apart:
            names = ", ".join(one.name for one in others[:3]) + (", ..." if len(others) > 3 else "")
            message = f"{len(others) + 1} parameters have the very same values: {first.name}, {names}"
            yield found("Z305", message, parameter=others[0].name)
        elif group.names not in told:
            told.add(group.names)
            message = f"{_and(group.names)} have the same values and the same gradients, and stay equal in every step"
            yield found("Z306", message, parameter=others[0].name)


def _equal(tensors: Sequence[TensorFacts]) -> list[list[TensorFacts]]:
    """Groups of equal weights. Tables computed by a formula are excluded by their repeated rows."""
    groups: dict[object, list[TensorFacts]] = {}
    for one in tensors:
        if one.rows is not None and one.rows.distinct > one.rows.count // 2:
            groups.setdefault((one.slot.shape, one.slot.tensor.dtype, one.rows.first), []).append(one)
    return [group for group in groups.values() if len(group) > 1]


def _branches(equal: Sequence[TensorFacts]) -> tuple[str, ...]:
    """The names without the parts that all of them end with."""
    parts = [one.name.split(".") for one in equal]
    while all(len(part) > 1 for part in parts) and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    return tuple(".".join(part) for part in parts)


def _alike(weights: Sequence[TensorFacts], tolerance: float) -> bool:
    """Whether all have the same gradient, and it is not zero."""
    first, *others = (one.gradient_sample for one in weights)
    if first is None or any(other is None or other.shape != first.shape for other in others):
        return False
    size = float(first.float().norm())
    close = (float((other.float() - first.float()).norm()) <= tolerance * size for other in others if other is not None)
    return size > 0 and all(close)


def _dropped(names: Sequence[str], dropping: Iterable[str]) -> bool:
    """Whether dropout in a branch gives each of them another gradient in training."""
    return any(module == name or module.startswith(f"{name}.") for name in names for module in dropping)


def _and(names: Sequence[str]) -> str:
    shown = list(names) if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"]
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
