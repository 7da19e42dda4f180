"""The way from input to loss as a short chain of layers: where the gradient ends, or where something happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from zeta.base.names import short_name
from zeta.check.facts.results import Layer
from zeta.check.show.pictures import drawing
from zeta.check.show.pictures.drawing import GRADIENT, NAME_CHARACTER, TEXT, TONES, WIDTH
from zeta.check.show.pictures.groups import Group

_MIDDLE: Final = 58
_BELOW: Final = 92
_HEIGHT: Final = 112
#: the shortest arrow with a name under it
_ARROW: Final = 60
#: half the height of a box, of one line and of two
_HALF: Final = {1: 13, 2: 20}
#: between two boxes, at least
_GAP: Final = 18
#: cells of a line in a box: the most, and the fewest
_LINE: Final = (18, 7)


@dataclass(frozen=True, kw_only=True)
class Box:
    """One station of the chain: an end, a layer, or the number of layers that are not shown."""

    text: str
    layer: bool = False
    bad: bool = False

    def lines(self, cells: int) -> list[str]:
        """Its text: of a long name, two lines of about one length."""
        if not self.layer or len(self.text) <= cells:
            return [self.text]
        name = short_name(self.text, 2 * cells - 2)
        ends = [place for place, letter in enumerate(name) if letter in ".:_…" and place]
        at = min(ends, key=lambda place: abs(place - len(name) / 2), default=len(name) // 2)
        return [short_name(part, cells) for part in (name[:at], name[at:])]

    def width(self, cells: int) -> float:
        """In pixels."""
        return max(map(len, self.lines(cells))) * NAME_CHARACTER + (14 if self.layer else 8)


def cut(group: Group) -> str | None:
    """Where no gradient passes: after the last layer that a finding is about, and before the next that has one."""
    layers = group.results.layers
    if not layers:
        return None
    reached = [layer.gradient is not None and layer.gradient.zeros < 1 for layer in layers]
    concerned = [number for number, layer in enumerate(layers) if layer.name in group.layers and not reached[number]]
    if not concerned and any(reached):
        return None
    start = concerned[0] if concerned else 0
    after = next((number for number in range(start + 1, len(layers)) if reached[number]), len(layers))
    boxes = [_end("input"), *_skipped(layers[:start]), _layer(layers[start], bad=True)]
    boxes += _skipped(layers[start + 1 : after])
    at = len(boxes)
    if after < len(layers):
        boxes += [_layer(layers[after]), *_skipped(layers[after + 1 :])]
    boxes.append(_end("loss"))
    known = f"before {layers[after].name}" if after < len(layers) else "before the loss"
    said = f"chain of layers: no gradient reaches {layers[start].name}; it ends {known}"
    return _drawn(group, boxes, said, cut_at=at)


def place(what: str) -> Callable[[Group], str | None]:
    """The chain around the layer at which it happens, said in a few words."""

    def drawn(group: Group) -> str | None:
        layers = group.results.layers
        at = next((number for number, layer in enumerate(layers) if layer.name in group.layers), None)
        if at is None:
            return None
        before, after = layers[:at], layers[at + 1 :]
        boxes = [_end("input"), *_skipped(before[:-1]), *map(_layer, before[-1:]), _layer(layers[at], bad=True)]
        boxes += [*map(_layer, after[:1]), *_skipped(after[1:]), _end("output")]
        return _drawn(group, boxes, f"chain of layers: {what} at {layers[at].name}", note=what)

    return drawn


def _end(text: str) -> Box:
    return Box(text=text)


def _layer(layer: Layer, *, bad: bool = False) -> Box:
    return Box(text=layer.name, layer=True, bad=bad)


def _skipped(layers: Sequence[Layer]) -> list[Box]:
    """One station for what is not shown by name."""
    return [Box(text=f"+{len(layers):,}")] if layers else []


def _drawn(group: Group, boxes: Sequence[Box], said: str, *, cut_at: int | None = None, note: str = "") -> str:
    """The chain from left to right. With a cut, the gradient's way back below it, as far as it comes."""
    tone, most = TONES[group.severity], WIDTH - _GAP * (len(boxes) - 1) - 8
    cells = next((n for n in range(*_LINE, -1) if sum(one.width(n) for one in boxes) <= most), _LINE[1])
    gap = min((WIDTH - 8 - sum(one.width(cells) for one in boxes)) / (len(boxes) - 1), 3 * _GAP)
    title = "the way from the input to the output" if cut_at is None else "where the gradient ends"
    parts, x, cut_x = [drawing.label(4, 12, title, bold=True)], 4.0, 0.0
    for number, one in enumerate(boxes):
        if number and number == cut_at:
            cut_x = x - gap / 2
        elif number:
            parts.append(drawing.arrow(x - gap + 3, x - 3, _MIDDLE, TEXT))
        parts += _box(one, x, cells, tone)
        width = one.width(cells)
        if one.bad and note:
            centre = drawing.fitted(x + width / 2, len(note), drawing.CHARACTER + 1)
            parts.append(drawing.label(centre, _BELOW + 8, note, anchor="middle", colour=tone, bold=True))
        x += width + gap
    if cut_at is not None:
        parts += _way_back(x - gap, cut_x, tone)
    return drawing.svg(_HEIGHT, said, parts)


def _box(one: Box, x: float, cells: int, tone: str) -> list[str]:
    width, lines = one.width(cells), one.lines(cells)
    half, parts = _HALF[len(lines)], []
    if one.layer:
        colour, filled = (tone, 0.14) if one.bad else (TEXT, 0.05)
        parts.append(drawing.frame(x, _MIDDLE - half, width, 2 * half, colour, filled=filled))
    for place, text in enumerate(lines):
        y = _MIDDLE + 4 + (place - (len(lines) - 1) / 2) * 13
        parts.append(drawing.label(x + width / 2, y, text, anchor="middle", name=one.layer, bold=one.layer))
    return parts


def _way_back(start: float, end: float, tone: str) -> list[str]:
    """The gradient from the loss to the cut."""
    parts = [
        drawing.line([(end, _MIDDLE - 24), (end, _BELOW + 12)], tone, width=2, dashed=True),
        drawing.crosses([(end, _BELOW)], tone),
        drawing.label(end - 10, _BELOW + 4, "no gradient", anchor="end", colour=tone, bold=True),
    ]
    if start - end > _ARROW:
        parts.append(drawing.arrow(start, end + 10, _BELOW, GRADIENT))
        parts.append(drawing.label((start + end) / 2 + 5, _BELOW + 15, "gradient", anchor="middle", colour=GRADIENT))
    return parts
