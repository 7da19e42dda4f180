"""One rule, and an ordered list of rules: the first one that matches a parameter wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from torch import nn

from zeta.base import html
from zeta.base.escaping import visible
from zeta.base.reading import shown
from zeta.base.text import count_text, table
from zeta.errors import SpecError, ZetaError
from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.initializers.elementwise import notice_order
from zeta.rules.instead import (
    FunctionError,
    instead_of,
    instead_of_a_recipe,
    instead_of_a_result,
    instead_of_a_tensor,
    named,
)
from zeta.rules.match import Kind, Match
from zeta.rules.where import Condition, Where, where

_HEADINGS: Final = ("rule", "condition", "initializer", "options")
#: the labels in a repr, and the characters of one
_MOST: Final = 5
_LABEL: Final = 28

InitializerOf = Callable[[Match], Initializer]


class _Seen(Protocol):
    """What most conditions look at, of a match or of a tensor of a model."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def kind(self) -> Kind: ...
    @property
    def module(self) -> nn.Module: ...


Seen = TypeVar("Seen", bound=_Seen)


@dataclass(frozen=True)
class Rule:
    """A parameter that satisfies ``where`` gets ``initializer``.

    Args:
        where: see :func:`where`.
        initializer: an :class:`Initializer`, ``Keep()`` to keep the parameter's values on purpose, or a function of the
            :class:`Match` that returns one.
        axes: the roles of the dimensions, if they cannot be derived from the module, or are derived wrongly.
        optional: the rule may match nothing. Any other rule that never wins is an error, and so is a glob in its
            condition, or a choice in the glob's braces, that matches no name.
        buffers: the rule applies to buffers and not to parameters.
        label: the name of the rule in tables and messages; by default the condition in words.
    """

    where: Condition
    initializer: Initializer | InitializerOf
    axes: Axes | None = field(default=None, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    buffers: bool = field(default=False, kw_only=True)
    label: str = field(default="", kw_only=True, repr=False)
    #: the name of the recipe that it is from: another rule may hide it, for what the recipe is not to decide
    recipe: str | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        condition = where(self.where)
        object.__setattr__(self, "where", condition)
        if not isinstance(self.label, str):
            raise SpecError(f"rule {condition.label!r}: label must be a text, got {shown(self.label)}")
        object.__setattr__(self, "label", self.label or condition.label)
        if not isinstance(self.initializer, Initializer):
            advice = instead_of(self.initializer)
            if advice is None and (isinstance(self.initializer, type) or not callable(self.initializer)):
                advice = "expected an initializer such as Normal(0.02), Keep(), or a function of the match"
            if advice is not None:
                raise SpecError(f"rule {self.label!r}: {advice}, got {named(self.initializer)}")
        else:
            notice_order(self.initializer)
        if self.axes is not None and not isinstance(self.axes, Axes):
            raise SpecError(f"rule {self.label!r}: axes must be Axes(...), got {shown(self.axes)}")

    @property
    def _text(self) -> str:
        """The initializer for a table; of a function, its name."""
        if isinstance(self.initializer, Initializer):
            return str(self.initializer)
        return f"function {getattr(self.initializer, '__name__', type(self.initializer).__name__)}"

    @property
    def _options(self) -> list[str]:
        given = (("optional", self.optional), ("of buffers", self.buffers), (str(self.axes), self.axes is not None))
        return [option for option, holds in given if holds]

    def matches(self, match: Match) -> bool:
        """Whether this rule applies to ``match``; ``SpecError`` if its predicate raises."""
        return Rules((self,)).first(match) is not None

    def initializer_for(self, match: Match) -> Initializer:
        """The initializer for ``match``.

        Raises ``FunctionError`` if the rule's function is none of a match, and ``SpecError`` if it fails for this one.
        """
        if isinstance(self.initializer, Initializer):
            return self.initializer
        try:
            result: object = self.initializer(match)
        except ZetaError:
            raise
        except Exception as error:
            failed = f"rule {self.label!r}: its function fails for {match.name}: {type(error).__name__}: {error}"
            if (advice := instead_of_a_tensor(error)) is not None:
                raise FunctionError(f"{failed}; {advice}") from error
            raise SpecError(failed) from error
        if not isinstance(result, Initializer):
            advice = instead_of_a_result(result)
            message = f"rule {self.label!r} must return an initializer for {match.name}, got {named(result)}"
            raise FunctionError(message if advice is None else f"{message}; {advice}")
        return result


def _is_list(given: object) -> bool:
    return isinstance(given, Iterable) and not isinstance(given, str | Rule)


class Rules(Sequence[Rule]):
    """An ordered list of rules; the first that matches wins. ``+`` joins two lists.

    Args:
        rules: at least one :class:`Rule`.

    Raises ``SpecError`` if there is none, or something else than rules.
    """

    def __init__(self, rules: Iterable[Rule], *more: Rule) -> None:
        if more or not _is_list(rules):
            recipe = "" if more else instead_of_a_recipe(rules)
            raise SpecError(f"Rules takes one list: Rules([Rule(...), Rule(...)]), got {named(rules)}{recipe}")
        #: the rules, in their order
        self.each = tuple(rules)
        #: of parameters and of buffers: each rule's position, its condition, and whether that needs no whole match
        self._tests: dict[bool, list[tuple[int, Callable[[Any], bool], bool]]] = {False: [], True: []}
        #: the positions of the rules that must win
        self.required: list[int] = []
        for position, rule in enumerate(self.each):
            if not isinstance(rule, Rule):
                raise SpecError(f"Rules: item {position} must be a Rule, got {shown(rule)}")
            assert isinstance(rule.where, Where)
            self._tests[rule.buffers].append((position, rule.where.test, rule.where.brief))
            if not rule.optional:
                self.required.append(position)
        if not self.each:
            raise SpecError("Rules: at least one rule is needed")

    def __getitem__(self, index: Any) -> Any:
        return self.each[index]

    def __len__(self) -> int:
        return len(self.each)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.each)

    def __add__(self, other: Iterable[Rule]) -> Rules:
        if not _is_list(other):
            recipe = instead_of_a_recipe(other)
            raise SpecError(f"rules and a list of rules are added: rules + [Rule(...)], got {named(other)}{recipe}")
        return Rules((*self, *other))

    def __radd__(self, other: Iterable[Rule]) -> Rules:
        return Rules(other) + self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self.each == other.each

    def __hash__(self) -> int:
        return hash(self.each)

    def __repr__(self) -> str:
        labels = [visible(rule.label if len(rule.label) <= _LABEL else f"{rule.label[:_LABEL]}...") for rule in self]
        more = f" and {len(labels) - _MOST} more" if len(labels) > _MOST else ""
        return f"Rules({count_text(len(labels), 'rule')}: {', '.join(labels[:_MOST])}{more})"

    def __str__(self) -> str:
        """A table: a line for each rule, in their order."""
        return table(_HEADINGS, self._rows(), right=_HEADINGS[:1])

    def _repr_html_(self) -> str:
        return html.page(html.table_section(repr(self), _HEADINGS, self._rows(), right=_HEADINGS[:1]))

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (str(position), rule.label, rule._text, ", ".join(rule._options))
            for position, rule in enumerate(self, start=1)
        ]

    def first(self, seen: Seen, match_of: Callable[[Seen], Match] | None = None) -> int | None:
        """The position of the first rule that matches, or ``None``; ``SpecError`` if a predicate raises.

        ``seen``: a match; or, with ``match_of`` that makes it, what has its name, shape, kind and module.
        """
        match: Match | Seen | None = seen if match_of is None else None
        position = 0
        try:
            for position, test, brief in self._tests[seen.kind is Kind.BUFFER]:
                if brief:
                    found = test(seen)
                else:
                    if match is None:
                        assert match_of is not None
                        match = match_of(seen)
                    found = test(match)
                if found:
                    return position
        except ZetaError:
            raise
        except Exception as error:
            raise SpecError(
                f"rule {self.each[position].label!r}: its condition fails for {seen.name}: {type(error).__name__}: "
                f"{error}"
            ) from error
        return None
