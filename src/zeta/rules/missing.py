"""What a name glob names that a model does not have, and what may have been meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Final

from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError
from zeta.rules.globs import choices_of, glob_matcher
from zeta.rules.match import Kind, Role

_CHOICE: Final = re.compile(r"\{[^{}]*\}|\[[^\]]+\]")
_WRONG_RANGE: Final = re.compile(r"\{(\d+)(?:-|:|\.|\.\.\.)(\d+)\}")
#: choices as regular expressions have them
_CHOICES: Final = str.maketrans("(|)", "{,}")
#: what regular expressions have and names have not
_REGEX: Final = re.compile(r"[\\()+^$|]|\.\*")


def did_you_mean_glob(pattern: str, names: Collection[str]) -> str:
    """The end of a message about a glob that matches no name: another spelling, the closest glob, or nothing.

    >>> did_you_mean_glob("*.wieght", ["h.0.weight", "h.0.bias"])
    "; did you mean '*.weight'?"
    >>> did_you_mean_glob("h.1.*", ["h.0.weight", "h.0.bias"])
    "; did you mean 'h.0.*'?"
    >>> did_you_mean_glob("{0-1}.weight", ["h.0.weight", "h.0.bias"])
    "; did you mean '*.{0..1}.weight'?"
    """
    return _respelled(pattern, names) or _closest(pattern, names)


def did_you_mean_condition(pattern: str, names: Collection[str]) -> str:
    """As ``did_you_mean_glob``, for the condition of a rule, which may be something else than a glob.

    >>> did_you_mean_condition("mlp_down", ["h.0.weight", "h.0.bias"])
    '; did you mean role("mlp_down")?'
    """
    return _respelled(pattern, names) or _unlike(pattern, names) or _closest(pattern, names)


def missing(
    pattern: str, names: Collection[str], hint: Callable[[str, Collection[str]], str] = did_you_mean_glob
) -> list[str]:
    """The glob, if it matches none of the names; else each choice in its braces that matches none; each with a hint.

    >>> missing("h.*.{attn,mpl}.bias", ["h.0.attn.bias", "h.0.mlp.bias"])
    ["h.*.mpl.bias; did you mean 'h.*.mlp.bias'?"]
    """
    if not any(map(glob_matcher(pattern), names)):
        return [pattern + hint(pattern, names)]
    return [choice + hint(choice, names) for choice in choices_of(pattern) if not any(map(glob_matcher(choice), names))]


def _respelled(pattern: str, names: Collection[str]) -> str:
    """A glob that means what this one was meant to, if that matches a name."""
    found = next((glob for glob in _spellings(pattern) if _matches(glob, names)), None)
    return "" if found is None else f"; did you mean {found!r}?"


def _spellings(pattern: str) -> Iterator[str]:
    ranges = _WRONG_RANGE.sub(r"{\1..\2}", pattern)
    choices = ranges.translate(_CHOICES)
    if choices != ranges and "{" not in choices:
        choices = f"{{{choices}}}"
    for glob in dict.fromkeys((pattern, ranges, choices)):
        yield from (glob, f"{glob}.*", f"*.{glob}", f"*.{glob}.*")


def _unlike(pattern: str, names: Collection[str]) -> str:
    """A condition of another sort, if the text is one."""
    for sort, known in (("role", Role), ("kind", Kind)):
        if pattern in list(known):
            return f'; did you mean {sort}("{pattern}")?'
    parts = [part.strip() for part in pattern.split("|")]
    if len(parts) > 1 and any(_matches(part, names) for part in parts):
        return f"; did you mean {' | '.join(f'glob({part!r})' for part in parts)}?"
    if _REGEX.search(pattern):
        try:
            if any(map(re.compile(pattern).fullmatch, names)):
                return f"; did you mean regex({pattern!r})?"
        except (re.error, OverflowError, RecursionError):
            return ""
    return ""


def _matches(pattern: str, names: Collection[str]) -> bool:
    """Whether a text is a glob that matches any of the names."""
    try:
        return any(map(glob_matcher(pattern), names))
    except SpecError:
        return False


def _closest(pattern: str, names: Collection[str]) -> str:
    """The closest glob of the same form."""
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
