"""What a mistyped name may have been."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Final

from zeta.base.escaping import visible

#: names that are compared, as each takes some microseconds
_MOST: Final = 20_000
#: close names of which the first with close words is taken
_CLOSE: Final = 20
#: characters of a name that is compared: the time grows with their square
_LONGEST: Final = 200


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is closest to it, or nothing if none is close.

    Each word between the dots of the wrong name has to be close to one of the known name.

    >>> did_you_mean("GPT-2", ["bert", "gpt2"]), did_you_mean("x", ["bert", "gpt2"])
    ("; did you mean 'gpt2'?", '')
    >>> did_you_mean("head", ["body.weight", "head.weight", "head.bias"])
    "; did you mean 'head.weight'?"
    """
    if not isinstance(wrong, str) or len(wrong) > _LONGEST:
        return ""
    known = list(itertools.islice(known, _MOST))
    inside = next((name for name in known if name.startswith(f"{wrong}.") and len(name) <= _LONGEST), None)
    if inside is not None:
        return f"; did you mean '{visible(inside)}'?"
    names = {name.casefold(): name for name in known if len(name) <= _LONGEST}
    close = difflib.get_close_matches(wrong.casefold(), names, n=_CLOSE)
    found = next((name for name in close if _words_are_close(wrong.casefold(), name)), None)
    return "" if found is None else f"; did you mean '{visible(names[found])}'?"


def _words_are_close(wrong: str, name: str) -> bool:
    """Whether each word of ``wrong`` is close to one of the name, in their order."""
    rest = iter(name.split("."))
    return all(any(_is_close(word, each) for each in rest) for word in wrong.split("."))


def _is_close(word: str, other: str) -> bool:
    numbers = word.isdecimal() and (other.isdecimal() or other == "*")
    return word == "*" or numbers or bool(difflib.get_close_matches(word, [other]))
