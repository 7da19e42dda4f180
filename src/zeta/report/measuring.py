"""Measure values, and compare their moments with those that were planned, in standard errors."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, overload

import torch
from torch import Tensor

from zeta.base.gaussian import Moments
from zeta.base.process.garbage import uncollected
from zeta.base.process.surroundings import Ungraded
from zeta.compute.sampling import tolerance
from zeta.compute.stream.regions import Region
from zeta.compute.sums import Sums, summed, sums_of_all
from zeta.initializers import Blocks, Dirac, Identity, Initializer, Program, Site
from zeta.initializers.blocks import laws_of
from zeta.initializers.elementwise import ELEMENTWISE
from zeta.report.expected import Expected, expected
from zeta.report.scores import bennett, beyond, errors, nearer, ratio, wilson_hilferty
from zeta.resolve.plans import Entry
from zeta.write.apply import Job

#: a mean or std farther than this many standard errors from the plan is flagged
STANDARD_ERRORS: Final = 5.0
# Whatever does not vary is computed in fp64, and deviates by less than this part of the mean square.
_EXACT: Final = 1e-10
# Outside, squares of squares leave fp64.
_SQUARED: Final = (1e-75, 1e75)
_PARTS: Final = ("", " of the imaginary part")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One parameter, planned and measured.

    ``mean_z`` and ``std_z`` are the deviations in standard errors, negative where less was found than planned:
    ``(mean - planned) sqrt(n) / std``, and for the mean square, which follows a scaled chi-square law of
    ``2n / (kurtosis - 1)`` degrees of freedom, its Wilson-Hilferty normal score. What is planned is first rounded to
    the dtype. Complex values: ``mean`` is that of the real parts, ``mean_z`` the larger of both parts' scores, and
    ``std`` is that of ``|x - mean|``. A program has no planned moments.
    """

    name: str
    count: int
    mean: float
    std: float
    low: float
    high: float
    planned_mean: float | None
    planned_std: float | None
    mean_z: float
    std_z: float
    findings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether it is as planned."""
        return not self.findings


class _Forecast(NamedTuple):
    """What is known of values before they are drawn; nobody knows the moments of a program."""

    moments: Moments | None
    expected: tuple[Expected, ...]
    tolerance: float
    centres: tuple[float, ...]


@functools.lru_cache(maxsize=4096)
def _forecast(initializer: Initializer, site: Site, dtype: torch.dtype, partial: bool) -> _Forecast:
    parts = expected(initializer, site, dtype, partial=partial)
    return _Forecast(initializer.moments(site), parts, tolerance(initializer, dtype), _centres(parts))


def _centres(parts: tuple[Expected, ...]) -> tuple[float, ...]:
    """What the values lie about: sums about these keep their digits."""
    return tuple(law.mean for law in parts)


#: where a forecast is for, if elements are drawn one by one: it is the same in every tensor
_ANYWHERE: Final = Site(shape=())
_NOTHING: Final = Sums()


def _forecast_of(initializer: Initializer, site: Site, dtype: torch.dtype, partial: bool) -> _Forecast:
    if isinstance(initializer, Program):
        parts = (Expected(mean=0.0, std=0.0),) * (2 if dtype.is_complex else 1)
        return _Forecast(None, parts, 0.0, _centres(parts))
    return _forecast(initializer, _ANYWHERE if isinstance(initializer, ELEMENTWISE) else site, dtype, partial)


class _Scheme:
    """What is summed of an entry's values, and what the sums say of it. Each block is measured alone.

    Entries that differ in their names only have the same.
    """

    def __init__(self, entry: Entry, dtype: torch.dtype, error: float, *, partial: bool) -> None:
        self._entry = entry
        initializer, site = entry.initializer, entry.site
        if isinstance(initializer, Blocks):
            site = Site(shape=entry.shape, axes=initializer.axes_of(entry.axes))
        partial_rows = partial or entry.padding_idx is not None
        self._laws = [
            _OneLaw(law, _forecast_of(law, site, dtype, partial_rows), error, partial=partial)
            for law in laws_of(initializer)
        ]
        #: the sums of no values
        self.nothing = [_NOTHING] * sum(len(law.expected) for law in self._laws)
        #: the centre of all values, if none is left out and they are summed as they lie in memory
        self.centre = self._laws[0].centres[0] if len(self.nothing) == 1 and entry.padding_idx is None else None

    def parts(self, index: tuple[slice, ...], values: Tensor) -> list[tuple[Tensor, float]]:
        """As ``Accumulator.parts``."""
        row = self._entry.padding_idx
        if row is None or not index[0].start <= row < index[0].stop:
            return self._by_law(index, values)
        inside, (first, *others) = row - index[0].start, index
        above = self._by_law((slice(first.start, row), *others), values[:inside])
        return above + self._by_law((slice(row + 1, first.stop), *others), values[inside + 1 :])

    def _by_law(self, index: tuple[slice, ...], values: Tensor) -> list[tuple[Tensor, float]]:
        blocks = self._entry.initializer
        if not isinstance(blocks, Blocks):
            return self._laws[0].parts(values)
        start, stop = index[blocks.dim].start, index[blocks.dim].stop
        parts: list[tuple[Tensor, float]] = []
        for law, (begin, end, _) in zip(self._laws, blocks.spans(self._entry.shape[blocks.dim]), strict=True):
            first, last = (min(max(place, start), stop) for place in (begin, end))
            parts += law.parts(values.narrow(blocks.dim, first - start, last - first))
        return parts

    def added(self, total: Sequence[Sums], sums: Sequence[Sums]) -> list[Sums]:
        """A total with the sums of ``parts``."""
        total = list(total)
        for number, one in enumerate(sums):
            total[number % len(total)] += one
        return total

    def result(self, name: str, total: Sequence[Sums]) -> Measured:
        """The measurement of the parameter ``name``, with everything that deviates from the plan."""
        each = len(self._laws[0].expected)
        found = [law.result(name, total[number * each :][:each]) for number, law in enumerate(self._laws)]
        if len(found) == 1:
            return found[0]
        count = max(sum(one.count for one in found), 1)
        shares = [one.count / count for one in found]
        mean = sum(one.mean * share for one, share in zip(found, shares, strict=True))
        # hypot squares nothing that leaves fp64
        parts = [
            math.sqrt(share) * each
            for one, share in zip(found, shares, strict=True)
            for each in (one.std, one.mean - mean)
        ]
        findings = [f"block {number}: {text}" for number, one in enumerate(found) for text in one.findings]
        return Measured(
            name=name,
            count=sum(one.count for one in found),
            mean=mean,
            std=math.hypot(*parts),
            low=min(one.low for one in found),
            high=max(one.high for one in found),
            planned_mean=self._entry.mean,
            planned_std=self._entry.std,
            mean_z=max((one.mean_z for one in found), key=abs),
            std_z=max((one.std_z for one in found), key=abs),
            findings=tuple(findings),
        )


class Accumulator:
    """Sums over an entry's values, fed tile by tile; a padding row is left out.

    Args:
        entry: what was planned.
        dtype: of the values, where it is not the entry's.
        error: by how much the values may miss what was drawn, in parts of the largest one.
        partial: not all of the tensor is measured, so that properties of a whole matrix hold in the mean only.
    """

    def __init__(
        self, entry: Entry, dtype: torch.dtype | None = None, error: float = 0.0, *, partial: bool = False
    ) -> None:
        self._name = entry.name
        self._scheme = _Scheme(entry, dtype or entry.dtype, error, partial=partial)
        self._total = self._scheme.nothing

    def parts(self, index: tuple[slice, ...], values: Tensor) -> list[tuple[Tensor, float]]:
        """What is to be summed of the tile at ``index``, and about which centre: real and imaginary parts apart.

        Of every law there are as many, in turn, some of them without elements.
        """
        return self._scheme.parts(index, values)

    def take(self, sums: Sequence[Sums]) -> None:
        """Add the sums of ``parts``."""
        self._total = self._scheme.added(self._total, sums)

    def result(self) -> Measured:
        """The measurement, with everything that deviates from the plan."""
        return self._scheme.result(self._name, self._total)


class _OneLaw:
    """What is summed over values of one law, and what the sums say of it."""

    def __init__(self, initializer: Initializer, forecast: _Forecast, error: float, *, partial: bool) -> None:
        self.initializer = initializer
        self.error = error
        self.partial = partial
        self.planned, self.expected, self.tolerance, self.centres = forecast

    def parts(self, values: Tensor) -> list[tuple[Tensor, float]]:
        """What is to be summed, and about which centre."""
        if not values.is_complex():
            return [(values, self.centres[0])]
        return list(zip((values.real, values.imag), self.centres, strict=True))

    def result(self, name: str, sums: Sequence[Sums]) -> Measured:
        """The measurement of the parameter ``name``, as far as it is of this law."""
        return _Comparison(self, sums).result(name)


class _Comparison:
    """Sums over values, compared with the law that they were drawn from."""

    def __init__(self, law: _OneLaw, sums: Sequence[Sums]) -> None:
        self.initializer, self.error, self.partial = law.initializer, law.error, law.partial
        self.planned, self.expected, self.tolerance = law.planned, law.expected, law.tolerance
        self.sums = sums

    def result(self, name: str) -> Measured:
        """The measurement of the parameter ``name``."""
        count = self.sums[0].count
        n = max(count, 1)
        shifts = [sums.sum / n for sums in self.sums]
        variance = sum(sums.squares / n - shift * shift for sums, shift in zip(self.sums, shifts, strict=True))
        # which part of a diagonal is here does not depend on chance
        by_chance = not (self.partial and isinstance(self.initializer, Identity | Dirac))
        scored = by_chance and count > 0 and self.planned is not None
        scores = self._mean_scores() if scored else [0.0]
        measured = Measured(
            name=name,
            count=count,
            mean=self.expected[0].mean + shifts[0],
            std=math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else variance,
            low=min(sums.low for sums in self.sums),
            high=max(sums.high for sums in self.sums),
            planned_mean=None if self.planned is None else self.planned.mean,
            planned_std=None if self.planned is None else self.planned.std,
            mean_z=max(scores, key=abs),
            std_z=self._std_score() if scored else 0.0,
            findings=(),
        )
        findings = tuple(self._findings(measured, scores)) if count else ()
        return replace(measured, findings=findings) if findings else measured

    def _allowed(self) -> float:
        """How far any value may lie from what was drawn."""
        return self.tolerance + self.error * max(max(abs(sums.low), abs(sums.high)) for sums in self.sums)

    def _mean_scores(self) -> list[float]:
        allowed = self._allowed()
        scores = []
        for sums, law in zip(self.sums, self.expected, strict=True):
            deviation = beyond(sums.sum, allowed * sums.count)
            error = law.std * math.sqrt(sums.count)
            score = ratio(deviation, error)
            if law.jump is not None:  # in units of the std, whose square may leave fp64
                rare = bennett(deviation / law.std, sums.count, law.jump / law.std)
                score = nearer(score, rare)
            scores.append(score)
        return scores

    def _std_score(self) -> float:
        """The score of the mean square about the expected mean, all parts together."""
        total, largest = sum(sums.squares for sums in self.sums), max(law.std for law in self.expected)
        if largest and not _SQUARED[0] < largest < _SQUARED[1]:
            return 0.0
        planned = sum(sums.count * law.std**2 for sums, law in zip(self.sums, self.expected, strict=True))
        variance = sum(
            sums.count * (law.kurtosis - 1) * law.std**4 for sums, law in zip(self.sums, self.expected, strict=True)
        )
        slack = self._allowed() * math.sqrt(len(self.sums) * self.sums[0].count)
        root = math.sqrt(planned) + beyond(math.sqrt(total) - math.sqrt(planned), slack) if total >= 0 else math.nan
        deviation = root * root - planned
        if not math.isfinite(deviation):
            return math.inf
        if abs(deviation) <= _EXACT * planned:
            return 0.0
        if variance == 0:
            return ratio(deviation, 0.0)
        score = wilson_hilferty(root * root / planned, 2 * planned * planned / variance)
        jumps = [law.jump for law in self.expected if law.jump is not None]
        if jumps:
            # a square lies at most jump^2 above its mean, and at most std^2 below
            most = max(jumps) ** 2 if deviation > 0 else largest**2
            score = nearer(score, bennett(deviation, variance, most))
        return score

    def _findings(self, measured: Measured, scores: Sequence[float]) -> Iterator[str]:
        if isinstance(self.initializer, Program) and not self.initializer.draws:
            return  # a mask may well be infinite
        if not all(math.isfinite(number) for sums in self.sums for number in (sums.sum, sums.low, sums.high)):
            yield "has values that are not finite"
            return
        if self.planned is None:
            return
        for part, score, sums, law in zip(_PARTS, scores, self.sums, self.expected, strict=False):
            if abs(score) > STANDARD_ERRORS:
                planned = 0.0 if part else measured.planned_mean
                mean = law.mean + sums.sum / sums.count
                yield f"mean{part} {mean:.6g}, planned {planned:.6g}{errors(score)}"
        if abs(measured.std_z) > STANDARD_ERRORS:
            yield f"std {measured.std:.6g}, planned {measured.planned_std:.6g}{errors(measured.std_z)}"
        allowed = self._allowed()
        for part, sums, law in zip(_PARTS, self.sums, self.expected, strict=False):
            if sums.low < law.low - allowed or sums.high > law.high + allowed:
                yield (
                    f"values{part} from {sums.low:.6g} to {sums.high:.6g} leave the planned "
                    f"[{law.low:.6g}, {law.high:.6g}]"
                )


def measure(entry: Entry, values: Tensor, error: float = 0.0) -> Measured:
    """Measure all values of an entry as they lie in memory; ``error`` as for ``Accumulator``."""
    accumulator = Accumulator(entry, values.dtype, error)
    accumulator.take(sums_of_all(accumulator.parts(Region.whole(values.shape).slices, values)))
    return accumulator.result()


class Measurements(Sequence[Measured]):
    """Results that are worked out when they are first looked at."""

    def __init__(self, count: int, results: Callable[[], Iterable[Measured]]) -> None:
        self._count = count
        self._results_of = results

    @functools.cached_property
    def _results(self) -> tuple[Measured, ...]:
        return tuple(self._results_of())

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Measured: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Measured, ...]: ...
    def __getitem__(self, index: int | slice) -> Measured | tuple[Measured, ...]:
        return self._results[index]

    def __repr__(self) -> str:
        return repr(self._results)


@uncollected
def measure_all(jobs: Sequence[Job]) -> Measurements:
    """Measure what was written, as it lies in memory here, all parameters together."""
    known: dict[int, _Scheme] = {}  # by the sort of the job
    schemes: list[_Scheme] = []
    parts: list[tuple[Tensor, float]] = []
    ends: list[int] = []  # of each job's parts
    with Ungraded():
        for job in jobs:
            scheme = known.get(job.sort)
            if scheme is None:
                may_be_partial = job.held.sharded or job.entry.section is not None
                partial = may_be_partial and job.held.numel != job.entry.numel
                scheme = _Scheme(job.entry, job.held.local.dtype, job.error, partial=partial)
                known[job.sort] = scheme
            if scheme.centre is not None and job.held.is_one:
                parts.append((job.held.local, scheme.centre))
            else:
                for values, region in job.held.places():
                    parts += scheme.parts(region.slices, values)
            schemes.append(scheme)
            ends.append(len(parts))
        sums_of = summed(parts)
    names = [job.entry.name for job in jobs]

    def results() -> Iterator[Measured]:
        sums, begin = sums_of(), 0
        for name, scheme, end in zip(names, schemes, ends, strict=True):
            yield scheme.result(name, scheme.added(scheme.nothing, sums[begin:end]))
            begin = end

    return Measurements(len(jobs), results)
