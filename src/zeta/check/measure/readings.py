"""Measure what the rules need of one tensor: of its values, its gradient and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from zeta.check.facts.evidence import Reading, Subject
from zeta.check.facts.results import Stats
from zeta.check.measure.duplicates import Both, Tiles, UnitSums, hashes, rows_in, units_of
from zeta.check.watch.moments import Pending, measures_of, pending
from zeta.compute.stream.regions import Region
from zeta.compute.sums import Sums, sums_of_all
from zeta.initializers import Keep, Program
from zeta.report.measuring import Accumulator, Measured
from zeta.write.parametrized import inversion_error

#: the number of elements of a tensor that rules look at: fractions of 1e-3 are measured to a few percent of themselves
SAMPLE: Final = 2**16
# clones: weights with a larger fraction of zeros are not compared, as masks may be equal by chance
_MOST_ZEROS: Final = 0.5
_EMPTY: Final = Stats(count=0, mean=0.0, std=0.0, low=0.0, high=0.0, zeros=0.0, nonfinite=0)


def reading(subject: Subject, one: Tiles, bias: Both | None, given: Tensor | None, tolerance: float) -> Reading:
    """Measure one tensor.

    Args:
        subject: the tensor.
        one: its values and its gradient, perhaps in parts.
        bias: those of the bias of its units, which are compared together.
        given: the values that the plan is about, where they are others.
        tolerance: as for ``units_of``.
    """
    learned = subject.is_weight and subject.trainable
    values: list[Pending | None] = []
    gradients: list[Pending | None] = []
    samples: list[Tensor] = []
    rows: list[Tensor] = []
    changes: list[Tensor] = []
    moments = _Moments(subject)
    units = UnitSums(subject.axes if learned else None, len(subject.slot.shape))
    dtype, done = subject.slot.tensor.dtype, 0
    for first, tile, gradient in one.tiles():
        dtype = tile.dtype
        values.append(_pending(tile))
        samples.append(sample_of(tile.flatten(), done, one.numel).clone())
        some_zero = _some_zero(values[-1])
        floating = learned and tile.is_floating_point()
        keys = hashes(tile.reshape(tile.shape[0], -1), 0, some_zero) if floating else None
        if keys is not None:
            rows.append(keys)
        if gradient is not None:
            gradients.append(pending(gradient))
            if learned:
                changes.append(sample_of(gradient.flatten(), done, one.numel).clone())
            units.add(first, tile, gradient, keys, some_zero)
        done += tile.numel()
        if given is None and values[-1] is not None:
            moments.take(first, tile, values[-1].sums)
    stats, gradient_stats = _stats(values) or _EMPTY, _stats(gradients)
    if given is not None:
        moments.take(0, given, None)
    random = bool(rows) and _is_random(subject, stats)
    return Reading(
        dtype=dtype,
        stats=stats,
        sample=torch.cat(samples),
        rows=rows_in(torch.cat(rows)) if random else None,
        gradient_sample=torch.cat(changes) if random and changes else None,
        measured=moments.result() if stats.count and not stats.nonfinite else None,
        gradient_stats=gradient_stats,
        units=None if stats.nonfinite else units_of(units, one, bias, tolerance),
        still_units=units.still() if stats.zeros > 0 else None,
    )


def unread(subject: Subject) -> Reading:
    """The reading of a parameter that is not computed, as nothing used it."""
    nothing = torch.empty(0, dtype=subject.slot.tensor.dtype, device="cpu")
    return Reading(
        dtype=nothing.dtype,
        stats=_EMPTY,
        sample=nothing,
        rows=None,
        gradient_sample=None,
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


def _pending(values: Tensor) -> Pending | None:
    try:
        return pending(values if values.is_floating_point() else values.float())
    except NotImplementedError:  # torch has no arithmetic for some dtypes, such as uint4
        return None


def _some_zero(values: Pending | None) -> bool:
    """Whether a value may be zero; numbers on another device are not waited for."""
    return values is None or not values.numbers.is_cpu or bool(values.numbers[4])


def _stats(parts: Sequence[Pending | None]) -> Stats | None:
    measures = measures_of(parts)
    return None if measures is None else measures.stats


def _is_random(subject: Subject, stats: Stats) -> bool:
    """Whether a weight may be random, so that others should not have the same rows."""
    varies = stats.std != 0 and not stats.nonfinite and stats.zeros <= _MOST_ZEROS
    return varies and min(subject.slot.shape) >= 2


class _Moments:
    """The moments of values compared with the plan's, if there is a planned law."""

    def __init__(self, subject: Subject) -> None:
        entry, slot = subject.entry, subject.slot
        lawful = entry is not None and not isinstance(entry.initializer, Keep | Program)
        fits = entry is not None and slot.shape == entry.shape and not slot.tensor.is_complex()
        self._entry = entry if lawful and fits else None
        self._parametrized = slot.parametrization is not None
        self._sums: Accumulator | None = None

    def take(self, first: int, values: Tensor, known: Sums | None) -> None:
        """Add some rows of the values, whose sums about zero may be known."""
        if self._entry is None:
            return
        if self._sums is None:
            error = inversion_error(values.dtype) if self._parametrized else 0.0
            self._sums = Accumulator(self._entry, values.dtype, error, partial=self._entry.section is not None)
        region = Region.whole(self._entry.shape)
        region = region.within(0, first, first + len(values)) if region.shape else region
        section = self._entry.section
        if section is not None:
            for part in region.along(section.dim, section.spans):
                place = region.place_of(part, part.inside)
                self._sums.take(sums_of_all(self._sums.parts(part.slices, values[place])))
            return
        parts = self._sums.parts(region.slices, values)
        if known is not None and len(parts) == 1 and parts[0][1] == 0.0 and parts[0][0].numel() == known.count:
            self._sums.take([known])
        else:
            self._sums.take(sums_of_all(parts))

    def result(self) -> Measured | None:
        """The comparison."""
        return None if self._sums is None else self._sums.result()


def sample_of(flat: Tensor, before: int = 0, numel: int | None = None) -> Tensor:
    """At most about ``SAMPLE`` elements of a one-dimensional tensor, at equal distances.

    Args:
        flat: the tensor, or a part of it.
        before: how many elements come before the part.
        numel: how many there are in all.
    """
    step = max(1, (flat.numel() if numel is None else numel) // SAMPLE) | 1  # odd, so as not to stay in some columns
    return flat[-before % step :: step]
