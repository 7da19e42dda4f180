"""Match each tensor against rules, and solve the initializers that these give: the entries of a plan."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Collection
from typing import Any, Final

from torch import nn

from zeta.base.text import shape_text
from zeta.errors import PlanError, SpecError, ZetaError, listed
from zeta.fans import Axes, axes_of, known_axes
from zeta.initializers import Blocks, Initializer, Keep, Ones, Site, Zeros
from zeta.resolve.entries import Entry
from zeta.resolve.idle import is_replaced, label_of, names_of_nothing, why_idle
from zeta.resolve.slots import LAZY, Slot, hook_problem, is_norm_statistic, named_modules
from zeta.resolve.solving import axes_of_all, check_blocks, check_dtype, solution
from zeta.rules import Kind, Match, Role, Rules
from zeta.rules.instead import FunctionError
from zeta.rules.match import Place

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


def resolve(
    rules: Rules,
    everything: list[list[Slot]],
    wanted: list[list[Slot]],
    model: nn.Module,
    *,
    named: bool = True,
    recipe: str | None = None,
) -> list[Entry]:
    """The entries that rules give to the ``wanted`` of ``everything`` that a model holds; the others need no rule.

    ``named``: errors name the rule of a parameter, as its user has written it. ``recipe``: the name of the recipe that
    the rules are from.
    """
    resolver = _Resolver(rules, everything, model=model, named=named, recipe=recipe)
    entries = [resolver.entry(group) for group in wanted]
    if len(wanted) < len(everything):
        known = {id(group) for group in wanted}
        for group in everything:
            if id(group) not in known:
                resolver.claim(group)
    resolver.raise_problems()
    return [*filter(None, entries)]


def overriding(rules: Rules, everything: list[list[Slot]], model: nn.Module) -> list[Entry]:
    """The entries of the tensors that a rule matches; all others are left out. Rules that never win are an error."""
    resolver = _Resolver(rules, everything, model=model, named=True, partial=True)
    entries = [resolver.entry(group) for group in everything]
    resolver.raise_problems()
    return [entry for entry in entries if entry is not None]


def groups(slots: Collection[Slot]) -> list[list[Slot]]:
    """Slots of the same tensor together, the one with the canonical name first.

    Canonical is the embedding's name, else the alphabetically first: a choice that registration order does not change.
    """
    by_tensor: dict[int, list[Slot]] = {}
    for slot in slots:
        by_tensor.setdefault(id(slot.tensor), []).append(slot)
    for group in by_tensor.values() if len(by_tensor) < len(slots) else ():
        group.sort(key=lambda slot: (slot.kind is not Kind.EMBEDDING, slot.name))
    return list(by_tensor.values())


class _Resolver:
    """Matches each tensor against the rules and collects everything that is wrong."""

    def __init__(
        self,
        rules: Rules,
        groups: list[list[Slot]],
        model: nn.Module,
        *,
        named: bool,
        recipe: str | None = None,
        partial: bool = False,
    ) -> None:
        self.rules = rules
        self.named = named
        self.recipe = recipe
        self.partial = partial  # a tensor that no rule matches is no problem
        self.model = model
        self.winners: set[int] = set()
        self.overruled: dict[int, str] = {}  # by rule: what it would have matched, but for a tie
        self.unmatched: list[str] = []
        self.contested: list[str] = []
        self.unsolved: list[str] = []
        self.broken: dict[int, str] = {}  # by rule: why its function gives no initializer
        self.written: set[int] = set()  # modules of which a parameter gets values
        self._groups = groups

    @functools.cached_property
    def _names(self) -> list[str]:
        return [slot.name for group in self._groups for slot in group]

    @functools.cached_property
    def _names_by_buffer(self) -> dict[bool, list[str]]:
        """The names of parameters, and of buffers."""
        found: dict[bool, list[str]] = {False: [], True: []}
        for group in self._groups:
            for slot in group:
                found[slot.kind is Kind.BUFFER].append(slot.name)
        return found

    @functools.cached_property
    def _configs(self) -> dict[str, Any]:
        """The configurations, by the names of the modules that have one."""
        found = {name: getattr(module, "config", None) for name, module in named_modules(self.model).items()}
        return {name: config for name, config in found.items() if config is not None}

    def _config(self, name: str) -> Any:
        """That of the innermost module around a tensor which has one."""
        while name and self._configs:
            name = name.rpartition(".")[0]
            if name in self._configs:
                return self._configs[name]
        return None

    def _layers(self, name: str) -> Place | None:
        return self._all_layers[name]

    @functools.cached_property
    def _all_layers(self) -> dict[str, Place | None]:
        from zeta.resolve.roles.layers import layers_in  # most rules ask for no roles, and one layer has none

        return layers_in(named_modules(self.model), self._names, self._all_roles)

    def _role(self, name: str) -> Role | None:
        return self._all_roles.get(name)

    @functools.cached_property
    def _all_roles(self) -> dict[str, Role]:
        from zeta.resolve.roles import found_in

        return found_in(self.model, [slot for group in self._groups for slot in group])

    def claim(self, group: list[Slot]) -> tuple[int | None, list[Slot]]:
        """The first rule that matches any name of one tensor, and these names."""
        claims: dict[int, list[Slot]] = {}
        for slot in group:
            position = self.rules.first(slot, self._match)
            if position is not None:
                claims.setdefault(position, []).append(slot)
        if not claims:
            return None, []
        winner = min(claims)
        self.winners.add(winner)
        if len(claims) > 1:
            for position, slots in claims.items():
                if position != winner:
                    self._note_overruled(position, winner, slots, group)
        return winner, claims[winner]

    @functools.cached_property
    def _group_of(self) -> dict[int, list[Slot]]:
        """The names of each tensor, by its ``id``."""
        return {id(group[0].tensor): group for group in self._groups}

    def _match(self, slot: Slot, axes: Axes | None = None) -> Match:
        """What a rule's predicate and function see of one name of a tensor; ``axes`` are those of the rule."""
        group = self._group_of[id(slot.tensor)]
        return Match(
            name=slot.name,
            shape=slot.shape,
            dtype=slot.tensor.dtype,
            kind=slot.kind,
            module=slot.module,
            local_name=slot.local_name,
            layers=self._layers,
            roles=self._role,
            configs=self._config,
            axes_of=functools.partial(axes_of_all, group)
            if axes is None
            else functools.partial(axes.resolved, group[0].shape),
        )

    def entry(self, group: list[Slot]) -> Entry | None:
        """The entry of one tensor, or ``None`` after noting what is wrong with it."""
        winner, slots = self.claim(group)
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
        return self._solved(group, slots, winner)

    def _note_overruled(self, claim: int, winner: int, slots: list[Slot], group: list[Slot]) -> None:
        """A rule would have matched these names of a tied tensor, of which an earlier rule matches another."""
        for slot in slots:
            if claim not in self.overruled:
                with contextlib.suppress(ZetaError):
                    asked = self.rules[claim].initializer_for(self._match(slot))
                    self.overruled[claim] = (
                        f"{slot.name} is tied to a tensor that {label_of(self.rules, winner)} matches first: remove "
                        f'this rule, or put Rule("{group[0].name}", {asked!r}) before the other'
                    )

    def _solved(self, group: list[Slot], slots: list[Slot], position: int) -> Entry | None:
        rule, slot = self.rules.each[position], group[0]
        try:
            asked = rule.initializer
            if not isinstance(asked, Initializer):
                several = [rule.initializer_for(self._match(each, rule.axes)) for each in slots]
                asked = several[0]
                if several.count(asked) < len(several):
                    named = "; ".join(
                        f"{each.name}: {initializer!r}" for each, initializer in zip(slots, several, strict=True)
                    )
                    by = label_of(self.rules, position)
                    self.contested.append(f'{named} (by {by}); put Rule("{slot.name}", {asked!r}) first, or another')
                    return None
            if not isinstance(asked, Keep):
                if isinstance(slot.tensor, LAZY):
                    raise SpecError("is lazy and has no shape yet; run one forward pass first")
                if slot.module._forward_pre_hooks and (problem := hook_problem(slot)) is not None:
                    raise SpecError(problem)
            if isinstance(asked, Blocks) and slot.kind is Kind.BIAS:
                check_blocks(asked, slot)
            law = solution(asked, rule.axes, group)
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
            if slot.kind is Kind.EMBEDDING:  # the canonical name is an embedding's, if one of them is
                padding = next((row for each in group if (row := each.padding_idx) is not None), None)
        return Entry(
            name=slot.name,
            ties=tuple(map(_NAME, group[1:])) if len(group) > 1 else (),
            shape=slot.shape,
            dtype=slot.tensor.dtype,
            kind=slot.kind,
            rule=rule.label,
            initializer=law.solved,
            axes=law.axes,
            padding_idx=padding,
            persistent=slot.persistent,
        )

    def raise_problems(self) -> None:
        """Raise one ``PlanError`` with everything that was noted."""
        idle, absent = list[int](), list[str]()
        if self.rules.required:
            idle = [position for position in self.rules.required if position not in self.winners]
        if self.rules.required and self.recipe is None:
            absent = list(names_of_nothing(self.rules, self.winners, lambda: self._names_by_buffer))
        if not (idle or absent or self.unmatched or self.broken or self.contested or self.unsolved):
            return
        matches = [self._match(slot) for group in self._groups for slot in group] if idle else []
        idle = [position for position in idle if not is_replaced(self.rules, position, matches)]
        reasons = [
            f"{label_of(self.rules, position)}: "
            f"{self.overruled.get(position) or why_idle(self.rules, position, matches, self._names_by_buffer)}"
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
                (_MISSING, absent),
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
