"""Rules that do nothing, or of which a name does nothing, and why: each is an error, as it may be mistyped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from zeta.base.spelling import did_you_mean
from zeta.errors import ZetaError
from zeta.rules import Match, Rule, Rules, Where
from zeta.rules.where import class_names

#: by whether they are of buffers
Names = Mapping[bool, Sequence[str]]
#: rules that a message names as hiding another one
_MOST: Final = 3
_NOUN: Final = {False: "parameter", True: "buffer"}
_OF_ALL: Final = {"Module", "object"}
_OPTION: Final = {True: "write buffers=True", False: "leave buffers=True out"}


def label_of(rules: Rules, position: int) -> str:
    """A rule in a message."""
    return f"rule {position + 1} ({rules[position].label})"


def names_of_nothing(rules: Rules, winners: Collection[int], names: Callable[[], Names]) -> Iterator[str]:
    """The globs, and choices in their braces, that match no name, of rules that win."""
    for position in rules.required:
        if position in winners and _has_choices(rules[position]):
            yield from (f"{label_of(rules, position)}: {line}" for line in _missing(rules[position], names()))


def _has_choices(rule: Rule) -> bool:
    """Whether the rule may win although a name in it is of nothing; one glob without braces has matched."""
    assert isinstance(rule.where, Where)
    globs = rule.where.globs
    return bool(globs) and (globs != (rule.where.label,) or "{" in globs[0])


def hiding(rules: Rules, position: int, matches: Sequence[Match]) -> list[int]:
    """The rules that match first what a rule would match."""
    first = {rules.first(match) for match in matches if rules[position].matches(match)}
    return sorted(each for each in first if each not in (None, position))


def is_replaced(rules: Rules, position: int, matches: Sequence[Match]) -> bool:
    """Whether a rule of a recipe is hidden by rules that were put before the recipe."""
    recipe = rules[position].recipe
    return recipe is not None and any(rules[each].recipe != recipe for each in hiding(rules, position, matches))


def why_idle(rules: Rules, position: int, matches: Sequence[Match], names: Names) -> str:
    """Why a rule wins none of a model's tensors."""
    rule = rules[position]
    if found := hiding(rules, position, matches):
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        return f"hidden by {', '.join(label_of(rules, each) for each in found[:_MOST])}{more}"
    other = replace(rule, buffers=not rule.buffers)
    for match in matches:
        with contextlib.suppress(ZetaError):
            if other.matches(match):
                return f"{match.name} is a {_NOUN[other.buffers]}: {_OPTION[other.buffers]}"
    lines = [*_missing(rule, names), *_no_such_class(rule, matches), *_no_such_role(rule, matches)]
    return ", ".join(lines) or "matches nothing"


def _missing(rule: Rule, names: Names) -> Iterator[str]:
    from zeta.rules.missing import did_you_mean_condition, missing  # here, because most rules match

    assert isinstance(rule.where, Where)
    for pattern in rule.where.globs:
        for line in missing(pattern, names[rule.buffers], did_you_mean_condition):
            yield f"no {_NOUN[rule.buffers]} is named {line}"


def _no_such_class(rule: Rule, matches: Sequence[Match]) -> Iterator[str]:
    assert isinstance(rule.where, Where)
    known = {name: None for match in matches for name in sorted(class_names(match.module) - _OF_ALL)}
    for name in rule.where.classes:
        if name not in known:
            yield f"no module is a {name}{did_you_mean(name, known)}"


def _no_such_role(rule: Rule, matches: Sequence[Match]) -> Iterator[str]:
    assert isinstance(rule.where, Where)
    if rule.where.roles:
        known = {match.role for match in matches}
        if absent := [role.value for role in dict.fromkeys(rule.where.roles) if role not in known]:
            yield f"no {_NOUN[rule.buffers]} has the role {' or '.join(absent)}; zeta.roles_of(model) shows the roles"
