"""Collect the facts about every parameter and buffer: global values, gradient and plan."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeta.base import dtypes
from zeta.base.parametrizations import evaluated, is_rescaled, originals, planned_weight
from zeta.check.facts.evidence import Evidence, Pass, TensorFacts
from zeta.check.facts.results import Parameter, Stats
from zeta.check.watch.moments import plain, stats_of
from zeta.fans import Axes
from zeta.resolve import resolver, solving
from zeta.resolve.plans import Plan
from zeta.resolve.slots import Slot
from zeta.rules import Kind

_EMPTY = Stats(count=0, mean=0.0, std=0.0, low=0.0, high=0.0, zeros=0.0, nonfinite=0)


def tensor_facts(slots: list[Slot], seen: Pass, plan: Plan | None, used: frozenset[str]) -> tuple[TensorFacts, ...]:
    """The facts about each tensor of a model; tied names are one tensor.

    Args:
        slots: every name of every tensor.
        seen: the observations of the pass.
        plan: the plan, if there is one.
        used: the names whose module ran.
    """
    entries = {name: entry for entry in plan or () for name in (entry.name, *entry.ties)}
    found: list[TensorFacts] = []
    for group in resolver.groups(slots):
        slot = group[0]
        values = _values(slot)
        gradient = _gradient(slot, seen)
        parts = parts_of(slot)
        found.append(
            TensorFacts(
                slot=slot,
                ties=tuple(other.name for other in group[1:]),
                values=values,
                given=_given(slot, values),
                stats=_stats(values),
                gradient=gradient,
                gradient_stats=None if gradient is None else stats_of(gradient),
                trainable=any(isinstance(part, nn.Parameter) and part.requires_grad for part in parts),
                used=any(other.name in used for other in group),
                detached=any(other.name in seen.detached for other in group),
                entry=entries.get(slot.name),
                axes=_axes(group),
            )
        )
    return tuple(found)


def _values(slot: Slot) -> Tensor:
    """The global values; for a parametrized weight, those that its parametrization computes."""
    if slot.parametrization is None:
        sparse = slot.tensor.layout is not torch.strided and slot.kind is not Kind.BUFFER
        return plain(slot.tensor.to_dense() if sparse else slot.tensor)
    with torch.no_grad(), parametrize.cached():
        return plain(evaluated(slot.parametrization))


def _given(slot: Slot, values: Tensor) -> Tensor:
    """The values that a plan is about."""
    if slot.parametrization is None or not is_rescaled(slot.parametrization):
        return values
    with torch.no_grad(), parametrize.cached():
        return plain(planned_weight(slot.parametrization))


def parts_of(slot: Slot) -> list[Tensor]:
    """The stored tensors of a slot: those that a parametrized weight is computed from."""
    return [slot.tensor] if slot.parametrization is None else originals(slot.parametrization)


def _gradient(slot: Slot, seen: Pass) -> Tensor | None:
    """The gradient of the tensor; for a parametrized weight, that of the last original, which has its directions."""
    gradients = [seen.gradients[id(part)] for part in parts_of(slot) if id(part) in seen.gradients]
    return gradients[-1] if gradients else None


def _stats(values: Tensor) -> Stats:
    try:
        return stats_of(values if values.is_floating_point() else values.float()) or _EMPTY
    except NotImplementedError:  # torch has no arithmetic for some dtypes, such as uint4
        return _EMPTY


def _axes(group: list[Slot]) -> Axes | None:
    return solving.axes_if_any(group) if group[0].kind is not Kind.BUFFER else None


def parameter_of(one: TensorFacts, evidence: Evidence) -> Parameter:
    """A parameter or buffer as the report shows it."""
    units, update = evidence.units.get(one.name), evidence.updates.get(one.name)
    return Parameter(
        name=one.name,
        ties=one.ties,
        shape=one.slot.shape,
        dtype=dtypes.name_of(one.slot.tensor.dtype),
        trainable=one.trainable,
        buffer=one.buffer,
        initializer=None if one.entry is None else str(one.entry.initializer),
        planned_mean=None if one.entry is None else one.entry.mean,
        planned_std=None if one.entry is None else one.entry.std,
        values=one.stats,
        gradient=one.gradient_stats,
        units=None if units is None else units.count,
        distinct=None if units is None else units.distinct,
        update=None if update is None else update.size,
        spectral=evidence.spectral.get(one.name),
    )
