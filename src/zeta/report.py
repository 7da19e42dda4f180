"""What was written, held against what was planned."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from zeta import dtypes
from zeta.gaussian import Moments
from zeta.initializers import Program
from zeta.plans import Entry
from zeta.random import STREAM_VERSION
from zeta.regions import Region
from zeta.render import bytes_text, fold, number_text, range_text, table

#: a mean or std farther than this many standard errors from the plan is flagged
STANDARD_ERRORS: Final = 5.0
_TILE: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One parameter, planned and measured.

    ``mean_z`` and ``std_z`` are the deviations in standard errors: ``(mean - planned) sqrt(n) / std``, and for the mean
    square, which follows a scaled chi-square law of ``2n / (kurtosis - 1)`` degrees of freedom, its Wilson-Hilferty
    normal score. A program has no planned moments.
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


class Accumulator:
    """Count, sums and extremes of an entry's values, fed tile by tile; a padding row is left out."""

    def __init__(self, entry: Entry) -> None:
        moments = entry.initializer.moments(entry.site)
        self.entry = entry
        self.planned = moments is not None  # nobody knows the moments of a program beforehand
        self.moments = Moments(mean=0.0, std=0.0, kurtosis=1.0) if moments is None else moments
        self.count = 0
        self.sum = 0.0
        self.squares = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, index: tuple[slice, ...], values: Tensor) -> None:
        """Take in the tile that lies at ``index`` of the whole tensor."""
        row = self.entry.padding_idx
        if row is not None and index[0].start <= row < index[0].stop:
            inside = row - index[0].start
            self._add(values[:inside])
            self._add(values[inside + 1 :])
        else:
            self._add(values)

    def _add(self, values: Tensor) -> None:
        """Add to the sums, which are about the planned mean, in fp64."""
        if not values.numel():
            return
        wide = torch.view_as_real(values.resolve_conj()).double() if values.is_complex() else values.double()
        self.low = min(self.low, float(wide.min()))
        self.high = max(self.high, float(wide.max()))
        first = wide[..., 0] if values.is_complex() else wide
        self.count += values.numel()
        self.sum += float((first - self.moments.mean).sum())
        if values.is_complex():
            wide = wide - torch.tensor([self.moments.mean, 0.0], dtype=torch.float64, device=wide.device)
        else:
            wide = wide - self.moments.mean
        self.squares += float((wide * wide).sum())

    def result(self) -> Measured:
        """The measurement, with everything that deviates from the plan."""
        n = max(self.count, 1)
        shift, square = self.sum / n, self.squares / n
        planned = self.moments
        measured = Measured(
            name=self.entry.name,
            count=self.count,
            mean=planned.mean + shift,
            std=math.sqrt(max(square - shift * shift, 0.0)) if math.isfinite(square) else square,
            low=self.low,
            high=self.high,
            planned_mean=planned.mean if self.planned else None,
            planned_std=planned.std if self.planned else None,
            mean_z=self._mean_score(shift) if self.planned else 0.0,
            std_z=self._std_score(square) if self.planned else 0.0,
            findings=(),
        )
        return measured if self.count == 0 else _with_findings(measured, self.entry)

    def _quantum(self) -> float:
        """The spacing of the dtype's numbers where most values are; rounding moves a value by at most half of it."""
        if not dtypes.is_drawable(self.entry.dtype):
            return 0.0
        info = torch.finfo(dtypes.real_part(self.entry.dtype))
        magnitude = abs(self.moments.mean) + 2 * self.moments.std
        return max(info.eps * magnitude, info.smallest_normal * info.eps)

    def _mean_score(self, shift: float) -> float:
        # rounding to nearest does not move the mean of values that spread over several numbers
        quantum, std = self._quantum(), self.moments.std
        slack = quantum if std <= 4 * quantum else quantum * 1e-3
        return _score(max(abs(shift) - slack, 0.0), std / math.sqrt(max(self.count, 1)))

    def _std_score(self, square: float) -> float:
        quantum, std = self._quantum(), self.moments.std
        # rounding adds at most quantum^2/4 to the variance; /12 if spread evenly (Sheppard)
        slack = quantum if std <= 4 * quantum else quantum * quantum / (4 * std)
        measured = math.sqrt(square) if square >= 0 else math.nan
        deviation = math.copysign(max(abs(measured - std) - slack, 0.0), measured - std)
        if not math.isfinite(deviation):
            return math.inf
        if std == 0 or self.moments.kurtosis <= 1:
            return _score(deviation, 1e-6 * std)
        freedom = 2 * max(self.count, 1) / (self.moments.kurtosis - 1)
        ratio = abs((std + deviation) / std)
        return (math.pow(ratio, 2 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def _score(deviation: float, error: float) -> float:
    if not math.isfinite(deviation):
        return math.inf
    if deviation == 0:
        return 0.0
    return deviation / error if error > 0 else math.inf


def _with_findings(measured: Measured, entry: Entry) -> Measured:
    findings: list[str] = []
    if isinstance(entry.initializer, Program) and not entry.initializer.draws:
        return measured  # a mask may well be infinite
    if not all(map(math.isfinite, (measured.low, measured.high, measured.std))):
        findings.append("has values that are not finite")
    else:
        if abs(measured.mean_z) > STANDARD_ERRORS:
            findings.append(
                f"mean {measured.mean:.6g}, planned {measured.planned_mean:.6g}: {measured.mean_z:.1f} standard errors"
            )
        if abs(measured.std_z) > STANDARD_ERRORS:
            findings.append(
                f"std {measured.std:.6g}, planned {measured.planned_std:.6g}: {measured.std_z:.1f} standard errors"
            )
        low, high = entry.initializer.bounds()
        slack = dtypes.relative_rounding(entry.dtype) if dtypes.is_drawable(entry.dtype) else 0.0
        outside = measured.low < low - abs(low) * slack or measured.high > high + abs(high) * slack
        if outside and entry.dtype not in dtypes.COMPLEX:
            findings.append(
                f"values from {measured.low:.6g} to {measured.high:.6g} leave the planned [{low:.6g}, {high:.6g}]"
            )
    return Measured(**{**measured.__dict__, "findings": tuple(findings)})


def measure(entry: Entry, values: Tensor) -> Measured:
    """Measure an entry's values as they lie in memory."""
    accumulator = Accumulator(entry)
    for index, _ in Region.whole(values.shape).tiles(_TILE):
        accumulator.add(index, values[index])
    return accumulator.result()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written. ``ok`` is true if nothing deviates; ``print(report)`` shows a table."""

    seed: int
    measured: tuple[Measured, ...]
    kept: tuple[str, ...]
    nbytes: int
    seconds: float
    backend: str = "reference"
    stream: int = field(default=STREAM_VERSION)

    def __iter__(self) -> Iterator[Measured]:
        return iter(self.measured)

    def __getitem__(self, name: str) -> Measured:
        for item in self.measured:
            if item.name == name:
                return item
        raise KeyError(f"the report has no parameter named {name!r}")

    @property
    def flagged(self) -> tuple[Measured, ...]:
        """The parameters that deviate from the plan."""
        return tuple(item for item in self.measured if not item.ok)

    @property
    def ok(self) -> bool:
        """Whether nothing deviates from the plan."""
        return not self.flagged

    def summary(self) -> str:
        """One line."""
        count = sum(item.count for item in self.measured)
        kept = f", {len(self.kept)} kept" if self.kept else ""
        verdict = "all as planned" if self.ok else f"{len(self.flagged)} NOT as planned"
        return (
            f"{len(self.measured)} tensors written{kept}: {count:,} values, {bytes_text(self.nbytes)} in "
            f"{self.seconds:.1f} s "
            f"(seed {self.seed}, stream {self.stream}, {self.backend}); {verdict}"
        )

    def __str__(self) -> str:
        named = ((item.name, (item.planned_mean, item.planned_std, item.ok), item) for item in self.measured)
        rows = [
            (
                name,
                number_text(items[0].planned_mean),
                range_text(item.mean for item in items),
                number_text(items[0].planned_std),
                range_text(item.std for item in items),
                number_text(min(item.low for item in items)),
                number_text(max(item.high for item in items)),
                f"{sum(item.count for item in items):,}",
                "ok" if items[0].ok else "FLAGGED",
            )
            for name, items in fold(named)
        ]
        headings = ("name", "planned mean", "mean", "planned std", "std", "min", "max", "values", "verdict")
        lines = [table(headings, rows, right=("values",))]
        lines += [f"{item.name}: {finding}" for item in self.flagged for finding in item.findings]
        return "\n".join([*lines, self.summary()])

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.as_dict(), indent=1)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values; what is not finite becomes text."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "stream": self.stream,
            "backend": self.backend,
            "nbytes": self.nbytes,
            "seconds": self.seconds,
            "kept": list(self.kept),
            "parameters": [
                {
                    key: value if not isinstance(value, float) or math.isfinite(value) else str(value)
                    for key, value in item.__dict__.items()
                }
                for item in self.measured
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One tensor that is not what the plan gives: how many elements, and the first of them."""

    name: str
    count: int
    first: tuple[int, ...]
    found: str
    expected: str

    def __str__(self) -> str:
        place = ", ".join(map(str, self.first))
        return (
            f"{self.name}: {self.count:,} element(s) differ, first at [{place}]: "
            f"found {self.found}, expected {self.expected}"
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of computing every value again and comparing bit by bit."""

    seed: int
    compared: int
    kept: tuple[str, ...]
    differences: tuple[Difference, ...]
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every bit agrees."""
        return not self.differences and not self.problems

    def summary(self) -> str:
        """One line."""
        kept = f", {len(self.kept)} kept as they were" if self.kept else ""
        if self.ok:
            return f"verified: {self.compared} tensors equal, bit by bit, those of seed {self.seed}{kept}"
        problems = len(self.differences) + len(self.problems)
        return f"NOT verified: {problems} problem(s) in {self.compared} tensors (seed {self.seed})"

    def __str__(self) -> str:
        return "\n".join([*self.problems, *map(str, self.differences), self.summary()])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "compared": self.compared,
            "kept": list(self.kept),
            "problems": list(self.problems),
            "differences": [{**item.__dict__, "first": list(item.first)} for item in self.differences],
        }


class Comparison:
    """Compares an entry's values with the expected ones, tile by tile, bit by bit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.first: tuple[tuple[int, ...], str, str] | None = None

    def add(self, index: tuple[slice, ...], found: Tensor, expected: Tensor) -> None:
        """Compare one tile, found at ``index`` of the whole tensor."""
        differs = _bits(found) != _bits(expected)
        if differs.ndim > found.ndim:  # complex: either part
            differs = differs.any(-1)
        count = int(differs.sum())
        if not count:
            return
        if self.first is None:
            where = tuple(int(i) for i in differs.nonzero()[0])
            place = tuple(part.start + i for part, i in zip(index, where, strict=True))
            self.first = (place, str(found[where].item()), str(expected[where].item()))
        self.count += count

    def result(self) -> Iterable[Difference]:
        """The difference, if there is one."""
        if self.first is not None:
            place, found, expected = self.first
            yield Difference(name=self.name, count=self.count, first=place, found=found, expected=expected)


_INTEGER: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(values: Tensor) -> Tensor:
    if values.is_complex():
        values = torch.view_as_real(values)
    return values.contiguous().view(_INTEGER[values.dtype.itemsize])
