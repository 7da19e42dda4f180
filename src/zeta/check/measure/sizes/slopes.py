"""The exponents by which outputs grow over the width or depth of a model: slopes of ln rms over ln size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from zeta.check.facts.results import Point, Slope
from zeta.check.facts.thresholds import Thresholds


def log_slope(values: Mapping[int, float]) -> float:
    """The slope of ln(value) over ln(size), by least squares, of values by size; infinite for what is not positive."""
    if not all(map(math.isfinite, values.values())):
        return math.inf
    if not all(values.values()):
        return -math.inf
    return least_squares([math.log(size) for size in values], [math.log(value) for value in values.values()])


def least_squares(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the line through points."""
    centre, middle = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - centre) ** 2 for a in x)
    return sum((a - centre) * (b - middle) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


def exponents(points: Iterable[Point], factory: str) -> dict[str, dict[int, float]]:
    """By layer and step, the slope of what was measured at all sizes, and is not 0 in the smallest model.

    It is infinite where an output, finite in the smallest model at the start, is not finite at some size; and minus
    infinity where it is 0 at some size.
    """
    series: dict[str, dict[int, dict[int, float]]] = {}
    sizes = set[int]()
    for point in points:
        if point.factory == factory and point.group:
            sizes.add(point.size)
            series.setdefault(point.layer, {}).setdefault(point.step, {})[point.size] = point.value
    found: dict[str, dict[int, float]] = {}
    for layer, steps in series.items():
        start = steps.get(0, {}).get(min(sizes), math.nan)  # scores with a mask are infinite from the start
        for step, values in sorted(steps.items()):
            finite = all(map(math.isfinite, values.values()))
            if values.keys() == sizes and values[min(sizes)] != 0 and (finite or math.isfinite(start)):
                found.setdefault(layer, {})[step] = log_slope(values)
    return found


def slopes(points: Sequence[Point], limits: Thresholds) -> tuple[Slope, ...]:
    """For each class of layers, how its outputs grow over the sizes of each factory; in the order of the layers."""
    groups = {(point.factory, point.layer): point.group for point in points if point.group}
    found: list[Slope] = []
    for factory, limit in (("width", limits.width_slope), ("depth", limits.depth_growth)):
        classes: dict[str, dict[str, dict[int, float]]] = {}
        for layer, steps in exponents(points, factory).items():
            classes.setdefault(groups[factory, layer], {})[layer] = steps
        found += [_slope(factory, group, layers, limit) for group, layers in classes.items()]
    return tuple(found)


def _slope(factory: str, group: str, layers: Mapping[str, Mapping[int, float]], limit: float) -> Slope:
    last = max(step for steps in layers.values() for step in steps)
    means: list[float] = []
    for step in range(last + 1):
        known = [steps[step] for steps in layers.values() if step in steps]
        means.append(sum(known) / len(known) if known else math.nan)
    layer, step, steepest = max(
        ((name, step, value) for name, steps in layers.items() for step, value in steps.items()),
        key=lambda one: one[2],
    )
    verdict = "grows" if steepest > limit else "shrinks" if means[-1] < -limit else "flat"
    return Slope(
        factory=factory,
        group=group,
        layers=len(layers),
        exponents=tuple(means),
        layer=layer,
        step=step,
        steepest=steepest,
        verdict=verdict,
    )
