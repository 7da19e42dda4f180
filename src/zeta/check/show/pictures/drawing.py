"""SVG, piece by piece: lines, texts, axes. All text is untrusted and escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from zeta.base.html import escaped
from zeta.base.text import number_text
from zeta.check.facts.results import Severity

#: of every picture, in pixels
WIDTH: Final = 460
#: what a character takes: of numbers and labels, and of names, which are in a font of equal widths
CHARACTER: Final = 5.9
NAME_CHARACTER: Final = 6.2

# the page's own colours, and others, readable on black and on white, in a page that has none
ACCENT: Final = "var(--accent,#4a8fd6)"
GRADIENT: Final = "var(--gradient,#c8793a)"
TEXT: Final = "currentColor"
TONES: Final = {
    Severity.FAIL: "var(--fail,#d9484f)",
    Severity.WARN: "var(--warn,#b98512)",
    Severity.NOTE: "var(--note,#808892)",
}
_FONTS: Final = {"text": "system-ui,sans-serif", "name": "ui-monospace,'DejaVu Sans Mono',monospace"}

#: steps between the numbers of a linear axis
_MOST_TICKS: Final = 5


def svg(height: int, title: str, parts: Iterable[str]) -> str:
    """A picture with what it shows in words: for a reader who cannot see it, and under the pointer."""
    said = escaped(title)
    return (
        f'<svg role="img" aria-label="{said}" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'style="max-width:100%;height:auto;display:block"><title>{said}</title>{"".join(parts)}</svg>'
    )


def label(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = TEXT, name: bool = False, bold: bool = False
) -> str:
    """A text; quiet unless it has a colour of its own."""
    quiet = ";opacity:.75" if colour == TEXT and not bold else ""
    style = f"fill:{colour};font:{600 if bold else 400} 11px {_FONTS['name' if name else 'text']}{quiet}"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{escaped(text)}</text>'


def line(
    points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.5, dashed: bool = False, faint: bool = False
) -> str:
    """A line through points."""
    way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dash = ";stroke-dasharray:4 3" if dashed else ""
    weak = ";opacity:.18" if faint else ""
    return (
        f'<path d="{way}" style="fill:none;stroke:{colour};stroke-width:{width:g};stroke-linejoin:round{dash}{weak}"/>'
    )


def frame(x: float, y: float, width: float, height: float, colour: str, *, filled: float) -> str:
    """A rectangle with an edge and round corners, filled to this opacity."""
    style = f"fill:{colour};fill-opacity:{filled:g};stroke:{colour}"
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" style="{style}"/>'


def dots(points: Iterable[tuple[float, float]], colour: str, size: float = 5) -> str:
    """Points of a curve."""
    way = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path d="{way}" style="fill:none;stroke:{colour};stroke-width:{size:g};stroke-linecap:round"/>'


def crosses(points: Iterable[tuple[float, float]], colour: str, size: float = 5.0) -> str:
    """Marks of what is wrong."""
    step = f"l{2 * size:g} {2 * size:g}m{-2 * size:g} 0l{2 * size:g} {-2 * size:g}"
    way = "".join(f"M{x - size:.1f} {y - size:.1f}{step}" for x, y in points)
    return f'<path d="{way}" style="fill:none;stroke:{colour};stroke-width:{size * 0.6:g};stroke-linecap:round"/>'


def boxes(corners: Iterable[tuple[float, float, float, float]], colour: str, *, filled: float = 1.0) -> str:
    """Rectangles of one colour: x, y, width and height of each."""
    way = "".join(f"M{x:.1f} {y:.1f}h{wide:.1f}v{high:.1f}h{-wide:.1f}z" for x, y, wide, high in corners)
    return f'<path d="{way}" style="fill:{colour};fill-opacity:{filled:g}"/>'


def arrow(x: float, to: float, y: float, colour: str) -> str:
    """A horizontal arrow."""
    back = -5 if to > x else 5
    head = f"M{to + back:.1f} {y - 3.5:.1f}L{to:.1f} {y:.1f}L{to + back:.1f} {y + 3.5:.1f}"
    return line([(x, y), (to, y)], colour) + f'<path d="{head}" style="fill:none;stroke:{colour};stroke-width:1.5"/>'


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where numbers are between two ends of a picture; logarithmic, with places for 0 and for what is not finite."""

    low: float
    high: float
    start: float  #: the pixel of ``low``
    end: float
    logarithmic: bool
    zero: bool = False  #: whether a place below all is for zeros
    odd: bool = False  #: whether a place above all is for what is not finite

    def at(self, value: float) -> float:
        """The pixel of a value."""
        gap = math.copysign(14, self.end - self.start)
        if not math.isfinite(value):
            return self.end
        if self.logarithmic and value <= 0:
            return self.start
        first, last = self.start + gap * self.zero, self.end - gap * self.odd
        part = ((math.log10(value) if self.logarithmic else value) - self.low) / (self.high - self.low)
        return first + min(max(part, 0.0), 1.0) * (last - first)

    def ticks(self) -> list[tuple[float, str]]:
        """Places with their numbers: at most five or so, round ones."""
        if not self.logarithmic:
            step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
            step *= next(times for times in (1, 2, 5, 10) if (self.high - self.low) / (step * times) <= _MOST_TICKS)
            numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            return [(self.at(number * step), number_text(number * step)) for number in numbers]
        low, high = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
        step = max(1, math.ceil((high - low) / 3))
        texts = [(self.at(10.0**power), _power(power)) for power in range(low, high + 1, step)]
        texts += [(self.start, "0")] * self.zero + [(self.end, "inf, nan")] * self.odd
        return texts


def log_axis(values: Iterable[float], start: float, end: float) -> Axis:
    """A logarithmic axis of whole decades, two at least: less would make small differences look large."""
    values = list(values)
    logs = [math.log10(value) for value in values if 0 < value < math.inf] or [0.0]
    low, high = math.floor(min(logs) + 1e-9), math.ceil(max(logs) - 1e-9)
    while high - low < 2:
        low, high = (low - 1, high) if min(logs) - low < high - max(logs) else (low, high + 1)
    zero, odd = any(value <= 0 for value in values), any(not math.isfinite(value) for value in values)
    return Axis(low=low, high=high, start=start, end=end, logarithmic=True, zero=zero, odd=odd)


def _power(power: int) -> str:
    return f"{10.0**power:g}" if -3 <= power <= 4 else f"1e{power}"


def fitted(x: float, characters: int, width: float = CHARACTER) -> float:
    """A place for the middle of a text, near ``x``, at which it does not leave the picture."""
    half = characters * width / 2 + 2
    return min(max(x, half), WIDTH - half)
