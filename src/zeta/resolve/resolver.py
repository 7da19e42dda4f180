"""Match each tensor against rules, and solve the initializers that these give: the entries of a plan."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterable, Iterator
from typing import Any, Final

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import nn

from zeta.base.text import shape_text
from zeta.errors import FanError, PlanError, SpecError, ZetaError, listed
from zeta.fans import Axes, axes_of, known_axes
from zeta.initializers import Initializer, Keep, Ones, Program, Site, Zeros
from zeta.initializers.reach import check_law
from zeta.resolve.entries import Entry
from zeta.resolve.idle import label_of, names_of_nothing, why_idle
from zeta.resolve.slots import Slot, hook_problem, is_norm_statistic, layers_of
from zeta.rules import Kind, Match, Rules
from zeta.rules.instead import FunctionError

_STATISTICS_RULE: Final = "torch's norm statistics"
_KEPT_RULE: Final = "kept: buffer"
_UNWRITTEN_RULE: Final = "kept: not written"
#: what entries have as their rule that no rule was given for
UNRULED: Final = frozenset([_STATISTICS_RULE, _KEPT_RULE, _UNWRITTEN_RULE])
_IDLE: Final = "these rules never win (optional=True allows it):"
_MISSING: Final = "these rules name what the model does not have (optional=True allows it):"
_IDLE_OF_RECIPE: Final = (
    "these rules of it never win (write Rules([...]) for your model, before those of the recipe or instead of them):"
)
_NAME: Final = operator.attrgetter("name")
#: these say nothing about a dtype that check_law could look at
_WITHOUT_LAW: Final = (Keep, Program)


def resolve(
    rules: Rules,
    everything: list[list[Slot]],
    wanted: list[list[Slot]],
    config: Any,
    *,
    named: bool = True,
    recipe: str | None = None,
) -> list[Entry]:
    """The entries that rules give to the ``wanted`` of a model's tensors; the others need no rule.

    ``named``: errors name the rule of a parameter, as its user has written it. ``recipe``: the name of the recipe that
    the rules are from.
    """
    resolver = _Resolver(rules, everything, config=config, named=named, recipe=recipe)
    entries = [resolver.entry(group) for group in wanted]
    if len(wanted) < len(everything):
        known = {id(group) for group in wanted}
        for group in everything:
            if id(group) not in known:
                resolver.claim(group)
    resolver.raise_problems()
    return [entry for entry in entries if entry is not None]


def overriding(rules: Rules, everything: list[list[Slot]], config: Any) -> list[Entry]:
    """The entries of the tensors that a rule matches; all others are left out. Rules that never win are an error."""
    resolver = _Resolver(rules, everything, config=config, named=True, partial=True)
    entries = [resolver.entry(group) for group in everything]
    resolver.raise_problems()
    return [entry for entry in entries if entry is not None]


def groups(slots: Iterable[Slot]) -> list[list[Slot]]:
    """Slots of the same tensor together, the one with the canonical name first.

    Canonical is the embedding's name, else the alphabetically first: a choice that registration order does not change.
    """
    by_tensor: dict[int, list[Slot]] = {}
    for slot in slots:
        by_tensor.setdefault(id(slot.tensor), []).append(slot)
    for group in by_tensor.values():
        if len(group) > 1:
            group.sort(key=lambda slot: (slot.kind is not Kind.EMBEDDING, slot.name))
    return list(by_tensor.values())


class _Law(Struct, frozen=True, kw_only=True):
    """What an initializer becomes at a site, and the axes of that; ``keys`` are what that was found by."""

    solved: Initializer
    axes: Axes | None
    keys: tuple[Initializer | Axes | None, ...]


class _Resolver:
    """Matches each tensor against the rules and collects everything that is wrong."""

    def __init__(
        self,
        rules: Rules,
        groups: list[list[Slot]],
        config: Any,
        *,
        named: bool,
        recipe: str | None = None,
        partial: bool = False,
    ) -> None:
        self.rules = rules
        self.named = named
        self.recipe = recipe
        self.partial = partial  # a tensor that no rule matches is no problem
        self.config = config
        self.winners: set[int] = set()
        self.overruled: dict[int, str] = {}  # by rule: what it would have matched, but for a tie
        self.unmatched: list[str] = []
        self.contested: list[str] = []
        self.unsolved: list[str] = []
        self.broken: dict[int, str] = {}  # by rule: why its function gives no initializer
        self.written: set[int] = set()  # modules of which a parameter gets values
        self._laws: dict[tuple[Any, ...], _Law] = {}
        self._groups = groups
        self._names = [slot.name for group in groups for slot in group]

    def _layers(self, name: str) -> tuple[int, int] | None:
        return self._all_layers[name]

    @functools.cached_property
    def _all_layers(self) -> dict[str, tuple[int, int] | None]:
        return layers_of(self._names)

    def _matches(self, group: list[Slot]) -> Iterator[Match]:
        """What rules get of each name of one tensor."""
        axes_of = functools.partial(_axes, group)
        for slot in group:
            yield Match(
                name=slot.name,
                shape=slot.shape,
                dtype=slot.tensor.dtype,
                kind=slot.kind,
                module=slot.module,
                local_name=slot.local_name,
                layers=self._layers,
                config=self.config,
                axes_of=axes_of,
            )

    def claim(self, group: list[Slot]) -> tuple[int | None, list[Match]]:
        """The first rule that matches any name of one tensor, and these names' matches."""
        claims: dict[int, list[Match]] = {}
        for match in self._matches(group):
            position = self.rules.first(match)
            if position is not None:
                claims.setdefault(position, []).append(match)
        if not claims:
            return None, []
        winner = min(claims)
        self.winners.add(winner)
        for position, matches in claims.items():
            if position != winner:
                self._note_overruled(position, winner, matches, group[0])
        return winner, claims[winner]

    def entry(self, group: list[Slot]) -> Entry | None:
        """The entry of one tensor, or ``None`` after noting what is wrong with it."""
        winner, matches = self.claim(group)
        if winner is None and self.partial:
            return None
        if winner is None and group[0].kind is Kind.BUFFER:
            # a norm whose parameters are all kept keeps its statistics too
            layer = group[0].module
            restart = id(layer) in self.written or next(layer.parameters(recurse=False), None) is None
            return unruled(group, restart=restart)
        if winner is None:
            slot, tied = group[0], f", tied to {', '.join(other.name for other in group[1:])}" if group[1:] else ""
            self.unmatched.append(
                f"{slot.name} {shape_text(slot.shape)}, kind {slot.kind.value}, in {type(slot.module).__name__}{tied}"
            )
            return None
        return self._solved(group, matches, winner)

    def _note_overruled(self, claim: int, winner: int, matches: list[Match], first: Slot) -> None:
        """A rule would have matched these names of a tied tensor, of which an earlier rule matches another."""
        for match in matches:
            if claim not in self.overruled:
                with contextlib.suppress(ZetaError):
                    written = f'Rule("{first.name}", {self.rules[claim].initializer_for(match)!r})'
                    self.overruled[claim] = (
                        f"{match.name} is tied to a tensor that {label_of(self.rules, winner)} matches first: remove "
                        f"this rule, or put {written} before the other"
                    )

    def _solved(self, group: list[Slot], matches: list[Match], position: int) -> Entry | None:
        rule, slot = self.rules[position], group[0]

        try:
            if rule.axes is not None:
                given = functools.partial(rule.axes.resolved, slot.shape)
                matches = [replace(match, axes_of=given) for match in matches]
            asked = [rule.initializer_for(match) for match in matches]
            if asked.count(asked[0]) < len(asked):
                named = "; ".join(
                    f"{each.name}: {initializer!r}" for each, initializer in zip(matches, asked, strict=True)
                )
                by = label_of(self.rules, position)
                self.contested.append(f'{named} (by {by}); put Rule("{slot.name}", {asked[0]!r}) first, or another')
                return None
            if not isinstance(asked[0], Keep):
                if nn.parameter.is_lazy(slot.tensor):
                    raise SpecError("is lazy and has no shape yet; run one forward pass first")
                if (problem := hook_problem(slot)) is not None:
                    raise SpecError(problem)
            law = self._law(group, asked[0], rule.axes)
        except FunctionError as error:
            self.broken.setdefault(position, f"{error} (rule {position + 1})")
            return None
        except ZetaError as error:
            by = f", {label_of(self.rules, position)}" if self.named else ""
            self.unsolved.append(f"{slot.name} {shape_text(slot.shape)}{by}: {error}")
            return None
        padding = None
        if not isinstance(law.solved, Keep):
            for each in group:
                self.written.add(id(each.module))
                padding = each.padding_idx if padding is None else padding
        return Entry(
            name=slot.name,
            ties=tuple(map(_NAME, group[1:])),
            shape=slot.shape,
            dtype=slot.tensor.dtype,
            kind=slot.kind,
            rule=rule.label,
            initializer=law.solved,
            axes=law.axes,
            padding_idx=padding,
            persistent=slot.persistent,
        )

    def _law(self, group: list[Slot], asked: Initializer, axes: Axes | None) -> _Law:
        """What one tensor gets, with the ``axes`` of its rule: solved once for all that have the same site.

        The same initializer and axes are the same objects here: equal ones may differ in the sign of a zero.
        """
        slot = group[0]
        given: list[Axes | None]
        try:
            given = [axes] if axes is not None else _each_known(group)
        except FanError:  # a registered function refuses
            given = [None]
        key = (id(asked), slot.shape, slot.tensor.dtype, *map(id, given))
        law = self._laws.get(key)
        if law is None:
            if axes is not None:
                axes = axes.resolved(slot.shape)
            else:
                axes = _axes(group) if asked.needs_axes else _of_tied_if_any(given, group)
            solved = asked.solve(Site(shape=slot.shape, axes=axes))
            check_dtype(solved, slot.tensor.dtype)
            law = self._laws[key] = _Law(solved=solved, axes=axes, keys=(asked, *given))
        return law

    def raise_problems(self) -> None:
        """Raise one ``PlanError`` with everything that was noted."""
        names = {
            of_buffers: [
                slot.name for group in self._groups for slot in group if (slot.kind is Kind.BUFFER) is of_buffers
            ]
            for of_buffers in (False, True)
        }
        idle = [
            position for position, rule in enumerate(self.rules) if position not in self.winners and not rule.optional
        ]
        matches = [match for group in self._groups for match in self._matches(group)] if idle else []
        reasons = [
            f"{label_of(self.rules, position)}: "
            f"{self.overruled.get(position) or why_idle(self.rules, position, matches, names)}"
            for position in idle
        ]
        problems = [
            listed(heading, items)
            for heading, items in (
                ("no rule matches these parameters (Keep() leaves one alone on purpose):", self.unmatched),
                ("a rule's function must return an initializer:", self.broken.values()),
                ("a rule gives different initializers to the names of one tensor:", self.contested),
                ("these parameters cannot be initialized as asked:", self.unsolved),
                (_IDLE if self.recipe is None else _IDLE_OF_RECIPE, reasons),
                (_MISSING, list(names_of_nothing(self.rules, self.winners, names))),
            )
            if items
        ]
        if problems and self.recipe is not None:
            problems.insert(0, f"the recipe {self.recipe!r} does not fit this model")
        if problems:
            raise PlanError("\n".join(problems))


