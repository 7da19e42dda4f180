"""Collect the facts about every parameter and buffer: global values, gradient and plan."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeta.base import dtypes
from zeta.base.parametrizations import evaluated, is_rescaled, originals, planned_weight
from zeta.check.facts.evidence import Evidence, Pass, Reading, Subject, TensorFacts
from zeta.check.facts.results import Parameter
from zeta.check.measure.duplicates import Both, taken
from zeta.check.measure.readings import bias_name, reading
from zeta.check.watch.moments import plain
from zeta.check.watch.streaming.source import NOTHING, Source
from zeta.fans import Axes
from zeta.resolve import resolver, solving
from zeta.resolve.plans import Plan
from zeta.resolve.slots import Slot
from zeta.rules import Kind


def subjects_of(slots: list[Slot], plan: Plan | None) -> tuple[Subject, ...]:
    """Every tensor of a model, each with all of its names in ``slots``."""
    entries = {name: entry for entry in plan or () for name in (entry.name, *entry.ties)}
    return tuple(
        Subject(
            slot=group[0],
            ties=tuple(other.name for other in group[1:]),
            trainable=any(isinstance(part, nn.Parameter) and part.requires_grad for part in parts_of(group[0])),
            entry=entries.get(group[0].name),
            axes=_axes(group),
        )
        for group in resolver.groups(slots)
    )


def read(subjects: Sequence[Subject], gradients: Mapping[int, Tensor], tolerance: float) -> dict[str, Reading]:
    """The readings of tensors that are in memory, by name.

    Args:
        subjects: the tensors.
        gradients: by the ``id`` of the stored tensor.
        tolerance: as for ``units_of``.
    """
    by_name = {one.name: one for one in subjects}

    def both(one: Subject) -> Both:
        return Both(values=values_of(one), gradient=_gradient(one.slot, gradients))

    found: dict[str, Reading] = {}
    for one in subjects:
        bias = by_name.get(bias_name(one) or "")
        found[one.name] = reading(one, both(one), None if bias is None else both(bias), _given(one), tolerance)
    return found


def tensor_facts(
    subjects: Sequence[Subject],
    readings: Mapping[str, Reading],
    seen: Pass,
    used: frozenset[str],
    source: Source = NOTHING,
) -> tuple[TensorFacts, ...]:
    """The facts about each tensor of a model; tied names are one tensor.

    Args:
        subjects: the tensors.
        readings: what was measured of each.
        seen: the observations of the pass.
        used: the names whose module ran.
        source: computes the parameters that are on meta.
    """
    return tuple(
        TensorFacts(
            **vars(one),
            **_reading(one, readings[one.name], seen),
            used=not used.isdisjoint((one.name, *one.ties)),
            detached=not seen.detached.isdisjoint((one.name, *one.ties)),
            read=functools.partial(values_of, one, source),
        )
        for one in subjects
    )


def _reading(one: Subject, reading: Reading, seen: Pass) -> dict[str, Any]:
    """A reading, of which the units that are still are only those that a call reached."""
    still = reading.still_units
    if still is not None:
        still = taken(one.axes, still, seen.reached(one.slot.tensor))
    return {**vars(reading), "still_units": still}


def values_of(one: Subject, source: Source = NOTHING) -> Tensor:
    """The global values; for a parametrized weight, those that its parametrization computes."""
    slot = one.slot
    if source.has(slot.tensor):
        return source.of(slot.tensor)
    if slot.parametrization is None:
        sparse = slot.tensor.layout is not torch.strided and slot.kind is not Kind.BUFFER
        return plain(slot.tensor.to_dense() if sparse else slot.tensor)
    with torch.no_grad(), parametrize.cached():
        return plain(evaluated(slot.parametrization))


def _given(one: Subject) -> Tensor | None:
    """The values that a plan is about, where they are not those of the weight: ``spectral_norm`` divides them."""
    slot = one.slot
    if slot.parametrization is None or not is_rescaled(slot.parametrization):
        return None
    with torch.no_grad(), parametrize.cached():
        return plain(planned_weight(slot.parametrization))


def parts_of(slot: Slot) -> list[Tensor]:
    """The stored tensors of a slot: those that a parametrized weight is computed from."""
    return [slot.tensor] if slot.parametrization is None else originals(slot.parametrization)


def _gradient(slot: Slot, found: Mapping[int, Tensor]) -> Tensor | None:
    """The gradient of the tensor; for a parametrized weight, that of the last original, which has its directions."""
    gradients = [found[id(part)] for part in parts_of(slot) if id(part) in found]
    return gradients[-1] if gradients else None


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
        initializer=None if one.entry is None else one.entry.law_text,
        planned_mean=None if one.entry is None else one.entry.mean,
        planned_std=None if one.entry is None else one.entry.std,
        values=one.stats,
        gradient=one.gradient_stats,
        units=None if units is None else units.count,
        distinct=None if units is None else units.distinct,
        update=None if update is None else update.size,
        spectral=evidence.spectral.get(one.name),
    )
