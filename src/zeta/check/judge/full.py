"""Z8: the rules of the full level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding, Point
from zeta.check.judge.base import found, graded

# chains of fewer Jacobians are too short to judge
_SHORTEST: Final = 3
# exp of more overflows fp64
_LARGEST_EXPONENT: Final = 700.0


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Jacobians, spectral norms, growth over width and depth."""
    yield from _jacobians(evidence)
    yield from _spectral(evidence)
    yield from _widths(evidence)
    yield from _depths(evidence)


def _jacobians(evidence: Evidence) -> Iterator[Finding]:
    limits = evidence.thresholds
    heads = {use.layer.name for use in evidence.uses if use.head}  # often small on purpose
    for chain in evidence.jacobians:
        squares = {name: square for name, square in zip(chain.layers, chain.squares, strict=True) if name not in heads}
        if len(squares) < _SHORTEST:
            continue
        total = sum(map(math.log, squares.values()))
        most = limits.jacobian_fail if total > 0 else limits.jacobian_lost
        grade = graded(abs(total), limits.jacobian_warn, most)
        if grade is not None:
            first, *_, last = squares
            message = (
                f"the mean square singular values of the {len(squares)} Jacobians from {first} to "
                f"{last} multiply to {math.exp(max(min(total, _LARGEST_EXPONENT), -_LARGEST_EXPONENT)):.3g}"
            )
            yield found("Z801", message, layer=last, severity=grade[0], value=abs(total), limit=grade[1])


def _spectral(evidence: Evidence) -> Iterator[Finding]:
    limits = evidence.thresholds
    for name, (measured, expected) in evidence.spectral.items():
        ratio = measured / expected
        grade = graded(ratio, limits.spectral_warn, limits.spectral_fail)
        if grade is not None:
            message = (
                f"its spectral norm is {measured:.4g}; that of random weights of its size and rms is {expected:.4g}"
            )
            yield found("Z802", message, parameter=name, severity=grade[0], value=ratio, limit=grade[1])


def _widths(evidence: Evidence) -> Iterator[Finding]:
    """For each layer, the largest slope of all steps."""
    series: dict[str, dict[int, list[Point]]] = {}
    for point in evidence.points:
        if point.factory == "width" and point.value > 0 and math.isfinite(point.value):
            series.setdefault(point.layer, {}).setdefault(point.step, []).append(point)
    sizes = {point.size for point in evidence.points if point.factory == "width"}
    for layer, steps in series.items():
        slopes = {step: log_slope(points) for step, points in steps.items() if len(points) == len(sizes)}
        if not slopes:
            continue
        step, steepest = max(slopes.items(), key=lambda item: item[1])
        if steepest > evidence.thresholds.width_slope:
            message = f"its rms grows as width^{steepest:.2f} " + (
                "at the start" if step == 0 else f"after {step} steps"
            )
            yield found("Z803", message, layer=layer, value=steepest, limit=evidence.thresholds.width_slope)


def log_slope(points: Sequence[Point]) -> float:
    """The slope of ln(value) over ln(size), by least squares."""
    return _least_squares([math.log(p.size) for p in points], [math.log(p.value) for p in points])


def _depths(evidence: Evidence) -> Iterator[Finding]:
    points = [p for p in evidence.points if p.factory == "depth" and p.value > 0 and math.isfinite(p.value)]
    if len(points) < 2:
        return
    rate = _least_squares([float(p.size) for p in points], [math.log(p.value) for p in points])
    limit = evidence.thresholds.depth_slope
    if abs(rate) > limit:
        first, last = points[0], points[-1]
        message = (
            f"the gradient norm changes by a factor of {math.exp(rate):.3g} per layer: {first.value:.3g} at depth "
            f"{first.size}, {last.value:.3g} at depth {last.size}"
        )
        yield found("Z804", message, value=abs(rate), limit=limit)


def _least_squares(x: Sequence[float], y: Sequence[float]) -> float:
    centre, middle = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - centre) ** 2 for a in x)
    return sum((a - centre) * (b - middle) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0
