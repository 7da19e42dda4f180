"""A measure over the depth of the model, with the layers that a finding is about; over sizes; over parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from zeta.base.names import short_name
from zeta.base.text import count_text, number_text
from zeta.check.facts.results import Layer, Parameter
from zeta.check.show.pictures import drawing
from zeta.check.show.pictures.drawing import ACCENT, GRADIENT, TEXT, TONES, WIDTH, Axis, log_axis
from zeta.check.show.pictures.groups import Group

_HEIGHT: Final = 152
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, WIDTH - 12, 40, 130
#: more points than that are drawn as a line without dots, and as the smallest and largest of each pixel or two
_DOTS: Final = 40
_POINTS: Final = 160
#: what a map beside a curve takes, and its own side
MAP: Final = 104
_MAP_SIDE: Final = 90
#: cells of a name in a picture
_NAME: Final = 34


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of each layer, if it has it."""

    name: str  #: ``gradient (rms)``
    of: Callable[[Layer], float | None]
    colour: str = ACCENT
    fraction: bool = False  #: whether it is between 0 and 1, and its limit worth a line


OUTPUT: Final = Measure(name="output (rms)", of=lambda layer: layer.output.rms)
BACKWARD: Final = Measure(
    name="gradient (rms)", of=lambda layer: None if layer.gradient is None else layer.gradient.rms, colour=GRADIENT
)
DEAD: Final = Measure(name="units that are off for every sample", of=lambda layer: layer.dead, fraction=True)
SATURATED: Final = Measure(name="outputs at the bounds", of=lambda layer: layer.saturated, fraction=True)
ENTROPY: Final = Measure(name="entropy of attention (1: all keys alike)", of=lambda layer: layer.entropy, fraction=True)
SCORE: Final = Measure(name="largest attention score", of=lambda layer: layer.largest_logit)
SINGULAR: Final = Measure(
    name="mean square singular value of the Jacobian",
    of=lambda layer: None if layer.singular is None else layer.singular[0],
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A point of a curve."""

    x: float
    value: float
    name: str
    marked: bool


def over_depth(measure: Measure) -> Callable[[Group], str | None]:
    """The drawing of this measure for all layers; for all blocks, if the findings are about blocks."""

    def drawn(group: Group) -> str | None:
        layers = list(enumerate(group.results.layers))
        blocks = [(number, layer) for number, layer in layers if layer.block]
        whole = group.layers <= {layer.name for _, layer in blocks}
        places = _of_layers(group, measure, blocks if whole else layers)
        what = "block" if whole else "layer"
        return curve(
            group,
            f"{measure.name}, {what} by {what}",
            places,
            (f"first {what}", f"last {what}"),
            colour=measure.colour,
            limited=measure.fraction,
            fraction=measure.fraction,
        )

    return drawn


def attention(measure: Measure) -> Callable[[Group], str | None]:
    """A measure of all attentions, and beside it the map of the worst: which query attends to which key."""
    plain = over_depth(measure)

    def drawn(group: Group) -> str | None:
        places = _of_layers(group, measure, list(enumerate(group.results.layers)))
        bad = worst(places)
        rows = None if bad is None else group.results.layers[round(bad.x)].attended
        if not rows:
            return plain(group)
        side = min(_MAP_SIDE / max(len(rows), len(rows[0])), 10)
        cells: dict[str, list[tuple[float, float, float, float]]] = {}
        for row, digits in enumerate(rows):
            for column, digit in enumerate(digits):
                cells.setdefault(digit, []).append((8 + column * side, _TOP + row * side, side, side))
        edge = (8, _TOP, len(rows[0]) * side, len(rows) * side)
        beside = [drawing.boxes([edge], TEXT, filled=0.06)]
        # the square root of a weight, as the digits are, shows also those of many keys alike
        beside += [
            drawing.boxes(some, measure.colour, filled=int(digit) / 9) for digit, some in cells.items() if digit != "0"
        ]
        beside += [drawing.label(8, _HEIGHT - 6, "query ↓   key →")]
        return curve(
            group,
            f"{measure.name}, layer by layer",
            places,
            ("first layer", "last layer"),
            limited=measure.fraction,
            fraction=measure.fraction,
            beside=beside,
        )

    return drawn


def _of_layers(group: Group, measure: Measure, layers: Sequence[tuple[int, Layer]]) -> list[Place]:
    values = [(number, layer.name, measure.of(layer)) for number, layer in layers]
    return [
        Place(x=number, value=value, name=name, marked=name in group.layers)
        for number, name, value in values
        if value is not None
    ]


def over_parameters(
    title: str, of: Callable[[Parameter], float | None], *, colour: str = ACCENT, limited: bool = False
) -> Callable[[Group], str | None]:
    """The drawing of a number of all parameters, which are in an order and not on a way."""

    def drawn(group: Group) -> str | None:
        values = [(number, one.name, of(one)) for number, one in enumerate(group.results.parameters)]
        places = [
            Place(x=number, value=value, name=name, marked=name in group.parameters)
            for number, name, value in values
            if value is not None
        ]
        ends = ("first parameter", "last parameter")
        return curve(group, title, places, ends, colour=colour, limited=limited, joined=False)

    return drawn


STEP: Final = over_parameters("first step relative to the weights (rms)", lambda one: one.update, limited=True)
OWN_GRADIENT: Final = over_parameters(
    "gradient of each parameter (rms)",
    lambda one: None if one.gradient is None else one.gradient.rms,
    colour=GRADIENT,
)


def over_sizes(factory: str) -> Callable[[Group], str | None]:
    """A quantity over the width or depth of a model, after the last step."""

    def drawn(group: Group) -> str | None:
        points = [one for one in group.results.points if one.factory == factory]
        wanted = group.findings[0].layer or (points[0].layer if points else None)
        points = [one for one in points if one.layer == wanted]
        last = max((one.step for one in points), default=0)
        points = sorted((one for one in points if one.step == last), key=lambda one: one.size)
        largest = max((one.size for one in points), default=0)
        places = [
            Place(
                x=math.log2(max(one.size, 1)), value=one.value, name=f"{factory} {one.size}", marked=one.size == largest
            )
            for one in points
        ]
        title = f"{short_name(wanted or '', _NAME)} over {factory}, after {count_text(last, 'step')}"
        ends = (f"{factory} {points[0].size}", f"{factory} {largest}") if points else ("", "")
        return curve(group, title, places, ends)

    return drawn


def worst(places: Sequence[Place]) -> Place | None:
    """Of the marked places, the one that is furthest from the middle of all: what is not finite, then by ratio."""
    marked = [place for place in places if place.marked]
    logs = sorted(math.log(place.value) for place in places if 0 < place.value < math.inf)
    middle = logs[len(logs) // 2] if logs else 0.0

    def distance(place: Place) -> float:
        return abs(math.log(place.value) - middle) if 0 < place.value < math.inf else math.inf

    return max(marked, key=distance, default=None)


def curve(
    group: Group,
    title: str,
    places: Sequence[Place],
    ends: tuple[str, str],
    *,
    colour: str = ACCENT,
    limited: bool = False,
    fraction: bool = False,
    joined: bool = True,
    beside: Sequence[str] = (),
) -> str | None:
    """Places from left to right, the marked ones crossed, the worst of them with its name and its value.

    ``limited``: the findings' limit is of this measure. ``fraction``: the axis goes from 0 to 1. ``beside``: what is on
    the left, ``MAP`` wide.
    """
    bad, tone = worst(places), TONES[group.severity]
    left = _LEFT + MAP * bool(beside)
    if len(places) < 2 or bad is None:
        return None
    first, last = places[0].x, places[-1].x
    limit = group.findings[0].limit if limited else None
    limits = [] if limit is None or not math.isfinite(limit) else [limit]
    axis = (
        Axis(low=0, high=1, start=_BOTTOM, end=_TOP, logarithmic=False)
        if fraction
        else log_axis([*(place.value for place in places), *limits], _BOTTOM, _TOP)
    )

    def at(place: Place) -> tuple[float, float]:
        return left + (place.x - first) / ((last - first) or 1) * (_RIGHT - left), axis.at(place.value)

    parts = [drawing.label(4, 12, title, bold=True), *beside]
    for y, text in axis.ticks():
        parts += [drawing.line([(left, y), (_RIGHT, y)], TEXT, width=1, faint=True)]
        parts += [drawing.label(left - 6, y + 4, text, anchor="end")]
    for value in limits:
        parts.append(drawing.line([(left, axis.at(value)), (_RIGHT, axis.at(value))], tone, width=1, dashed=True))
        parts.append(drawing.label(_RIGHT, 12, f"- - limit {number_text(value)}", anchor="end", colour=tone))
    if joined:
        parts.append(drawing.line(_thinned([at(place) for place in places]), colour))
    if not joined or len(places) <= _DOTS:
        some = [at(place) for place in places if not place.marked]
        parts.append(drawing.dots(some[:: math.ceil(len(some) / _POINTS) or 1], colour))
    marked = [at(place) for place in places if place.marked and place is not bad]
    parts.append(drawing.crosses(marked[:: math.ceil(len(marked) / _DOTS) or 1], tone, 3))
    x, y = at(bad)
    called = f"layer {bad.name}" if bad.name.isdecimal() else short_name(bad.name, _NAME)
    said = f"{called}: {number_text(bad.value)}"
    if y > _TOP + 8:
        parts.append(drawing.line([(x, _TOP - 7), (x, y - 7)], tone, width=1, dashed=True))
    centre = drawing.fitted(x, len(said), drawing.NAME_CHARACTER + 0.5)
    parts += [
        drawing.crosses([(x, y)], tone),
        drawing.label(centre, _TOP - 10, said, anchor="middle", colour=tone, name=True),
        drawing.label(left, _HEIGHT - 6, ends[0]),
        drawing.label(_RIGHT, _HEIGHT - 6, ends[1], anchor="end"),
    ]
    return drawing.svg(_HEIGHT, f"{title}; marked: {said}", parts)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points; of very many, the lowest and the highest of each run."""
    size = math.ceil(len(points) / (_POINTS / 2))
    if size <= 2:
        return list(points)
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    ends = [sorted({min(run, key=lambda p: p[1]), max(run, key=lambda p: p[1])}) for run in runs]
    return [points[0], *(point for run in ends for point in run), points[-1]]