def entry_of(slot: Slot, initializer: Initializer, axes: Axes | None) -> Entry:
    """The entry of a tensor that no module holds. ``FanError`` if the initializer needs axes and these are unknown."""
    if axes is not None:
        axes = axes.resolved(slot.shape)
    elif initializer.needs_axes:
        axes = axes_of(None, "", slot.shape)
    else:
        axes = known_axes(None, "", slot.shape)
    solved = initializer.solve(Site(shape=slot.shape, axes=axes))
    dtype = slot.tensor.dtype
    check_dtype(solved, dtype)
    return Entry(
        name=slot.name, shape=slot.shape, dtype=dtype, kind=slot.kind, rule="fill_", initializer=solved, axes=axes
    )


def unruled(group: list[Slot], *, restart: bool = True) -> Entry:
    """The entry of a tensor that nothing is said of: kept; with ``restart``, torch's statistics get their start."""
    slot = group[0]
    known = restart and is_norm_statistic(slot)
    initializer: Initializer = Keep()
    if known:
        initializer = Ones() if slot.local_name == "running_var" else Zeros()
    return Entry(
        name=slot.name,
        ties=tuple(other.name for other in group[1:]),
        shape=slot.shape,
        dtype=slot.tensor.dtype,
        kind=slot.kind,
        rule=_STATISTICS_RULE if known else _KEPT_RULE if slot.kind is Kind.BUFFER else _UNWRITTEN_RULE,
        initializer=initializer,
        persistent=slot.persistent,
    )


