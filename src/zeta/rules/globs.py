"""Name globs. A name is compared position by position, so that no glob takes long on any name.

A part of a glob is a function from the positions in a name where it may begin to those where it may then end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from zeta.base.reading import shown
from zeta.errors import SpecError

Part = Callable[[str, set[int]], set[int]]

_RANGE: Final = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
#: begins something else than text
_SPECIAL: Final = re.compile(r"[*?\[{]")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,17}")
#: braces inside each other
_DEEPEST: Final = 16
#: choices that :func:`choices_of` gives, as each is as long as the glob
_MOST_CHOICES: Final = 1000


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """Return the test of whether a name matches a glob (see :func:`zeta.rules.glob`).

    >>> matches = glob_matcher("h.{0..11}.*.{q,k}_proj.weight")
    >>> matches("h.10.attn.k_proj.weight"), matches("h.12.attn.k_proj.weight")
    (True, False)
    """
    if not isinstance(pattern, str):
        raise SpecError(f"a name glob is a text, got {shown(pattern)}")
    if not pattern:
        raise SpecError("a name glob cannot be empty; '*' matches every name")
    rest, parts = pattern, list[Part]()
    if pattern.startswith("*."):
        parts, rest = [_module], pattern[2:]
    # most globs are a whole name, or the end of one: a text compares these at once
    end = pattern[1:]
    if not _SPECIAL.search(rest):
        return (lambda name: name == rest or name.endswith(end)) if parts else (lambda name: name == rest)
    if pattern[0] == "*" and not _SPECIAL.search(end):
        return lambda name: name.endswith(end)
    parts += _parsed(rest, pattern)
    whole = _one_after_another(parts)
    ending = re.split(r"[*?\]}]", rest)[-1]  # the most common names to be refused have another

    def matches(name: str) -> bool:
        return name.endswith(ending) and len(name) in whole(name, {0})

    return matches


def choices_of(pattern: str) -> Iterator[str]:
    """A valid glob with each choice in its braces alone, the first thousand of them; none if it has no choice.

    A range of numbers is one choice.

    >>> list(choices_of("h.{0..11}.{attn.{q,k},mlp}.bias"))
    ['h.{0..11}.attn.q.bias', 'h.{0..11}.attn.k.bias', 'h.{0..11}.mlp.bias']
    """
    return itertools.islice(filter(None, _choices(pattern)), _MOST_CHOICES)


def _choices(text: str, depth: int = 0) -> Iterator[str]:
    special, place = re.compile(r"\{" if depth else r"[\[{]"), 0
    while found := special.search(text, place):
        before, opened, rest = text[: found.start()], found[0], text[found.end() :]
        if opened == "[":
            place = len(text) - len(rest.partition("]")[2])
            continue
        inside, _, rest = _braced(rest)
        options = list(_options(inside))
        for option in options:
            for choice in list(_choices(option, depth + 1)) or [option] * (len(options) > 1):
                # what would mean something else without braces keeps them
                bare = not (_SPECIAL.search(choice) or _RANGE.fullmatch(choice))
                yield f"{before}{choice}{rest}" if bare else f"{before}{{{choice}}}{rest}"
        place = len(text) - len(rest)


def _parsed(text: str, pattern: str, depth: int = 0) -> Iterator[Part]:
    """The parts of a glob; in braces, only braces have a meaning."""
    while text:
        before = re.match(r"[^{]*" if depth else r"[^*?\[{]*", text)
        assert before is not None
        if before[0]:
            yield _text(before[0])
        character, text = text[before.end() : before.end() + 1], text[before.end() + 1 :]
        if character == "*":
            yield _any
        elif character == "?":
            yield _one
        elif character:
            inside, closed, text = text.partition("]") if character == "[" else _braced(text)
            if not closed or not inside:
                raise SpecError(f"name glob {shown(pattern)}: {character!r} is not closed, or has nothing inside")
            yield _set(inside, pattern) if character == "[" else _braces(inside, pattern, depth + 1)


def _braced(text: str) -> tuple[str, str, str]:
    """What is before the brace that closes one opened before ``text``, that brace, and the rest; like ``partition``."""
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:place], "}", text[place + 1 :]
    return text, "", ""


def _braces(inside: str, pattern: str, depth: int) -> Part:
    if depth > _DEEPEST:
        raise SpecError(f"name glob {shown(pattern)}: more than {_DEEPEST} braces are inside each other")
    options: list[Part] = []
    for option in _options(inside):
        span = _RANGE.fullmatch(option)
        if span and int(span[1]) > int(span[2]):
            raise SpecError(f"name glob {shown(pattern)}: no number is in {option}")
        options.append(
            _numbers(int(span[1]), int(span[2])) if span else _one_after_another(list(_parsed(option, pattern, depth)))
        )
    return lambda name, starts: set().union(*(option(name, starts) for option in options))


def _options(inside: str) -> Iterator[str]:
    """The texts between the commas that are not in inner braces."""
    depth, begin = 0, 0
    for place, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield inside[begin:place]
            begin = place + 1
    yield inside[begin:]


# -- parts -----------------------------------------------------------------------------------------------------------


def _one_after_another(parts: Sequence[Part]) -> Part:
    def ends(name: str, starts: set[int]) -> set[int]:
        for part in parts:
            if not starts:
                break
            starts = part(name, starts)
        return starts

    return ends


def _module(name: str, starts: set[int]) -> set[int]:
    """The leading ``*.``: nothing, or the name of any module."""
    return starts | {place + 1 for place, character in enumerate(name) if character == "."}


def _any(name: str, starts: set[int]) -> set[int]:
    return set(range(min(starts), len(name) + 1))


def _one(name: str, starts: set[int]) -> set[int]:
    return {start + 1 for start in starts if start < len(name)}


def _text(text: str) -> Part:
    return lambda name, starts: {start + len(text) for start in starts if name.startswith(text, start)}


def _set(inside: str, pattern: str) -> Part:
    negated = inside.startswith("!")
    escaped = re.sub(r"([\\^\[])", r"\\\1", inside[negated:])
    try:
        one = re.compile(f"[{'^' if negated else ''}{escaped}]")
    except re.error as error:
        raise SpecError(f"name glob {shown(pattern)}: [{inside}] is not a set of characters ({error})") from None
    return lambda name, starts: {start + 1 for start in starts if one.match(name, start)}


def _numbers(first: int, last: int) -> Part:
    """The whole numbers from ``first`` to ``last``, written without leading zeros."""

    def ends(name: str, starts: set[int]) -> set[int]:
        found: set[int] = set()
        for start in starts:
            digits = _NUMBER.match(name, start)
            if digits is not None:
                found |= {end for end in range(start + 1, digits.end() + 1) if first <= int(name[start:end]) <= last}
        return found

    return ends
