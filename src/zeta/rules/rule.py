"""One rule, and an ordered list of rules: the first one that matches a parameter wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from zeta.base.reading import shown
from zeta.errors import SpecError, ZetaError
from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.rules.match import Kind, Match
from zeta.rules.where import Condition, Where, where

InitializerOf = Callable[[Match], Initializer]


@dataclass(frozen=True)
class Rule:
    """A parameter that satisfies ``where`` gets ``initializer``.

    Args:
        where: see :func:`where`.
        initializer: an :class:`Initializer`, ``Keep()`` to keep the parameter's values on purpose, or a function of the
            :class:`Match` that returns one.
        axes: the roles of the dimensions, if they cannot be derived from the module, or are derived wrongly.
        optional: the rule may match nothing. Any other rule that never wins is an error.
        buffers: the rule applies to buffers and not to parameters.
    """

    where: Condition
    initializer: Initializer | InitializerOf
    axes: Axes | None = field(default=None, kw_only=True)
    optional: bool = field(default=False, kw_only=True)
    buffers: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "where", where(self.where))
        if isinstance(self.initializer, type) or not (
            isinstance(self.initializer, Initializer) or callable(self.initializer)
        ):
            raise SpecError(
                f"rule {self.label!r}: expected an initializer such as Normal(0.02), Keep(), or a function of the "
                f"match, got {shown(self.initializer)}"
            )
        if self.axes is not None and not isinstance(self.axes, Axes):
            raise SpecError(f"rule {self.label!r}: axes must be Axes(...), got {shown(self.axes)}")

    @property
    def label(self) -> str:
        """The condition in words."""
        assert isinstance(self.where, Where)
        return self.where.label

    def matches(self, match: Match) -> bool:
        """Whether this rule applies to ``match``; ``SpecError`` if its predicate raises."""
        assert isinstance(self.where, Where)
        if (match.kind is Kind.BUFFER) is not self.buffers:
            return False
        try:
            return self.where(match)
        except ZetaError:
            raise
        except Exception as error:
            raise SpecError(
                f"rule {self.label!r}: its condition fails for {match.name}: {type(error).__name__}: {error}"
            ) from error

    def initializer_for(self, match: Match) -> Initializer:
        """The initializer for ``match``; ``SpecError`` if the rule's function raises or returns something else."""
        if isinstance(self.initializer, Initializer):
            return self.initializer
        try:
            result = self.initializer(match)
        except ZetaError:
            raise
        except Exception as error:
            raise SpecError(
                f"rule {self.label!r}: its function fails for {match.name}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(result, Initializer):
            raise SpecError(f"rule {self.label!r} must return an initializer for {match.name}, got {shown(result)}")
        return result


class Rules(Sequence[Rule]):
    """An ordered list of rules; the first that matches wins. ``+`` joins two lists."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = tuple(rules)
        for position, rule in enumerate(self._rules):
            if not isinstance(rule, Rule):
                raise SpecError(f"Rules: item {position} must be a Rule, got {shown(rule)}")
        if not self._rules:
            raise SpecError("Rules: at least one rule is needed")

    def __getitem__(self, index: Any) -> Any:
        return self._rules[index]

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def __add__(self, other: Iterable[Rule]) -> Rules:
        return Rules((*self, *other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self._rules == other._rules

    def __hash__(self) -> int:
        return hash(self._rules)

    def __repr__(self) -> str:
        return "Rules([\n" + "".join(f"    Rule({rule.label!r}, {rule.initializer!r}),\n" for rule in self) + "])"

    def first(self, match: Match) -> int | None:
        """The position of the first rule that matches, or ``None``."""
        for position, rule in enumerate(self._rules):
            if rule.matches(match):
                return position
        return None
