"""Measure what the rules need of one tensor: of its values, its gradient and its plan."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from zeta.check.facts.evidence import Reading, Rows, Subject
from zeta.check.facts.results import Stats
from zeta.check.measure.duplicates import Both, rows_in, still_zeros, units_of
from zeta.check.watch.moments import stats_of
from zeta.initializers import Keep, Program
from zeta.report.measuring import Measured, measure
from zeta.write.parametrized import inversion_error

#: the number of elements of a tensor that rules look at: fractions of 1e-3 are measured to a few percent of themselves
SAMPLE: Final = 2**16
# clones: weights with a larger fraction of zeros are not compared, as masks may be equal by chance
_MOST_ZEROS: Final = 0.5
_EMPTY: Final = Stats(count=0, mean=0.0, std=0.0, low=0.0, high=0.0, zeros=0.0, nonfinite=0)


def reading(subject: Subject, one: Both, bias: Both | None, given: Tensor | None, tolerance: float) -> Reading:
    """Measure one tensor.

    Args:
        subject: the tensor.
        one: its values and its gradient.
        bias: those of the bias of its units, which are compared together.
        given: the values that the plan is about, where they are others.
        tolerance: as for ``units_of``.
    """
    stats = _stats(one.values)
    learned = subject.is_weight and subject.trainable
    compared = learned and one.gradient is not None and not stats.nonfinite
    return Reading(
        dtype=one.values.dtype,
        stats=stats,
        sample=sample_of(one.values.flatten()).clone(),
        rows=_rows(subject, one.values, stats),
        measured=_measured(subject, one.values if given is None else given, stats),
        gradient_stats=None if one.gradient is None else stats_of(one.gradient),
        units=units_of(subject.axes, one, bias, tolerance) if compared else None,
        still_units=still_zeros(subject.axes, one) if learned and stats.zeros > 0 else None,
    )


def unread(subject: Subject) -> Reading:
    """The reading of a parameter that is not computed, as nothing used it."""
    nothing = torch.empty(0, dtype=subject.slot.tensor.dtype, device="cpu")
    return Reading(
        dtype=nothing.dtype,
        stats=_EMPTY,
        sample=nothing,
        rows=None,
        measured=None,
        gradient_stats=None,
        units=None,
        still_units=None,
    )


def bias_name(one: Subject) -> str | None:
    """The name that the bias of a weight's units has, if there is one; ``None`` for a tensor that is no such weight."""
    local = one.slot.local_name
    other = local.replace("weight", "bias")
    return one.name.removesuffix(local) + other if one.is_weight and one.trainable and other != local else None


def _stats(values: Tensor) -> Stats:
    try:
        return stats_of(values if values.is_floating_point() else values.float()) or _EMPTY
    except NotImplementedError:  # torch has no arithmetic for some dtypes, such as uint4
        return _EMPTY


def _rows(subject: Subject, values: Tensor, stats: Stats) -> Rows | None:
    """The rows of a trainable weight that may be random and be compared with others."""
    if not subject.is_weight or not subject.trainable or not values.is_floating_point() or min(values.shape) < 2:
        return None
    return None if stats.std == 0 or stats.nonfinite or stats.zeros > _MOST_ZEROS else rows_in(values)


def _measured(subject: Subject, values: Tensor, stats: Stats) -> Measured | None:
    """The moments compared with the plan's, if there is a planned law."""
    entry, slot = subject.entry, subject.slot
    if entry is None or isinstance(entry.initializer, Keep | Program):
        return None
    if not stats.count or stats.nonfinite or slot.shape != entry.shape or slot.tensor.is_complex():
        return None
    return measure(entry, values, inversion_error(values.dtype) if slot.parametrization is not None else 0.0)


def sample_of(flat: Tensor) -> Tensor:
    """At most about ``SAMPLE`` elements of a one-dimensional tensor, at equal distances."""
    return flat[:: max(1, flat.numel() // SAMPLE)]
