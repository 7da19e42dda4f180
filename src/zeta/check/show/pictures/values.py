"""The values of one tensor against their planned law; numbers side by side; units that are alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from zeta.base.names import short_name
from zeta.base.text import number_text
from zeta.check.facts.results import Finding, Parameter, Stats
from zeta.check.show.pictures import drawing
from zeta.check.show.pictures.drawing import ACCENT, TEXT, TONES, WIDTH, Axis
from zeta.check.show.pictures.groups import Group

_LEFT, _RIGHT, _TOP, _BOTTOM = 12, WIDTH - 12, 40, 122
#: a law is drawn to this many standard deviations
_REACH: Final = 3.5
_STEPS: Final = 60
#: squares for units, in all and in a row
_CELLS: Final = 64
_ROW: Final = 32


def parameter_of(group: Group, badness: Callable[[Finding, Parameter], tuple[bool, float]]) -> Parameter | None:
    """Of the parameters of a group that were measured, the worst."""
    known = {one.name: one for one in group.results.parameters}
    some = [(one, known[one.parameter]) for one in group.findings if one.parameter in known]
    return max(some, key=lambda pair: badness(*pair), default=(None, None))[1]


def _value(finding: Finding, one: Parameter) -> tuple[bool, float]:
    """The larger, the worse; what is no number is worst, and a single value has the least to show."""
    value = finding.value
    return one.values.histogram is not None, 0.0 if value is None else math.inf if math.isnan(value) else abs(value)


def _alike(_: Finding, one: Parameter) -> tuple[bool, float]:
    compared = bool(one.units) and one.distinct is not None
    return compared, 1 - (one.distinct or 0) / (one.units or 1)


def against_plan(group: Group) -> str | None:
    """The histogram of a parameter and, if it has a plan, the law that was planned; each up to its own peak."""
    one = parameter_of(group, _value)
    bars = [] if one is None else _bars(one.values)
    if one is None or not bars:
        return None
    law = _law(one.initializer or "", one.planned_mean, one.planned_std)
    ends = [end for start, stop, _ in bars for end in (start, stop)] + [x for x, _ in law]
    low, high = min(ends), max(ends)
    room = (high - low) * 0.02 or abs(low) or 1.0
    axis = Axis(low=low - room, high=high + room, start=_LEFT, end=_RIGHT, logarithmic=False)
    tone, name = TONES[group.severity], short_name(one.name, 60)
    parts = [drawing.label(4, 12, name, name=True)]
    tall = _BOTTOM - _TOP
    corners = [
        (axis.at(start), _BOTTOM - share * tall, max(axis.at(stop) - axis.at(start), 2), share * tall)
        for start, stop, share in bars
    ]
    parts.append(drawing.boxes(corners, tone, filled=0.55))
    parts.append(drawing.line([(_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], TEXT, width=1, faint=True))
    measured = f"measured: {_moments(one.values.mean, one.values.std)}"
    parts += [drawing.boxes([(4, 20, 9, 9)], tone, filled=0.55), drawing.label(17, 29, measured)]
    said = f"values of {one.name}; {measured}"
    if law:
        planned = f"planned: {_moments(one.planned_mean, one.planned_std)}"
        parts.append(drawing.line([(axis.at(x), _BOTTOM - y * (_BOTTOM - _TOP)) for x, y in law], ACCENT, width=2))
        x = max(WIDTH / 2, 31 + len(measured) * drawing.CHARACTER)
        parts += [drawing.line([(x, 25), (x + 11, 25)], ACCENT, width=2), drawing.label(x + 15, 29, planned)]
        said += f"; {planned}"
    for x, text in axis.ticks():
        parts.append(drawing.label(drawing.fitted(x, len(text)), _BOTTOM + 15, text, anchor="middle"))
    return drawing.svg(_BOTTOM + 20, said, parts)


def _moments(mean: float | None, std: float | None) -> str:
    return f"std {number_text(std)}, mean {number_text(mean)}"


def _bars(stats: Stats) -> list[tuple[float, float, float]]:
    """Start, end and height over the highest; of values that are all equal, one bar without a width."""
    histogram = stats.histogram
    if histogram is None:
        return [(stats.mean, stats.mean, 1.0)] if stats.std == 0 and math.isfinite(stats.mean) else []
    width, most = (histogram.high - histogram.low) / len(histogram.counts), max(histogram.counts)
    starts = [histogram.low + place * width for place in range(len(histogram.counts))]
    return [(x, x + width, n / most) for x, n in zip(starts, histogram.counts, strict=True) if n]


def _law(initializer: str, mean: float | None, std: float | None) -> list[tuple[float, float]]:
    """A density over its peak: a line where nothing varies, a box of a uniform law, else a bell of these moments."""
    if mean is None or std is None or not (math.isfinite(mean) and math.isfinite(std)):
        return []
    if std == 0:
        return [(mean, 0.0), (mean, 1.0)]
    if "uniform" in initializer.lower():
        half = math.sqrt(3) * std
        return [(mean - half, 0.0), (mean - half, 1.0), (mean + half, 1.0), (mean + half, 0.0)]
    places = [-_REACH + 2 * _REACH * step / _STEPS for step in range(_STEPS + 1)]
    return [(mean + z * std, math.exp(-z * z / 2)) for z in places]


def side_by_side(rows: Sequence[tuple[str, float, str]]) -> str | None:
    """Numbers as bars of one scale: (what, value, colour)."""
    if not all(math.isfinite(value) for _, value, _ in rows):
        return None
    left = max(len(what) for what, _, _ in rows) * drawing.CHARACTER + 12
    right = max(len(number_text(value)) for _, value, _ in rows) * (drawing.CHARACTER + 1) + 14
    most = max(value for _, value, _ in rows) or 1
    parts, y = [], 6
    for what, value, colour in rows:
        across = max(value, 0) / most * (WIDTH - left - right)
        parts += [
            drawing.label(left - 6, y + 12, what, anchor="end"),
            drawing.boxes([(left, y + 1, max(across, 1.5), 15)], colour, filled=0.7),
            drawing.label(left + across + 6, y + 12, number_text(value), bold=True),
        ]
        y += 22
    return drawing.svg(y + 4, ", ".join(f"{what} {number_text(value)}" for what, value, _ in rows), parts)


def loss(group: Group) -> str | None:
    """The loss, and what it would be for equal logits and for random labels."""
    found = group.results.loss
    if found is None or found.chance is None:
        return None
    rows = [("loss", found.value, TONES[group.severity]), ("chance level", found.chance, ACCENT)]
    if found.expected is not None and found.spread:
        rows.append(("with the logits' spread", found.expected, ACCENT))
    return side_by_side(rows)


def spectral(group: Group) -> str | None:
    """The largest singular value, and that of random weights."""
    one = parameter_of(group, _value)
    if one is None or one.spectral is None:
        return None
    measured, expected = one.spectral
    return side_by_side([("spectral norm", measured, TONES[group.severity]), ("of random weights", expected, ACCENT)])


def units(group: Group) -> str | None:
    """A square for each unit: those that differ, and those that are the same as another."""
    one = parameter_of(group, _alike)
    if one is None or one.units is None or one.distinct is None or one.units < 2:
        return None
    count, distinct, tone = one.units, one.distinct, TONES[group.severity]
    cells = min(count, _CELLS)
    differ = min(max(round(distinct / count * cells), min(distinct, 1)), cells)
    side = (WIDTH - 8) / _ROW
    corners = [(4 + cell % _ROW * side, 22 + cell // _ROW * side, side - 2, side - 2) for cell in range(cells)]
    y = 22 + math.ceil(cells / _ROW) * side + 12
    same = f"{count - distinct:,} the same as another"
    parts = [
        drawing.label(4, 12, short_name(one.name, 60), name=True),
        drawing.boxes(corners[:differ], ACCENT),
        drawing.boxes(corners[differ:], tone),
        drawing.boxes([(4, y - 9, 9, 9)], ACCENT),
        drawing.label(17, y, f"{distinct:,} of {count:,} units differ"),
        drawing.boxes([(204, y - 9, 9, 9)], tone),
        drawing.label(217, y, same),
    ]
    return drawing.svg(round(y + 8), f"units of {one.name}: {distinct:,} differ, {same}", parts)
