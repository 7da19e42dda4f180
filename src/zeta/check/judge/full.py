"""Z8: the rules of the full level."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from zeta.base.text import count_text
from zeta.check.facts.evidence import Evidence
from zeta.check.facts.results import Finding
from zeta.check.judge.base import found, graded
from zeta.check.measure.sizes.slopes import exponents, least_squares
from zeta.check.measure.sizes.sweeps import GRADIENT_NORM

# chains of fewer Jacobians are too short to judge
_SHORTEST: Final = 3
# exp of more overflows fp64
_LARGEST_EXPONENT: Final = 700.0


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Jacobians, spectral norms, growth over width and depth."""
    yield from _jacobians(evidence)
    yield from _spectral(evidence)
    yield from _coordinates(evidence)
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


def _coordinates(evidence: Evidence) -> Iterator[Finding]:
    """For each layer, the largest slope of all steps."""
    limits = evidence.thresholds
    for rule, factory, limit in (("Z803", "width", limits.width_slope), ("Z805", "depth", limits.depth_growth)):
        for layer, steps in exponents(evidence.points, factory).items():
            step, steepest = max(steps.items(), key=lambda item: item[1])
            if steepest > limit:
                when = "at the start" if step == 0 else f"after {count_text(step, 'step')}"
                message = f"its rms grows as {factory}^{steepest:.2f} {when}"
                if math.isinf(steepest):
                    size = min(
                        point.size
                        for point in evidence.points
                        if (point.factory, point.layer, point.step) == (factory, layer, step)
                        and not math.isfinite(point.value)
                    )
                    message = f"its rms is not finite at {factory} {size} {when}"
                yield found(rule, message, layer=layer, value=steepest, limit=limit)


def _depths(evidence: Evidence) -> Iterator[Finding]:
    points = [p for p in evidence.points if p.layer == GRADIENT_NORM and p.value > 0 and math.isfinite(p.value)]
    if len(points) < 2:
        return
    rate = least_squares([float(p.size) for p in points], [math.log(p.value) for p in points])
    limit = evidence.thresholds.depth_slope
    if abs(rate) > limit:
        first, last = points[0], points[-1]
        message = (
            f"the gradient norm changes by a factor of {math.exp(rate):.3g} per layer: {first.value:.3g} at depth "
            f"{first.size}, {last.value:.3g} at depth {last.size}"
        )
        yield found("Z804", message, value=abs(rate), limit=limit)
