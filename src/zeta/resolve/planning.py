"""From a model and its rules to a plan: which parameter gets which initializer, with every number solved."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from msgspec.structs import replace
from torch import nn

from zeta import recipes
from zeta.base.modules import check_module
from zeta.base.process.garbage import uncollected
from zeta.base.reading import shown
from zeta.base.text import shape_text
from zeta.errors import FanError, PlanError, SpecError, ZetaError, listed
from zeta.fans import Axes, axes_of, known_axes
from zeta.initializers import Initializer, Keep, Ones, Site, Zeros
from zeta.resolve.fitting import Fit, Only, check_dtype, chosen_by, fit_of_own
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, hook_problem, is_norm_statistic, layers_of, unwrap, walk
from zeta.rules import Kind, Match, Rule, Rules, Where
from zeta.rules.globs import glob_matcher
from zeta.rules.instead import FunctionError
from zeta.rules.where import did_you_mean_glob

_STATISTICS_RULE: Final = "torch's norm statistics"
_KEPT_RULE: Final = "kept: buffer"
_UNWRITTEN_RULE: Final = "kept: not written"
#: what entries have as their rule that no rule was given for
UNRULED: Final = frozenset([_STATISTICS_RULE, _KEPT_RULE, _UNWRITTEN_RULE])
_IDLE: Final = "these rules never win (mistyped, or hidden by an earlier rule; optional=True allows it):"
_IDLE_OF_RECIPE: Final = (
    "these rules of it never win (write Rules([...]) for your model, before those of the recipe or instead of them):"
)

How = Rules | str


def plan(model: nn.Module, how: How) -> Plan:
    """Decide what every parameter and buffer of ``model`` gets. No value is read or written; the model may be on meta.

    Args:
        model: any module; wrappers and parametrizations do not change the names.
        how: :class:`~zeta.rules.Rules`, the name of a recipe (``zeta.recipes.names()``), or a function from the model
            to its rules, as every recipe is one.

    Raises:
        LayerTypeError: ``model`` is not a module.
        PlanError: parameters that no rule matches, rules that never win, ties that different rules claim, initializers
            that do not fit their parameter. Everything wrong is listed at once.
    """
    return planned(model, how).plan


@uncollected
def planned(
    model: nn.Module,
    how: How,
    *,
    only: Only | None = None,
    check: Callable[[Sequence[Slot]], None] | None = None,
    named: bool = True,
) -> Fit:
    """The fit of a model and the plan that is made for it; ``check`` looks at its tensors first.

    ``named`` as for ``resolve``.
    """
    check_module(model)
    inner = unwrap(model)
    rules = recipes.rules_for(how, inner) if isinstance(how, str) else how
    if not isinstance(rules, Rules):
        raise SpecError(
            f"expected Rules([...]), the name of a recipe, or a function that initializes the model, got {shown(how)}"
        )
    slots = walk(inner)
    if check is not None:
        check(slots)
    everything = groups(slots)
    wanted = chosen_by(only, everything, lambda group: [slot.name for slot in group])
    config, recipe = getattr(inner, "config", None), how if isinstance(how, str) else None
    made = Plan(tuple(resolve(rules, everything, wanted, config, named=named, recipe=recipe)))
    return fit_of_own(model, made, slots, selected=only is not None)


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


def groups(slots: Iterable[Slot]) -> list[list[Slot]]:
    """Slots of the same tensor together, the one with the canonical name first.

    Canonical is the embedding's name, else the alphabetically first: a choice that registration order does not change.
    """
    by_tensor: dict[int, list[Slot]] = {}
    for slot in slots:
        by_tensor.setdefault(id(slot.tensor), []).append(slot)
    return [
        sorted(group, key=lambda slot: (slot.kind is not Kind.EMBEDDING, slot.name)) for group in by_tensor.values()
    ]


class _Resolver:
    """Matches each tensor against the rules and collects everything that is wrong."""

    def __init__(self, rules: Rules, groups: list[list[Slot]], config: Any, *, named: bool, recipe: str | None) -> None:
        self.rules = rules
        self.named = named
        self.recipe = recipe
        self.config = config
        self.winners: set[int] = set()
        self.overruled: dict[int, str] = {}  # by rule: what it would have matched, but for a tie
        self.unmatched: list[str] = []
        self.contested: list[str] = []
        self.unsolved: list[str] = []
        self.broken: dict[int, str] = {}  # by rule: why its function gives no initializer
        self.written: set[int] = set()  # modules of which a parameter gets values
        self._names = [slot.name for group in groups for slot in group]

    def _layers(self, name: str) -> tuple[int, int] | None:
        return self._all_layers[name]

    @functools.cached_property
    def _all_layers(self) -> dict[str, tuple[int, int] | None]:
        return layers_of(self._names)

    def claim(self, group: list[Slot]) -> tuple[int | None, list[Match]]:
        """The first rule that matches any name of one tensor, and these names' matches."""
        matches = [self._match(slot, lambda: _axes(group)) for slot in group]
        claims = [self.rules.first(match) for match in matches]
        winner = min((claim for claim in claims if claim is not None), default=None)
        if winner is not None:
            self.winners.add(winner)
            for match, claim in zip(matches, claims, strict=True):
                if claim is not None and claim != winner:
                    self._note_overruled(claim, winner, match, group[0])
        return winner, [match for match, claim in zip(matches, claims, strict=True) if claim == winner]

    def entry(self, group: list[Slot]) -> Entry | None:
        """The entry of one tensor, or ``None`` after noting what is wrong with it."""
        winner, matches = self.claim(group)
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

    def _label(self, position: int) -> str:
        return f"rule {position + 1} ({self.rules[position].label})"

    def _note_overruled(self, claim: int, winner: int, match: Match, first: Slot) -> None:
        """A rule would have matched one name of a tied tensor, of which an earlier rule matches another."""
        if claim not in self.overruled:
            with contextlib.suppress(ZetaError):
                self.overruled[claim] = (
                    f"; {match.name} is tied to a tensor that {self._label(winner)} matches first: remove this rule, "
                    f'or put Rule("{first.name}", {self.rules[claim].initializer_for(match)!r}) before the other'
                )

    def _meant(self, rule: Rule) -> str:
        """What the glob of a rule that matches no name may have meant."""
        assert isinstance(rule.where, Where)
        pattern = rule.where.pattern
        if self.recipe is not None or pattern is None or any(map(glob_matcher(pattern), self._names)):
            return ""
        return did_you_mean_glob(pattern, self._names)

    def _match(self, slot: Slot, axes_of_group: Callable[[], Axes]) -> Match:
        return Match(
            name=slot.name,
            shape=slot.shape,
            dtype=slot.tensor.dtype,
            kind=slot.kind,
            module=slot.module,
            local_name=slot.local_name,
            layers=self._layers,
            config=self.config,
            axes_of=axes_of_group,
        )

    def _solved(self, group: list[Slot], matches: list[Match], position: int) -> Entry | None:
        rule, slot = self.rules[position], group[0]

        def axes_of_group() -> Axes:
            return _axes(group) if rule.axes is None else rule.axes.resolved(slot.shape)

        try:
            if rule.axes is not None:
                matches = [replace(match, axes_of=axes_of_group) for match in matches]
            asked = [rule.initializer_for(match) for match in matches]
            if asked.count(asked[0]) < len(asked):
                named = "; ".join(
                    f"{each.name}: {initializer!r}" for each, initializer in zip(matches, asked, strict=True)
                )
                self.contested.append(
                    f'{named} (by {self._label(position)}); put Rule("{slot.name}", {asked[0]!r}) first, or another'
                )
                return None
            if nn.parameter.is_lazy(slot.tensor) and not isinstance(asked[0], Keep):
                raise SpecError("is lazy and has no shape yet; run one forward pass first")
            if not isinstance(asked[0], Keep) and (problem := hook_problem(slot)) is not None:
                raise SpecError(problem)
            needed = asked[0].needs_axes or rule.axes is not None
            axes = axes_of_group() if needed else axes_if_any(group)
            solved = asked[0].solve(Site(shape=slot.shape, axes=axes))
            check_dtype(solved, slot.tensor.dtype)
        except FunctionError as error:
            self.broken.setdefault(position, f"{error} (rule {position + 1})")
            return None
        except ZetaError as error:
            by = f", {self._label(position)}" if self.named else ""
            self.unsolved.append(f"{slot.name} {shape_text(slot.shape)}{by}: {error}")
            return None
        if not isinstance(solved, Keep):
            self.written |= {id(each.module) for each in group}
        padding = next((each.padding_idx for each in group if each.padding_idx is not None), None)
        return Entry(
            name=slot.name,
            ties=tuple(each.name for each in group[1:]),
            shape=slot.shape,
            dtype=slot.tensor.dtype,
            kind=slot.kind,
            rule=rule.label,
            initializer=solved,
            axes=axes,
            padding_idx=None if isinstance(solved, Keep) else padding,
            persistent=slot.persistent,
        )

    def raise_problems(self) -> None:
        """Raise one ``PlanError`` with everything that was noted."""
        idle = [
            self._label(position) + (self.overruled.get(position) or self._meant(rule))
            for position, rule in enumerate(self.rules)
            if position not in self.winners and not rule.optional
        ]
        problems = [
            listed(heading, items)
            for heading, items in (
                ("no rule matches these parameters (Keep() leaves one alone on purpose):", self.unmatched),
                ("a rule's function must return an initializer:", self.broken.values()),
                ("a rule gives different initializers to the names of one tensor:", self.contested),
                ("these parameters cannot be initialized as asked:", self.unsolved),
                (_IDLE if self.recipe is None else _IDLE_OF_RECIPE, idle),
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
        axes = axes_of(None, "", torch.Size(slot.shape))
    else:
        axes = known_axes(None, "", torch.Size(slot.shape))
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
        return _of_tied([known_axes(slot.module, slot.local_name, torch.Size(slot.shape)) for slot in group], group)
    except FanError:
        return None


def _axes(group: list[Slot]) -> Axes:
    axes = _of_tied([axes_of(slot.module, slot.local_name, torch.Size(slot.shape)) for slot in group], group)
    assert axes is not None
    return axes


def _of_tied(each: list[Axes | None], group: list[Slot]) -> Axes | None:
    """The axes of one tensor from those of each name; an embedding that is also an output head has the head's."""
    if None in each:
        return None
    resolved = [axes.resolved(slot.shape) for axes, slot in zip(each, group, strict=True) if axes is not None]
    return next((axes for axes in resolved if not axes.lookup), resolved[0])
