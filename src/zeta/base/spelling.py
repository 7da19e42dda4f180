"""What a mistyped name may have been."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from typing import Final

from zeta.base.escaping import visible

#: names that are compared, as each takes some microseconds
_MOST: Final = 20_000
#: characters of a name that is compared: the time grows with their square
_LONGEST: Final = 200


def did_you_mean(wrong: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is closest to it, or nothing if none is close.

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
    found = difflib.get_close_matches(wrong.casefold(), names, n=1)
    return f"; did you mean '{visible(names[found[0]])}'?" if found else ""
