"""Names of layers and parameters in little room: the middle is left out, and never a number."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_GAP: Final = "…"
#: a part of a name, with what separates it from the one before
_PART: Final = re.compile(r"[.:]?[^.:]+|[.:]")
_NUMBER: Final = re.compile(r"\d+")
#: a number that is a whole part, such as that of a layer, and not of a word such as conv2d
_WHOLE: Final = re.compile(r"(?<!\w)\d+(?!\w)")
#: letters of a word that are left before words at numbers go
_LEGIBLE: Final = 6
#: of longer names only the ends are looked at
_LONGEST: Final = 1000


def short_name(name: str, longest: int) -> str:
    """The name in at most ``longest`` cells, with all of its numbers.

    Words go first, those in the middle before those at the ends; then letters, from the middle of the longest words;
    then the words before a number. A name whose numbers alone take more room keeps its two ends only.

    >>> short_name("model.language_model.layers.11.self_attn.q_proj.weight", 30)
    'model…layers.11…q_proj.weight'
    >>> short_name("transformer_encoder_layer3.0", 16)
    'transf…_layer3.0'
    """
    from rich.cells import cell_len, chop_cells

    def fits(text: str) -> bool:
        return cell_len(text) <= longest

    if fits(name):
        return name
    if len(name) <= _LONGEST:
        parts = _PART.findall(name)
        for number in (_NUMBER, _WHOLE):
            words, later = _expendable(parts, number)
            for order, legible in ((words, _LEGIBLE), ([*words, *later], _LEGIBLE), ([*words, *later], 1)):
                text = _tightened(_without(parts, _gone(parts, order, fits)), number, legible, fits)
                if fits(text):
                    return text
    half = longest // 2
    return chop_cells(name, half - 1)[0] + _GAP + chop_cells(name[::-1], half)[0][::-1]


def _expendable(parts: list[str], number: re.Pattern[str]) -> tuple[list[int], list[int]]:
    """The parts that can go, the least important first: those that go at once, and those that letters go before.

    The last two say what it is, the first one in which part of the model; between them, those after a number say more.
    """
    last = len(parts) - 1
    numbered = [place for place, part in enumerate(parts) if number.search(part)]

    def importance(place: int) -> tuple[bool, bool, float]:
        return place == 0, place > min(numbered, default=last), abs(place - last / 2)

    free = sorted((place for place in range(last) if place not in numbered), key=importance)
    kept = [place for place in free if place == last - 1 or place + 1 in numbered]
    return [place for place in free if place not in kept], sorted(kept, key=lambda place: place != last - 1)


def _gone(parts: list[str], order: list[int], fits: Callable[[str], bool]) -> set[int]:
    """Which parts have to go: the first ones in order; of these, what fits then comes back."""
    gone = set(order[: _least(len(order), lambda count: fits(_without(parts, set(order[:count]))))])
    for place in reversed(order):
        if place in gone and fits(_without(parts, gone - {place})):
            gone.discard(place)
    return gone


def _without(parts: list[str], gone: set[int]) -> str:
    """The parts but those; a gap takes the place of the dot after it too."""
    shown, gap = "", False
    for place, part in enumerate(parts):
        if place in gone:
            gap = True
            continue
        shown += f"{_GAP}{part.removeprefix('.')}" if gap else part
        gap = False
    return shown


def _tightened(text: str, number: re.Pattern[str], legible: int, fits: Callable[[str], bool]) -> str:
    """The text with no more letters cut from its longest words than it takes to fit, or down to ``legible`` ones."""
    words = re.split(rf"({number.pattern}|[.:{_GAP}])", text)
    most = max(legible, *map(len, words[::2]))
    return _squeezed(words, most - _least(most - legible, lambda count: fits(_squeezed(words, most - count))))


def _squeezed(words: list[str], most: int) -> str:
    """Words and the numbers and dots between them; of each word at most so many letters."""
    return "".join(word if place % 2 or len(word) <= most else _cut(word, most) for place, word in enumerate(words))


def _cut(word: str, most: int) -> str:
    start = most // 2
    end = most - 1 - start
    return word[:start] + _GAP + word[len(word) - end :]


def _least(most: int, enough: Callable[[int], bool]) -> int:
    """The smallest number that is enough, if more is never worse; ``most`` if none is."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
