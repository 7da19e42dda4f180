"""What a name glob names that a model does not have, and what may have been meant."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from zeta.base.spelling import did_you_mean
from zeta.rules.globs import choices_of, glob_matcher

_CHOICE: Final = re.compile(r"\{[^{}]*\}|\[[^\]]+\]")


def missing(pattern: str, names: Collection[str]) -> list[str]:
    """The glob, if it matches none of the names; else each choice in its braces that matches none.

    >>> missing("h.*.{attn,mpl}.bias", ["h.0.attn.bias", "h.0.mlp.bias"])
    ["h.*.mpl.bias; did you mean 'h.*.mlp.bias'?"]
    """
    if not any(map(glob_matcher(pattern), names)):
        return [pattern + did_you_mean_glob(pattern, names)]
    return [
        choice + did_you_mean_glob(choice, names)
        for choice in choices_of(pattern)
        if not any(map(glob_matcher(choice), names))
    ]


def did_you_mean_glob(pattern: str, names: Collection[str]) -> str:
    """The end of a message about a glob that matches no name: the closest glob of the same form, or nothing.

    >>> did_you_mean_glob("*.wieght", ["h.0.weight", "h.0.bias"])
    "; did you mean '*.weight'?"
    >>> did_you_mean_glob("h.1.*", ["h.0.weight", "h.0.bias"])
    "; did you mean 'h.0.*'?"
    """
    inside = f"{pattern}.*"
    if any(map(glob_matcher(inside), names)):
        return f"; did you mean {inside!r}?"
    pattern = _CHOICE.sub("*", pattern)
    end = ".*" if pattern.endswith(".*") else ""
    count = len(pattern.removesuffix(end).split("."))
    forms: dict[str, None] = {}
    for name in names:
        words = name.split(".")
        if pattern.startswith("*."):
            forms["*." + ".".join(words[1 - count :] if count > 1 else words)] = None
        elif end:
            words = words[:count]
        forms[".".join(words) + end] = None
        forms[".".join("*" if word.isdecimal() else word for word in words) + end] = None
    return did_you_mean(pattern, forms)