def axes_if_any(group: list[Slot]) -> Axes | None:
    """The axes of one tensor, or ``None`` where nobody knows them."""
    try:
        return _of_tied(_each_known(group), group)
    except FanError:
        return None


def _of_tied_if_any(each: list[Axes | None], group: list[Slot]) -> Axes | None:
    try:
        return _of_tied(each, group)
    except FanError:
        return None


def _each_known(group: list[Slot]) -> list[Axes | None]:
    return [known_axes(slot.module, slot.local_name, slot.shape) for slot in group]


def _axes(group: list[Slot]) -> Axes:
    axes = _of_tied([axes_of(slot.module, slot.local_name, slot.shape) for slot in group], group)
    assert axes is not None
    return axes


def _of_tied(each: list[Axes | None], group: list[Slot]) -> Axes | None:
    """The axes of one tensor from those of each name; an embedding that is also an output head has the head's."""
    known = [axes for axes in each if axes is not None]
    if len(known) < len(each):
        return None
    resolved = [axes.resolved(slot.shape) for axes, slot in zip(known, group, strict=True)]
    return next((axes for axes in resolved if not axes.lookup), resolved[0])


def check_dtype(initializer: Initializer, dtype: torch.dtype) -> None:
    """Raise ``SpecError`` if ``dtype`` cannot hold the values of a solved initializer."""
    if not isinstance(initializer, _WITHOUT_LAW):  # a program says its own dtypes
        check_law(initializer, dtype)
