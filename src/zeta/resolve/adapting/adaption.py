"""What each tensor of a model gets from a checkpoint, with everything that does not fit in one error."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import torch
from msgspec.structs import replace
from torch import nn

from zeta.base import dtypes
from zeta.base.modules import check_module
from zeta.base.sources import Source
from zeta.base.text import shape_text
from zeta.errors import PlanError, SpecError, listed
from zeta.growing import Experts, Growth, Layers, Rows, Split
from zeta.initializers import Initializer, Zeros
from zeta.resolve.adapting.arrays import Array, Noisy, Stored
from zeta.resolve.adapting.experts import Sides, mixtures_of
from zeta.resolve.adapting.given import Adaption, Given, Outcome
from zeta.resolve.adapting.identity import reasons
from zeta.resolve.adapting.layers import Depth, depths_of
from zeta.resolve.adapting.names import Names, ignored_by, prefix_hint, with_suggestions
from zeta.resolve.adapting.rows import Changes, Grown, Widths, changed_dim, grown_rows, reorders, split_units
from zeta.resolve.fitting import Only, fit, fit_of_own
from zeta.resolve.how import check_no_options, no_how
from zeta.resolve.planning import planned
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.recording.record import Fallback, plan_recorded
from zeta.resolve.resolver import groups, unruled
from zeta.resolve.roles.finding import found_in
from zeta.resolve.slots import Slot, unwrap, walk
from zeta.resolve.solving import axes_if_any, solution
from zeta.resolve.submodels import Naming, check_used
from zeta.rules import Rules
from zeta.rules.globs import glob_matcher

#: the rule of what comes from the checkpoint
FROM_CHECKPOINT: Final = "from the checkpoint"


def adaption(
    model: nn.Module,
    source: Source,
    how: Any,
    *,
    seed: int,
    grow: Mapping[str, Growth],
    allow: Only | None = None,
    naming: Naming | None = None,
    fallback: Fallback | None = None,
    options: Mapping[str, Any] | None = None,
    old: Callable[[], nn.Module | None] = lambda: None,
) -> Adaption:
    """Pair a model with a checkpoint. ``old`` gives the model that the checkpoint is of, if it is known.

    Raises:
        PlanError: tensors that the checkpoint lacks and ``how`` does not cover, that it has in another shape, that it
            has in addition; growth that does not fit. All are listed.
    """
    check_module(model)
    return _Pairing(model, source, how, seed, grow, allow, naming, fallback, options or {}, old).adaption()


class _Pairing:
    """Pairs one model with one checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        how: Any,
        seed: int,
        grow: Mapping[str, Growth],
        allow: Only | None,
        naming: Naming | None,
        fallback: Fallback | None,
        options: Mapping[str, Any],
        old: Callable[[], nn.Module | None],
    ) -> None:
        self._old = functools.cache(old)
        self._model, self._how, self._seed, self._fallback, self._options = model, how, seed, fallback, options
        self._slots = walk(unwrap(model))
        self._groups = groups(self._slots)
        shapes = {slot.name: slot.shape for slot in self._slots}
        if naming is not None:
            check_used(naming, shapes)
        self._names = Names(model, source, naming, shapes)
        self._allowed = _allowed(allow)
        self._rows = {glob: one for glob, one in grow.items() if isinstance(one, Rows)}
        by_model = list(shapes)
        layers = {glob: one for glob, one in grow.items() if isinstance(one, Layers)}
        self._depths: list[Depth] = depths_of(layers, by_model, self._names)
        experts = {glob: one for glob, one in grow.items() if isinstance(one, Experts)}
        self._experts: dict[str, Array | None] = {}
        sides = Sides(model=unwrap(model), slots={slot.name: slot for slot in self._slots}, old=self._old)
        mixtures = mixtures_of(experts, shapes, self._names, seed, depths=self._depths, sides=sides)
        for mixture in mixtures:
            self._experts.update(mixture.values)
        self._given: dict[str, Given] = {}
        self._grown: dict[str, Grown] = {}
        self._missing: list[list[Slot]] = []
        self._zero: set[str] = set()
        self._problems: list[str] = []
        self._changes, self._widths = Changes(), Widths()
        self._makes_other_sums = not all(mixture.preserving for mixture in mixtures)
        self._globs_used: set[str] = set()
        self._copied: set[str] = set()
        self._ties: list[tuple[str, Array, Array]] = []

    def adaption(self) -> Adaption:
        self._note_changes()
        for group in self._groups:
            self._pair(group)
        self._make_new_blocks_add_nothing()
        unused = self._unused()
        self._raise_problems()
        drawn = self._drawn()
        entries = tuple(self._entry(group, drawn) for group in self._groups)
        fit = fit_of_own(self._model, Plan(entries), self._slots)
        return Adaption(fit=fit, given=self._given, unused=tuple(unused), ties=tuple(self._ties), **self._effect())

    def _note_changes(self) -> None:
        """The sizes that change by ``Rows``, which other tensors follow, and the rows that only change their order."""
        for group in self._groups:
            rows = self._rows_for(group)
            found = self._names.find(slot.name for slot in group)
            if rows is not None and found:
                self._changes.note(group[0].name, rows, self._names.arrays[found[0]].shape, group[0].shape)

    def _rows_for(self, group: Sequence[Slot]) -> Rows | None:
        for glob, rows in self._rows.items():
            if any(map(glob_matcher(glob), [slot.name for slot in group])):
                self._globs_used.add(glob)
                return rows
        return None

    def _pair(self, group: list[Slot]) -> None:
        name = group[0].name
        if not group[0].persistent:
            self._missing.append(group)
            return
        if name in self._experts:
            values = self._experts[name]
            if values is None:
                self._missing.append(group)
                return
            self._names.use(values)
            self._note(group, values, "loaded" if isinstance(values, Stored) else "grown")
            return
        own = [self._source_of(slot.name) for slot in group]
        found = self._names.find(each for each in own if each is not None)
        if not found:
            self._missing.append(group)
            return
        values, *others = (self._names.arrays[each] for each in found)
        for each in (values, *others):
            self._names.use(each)
        self._ties += [(name, values, other) for other in others]
        again = found[0] in self._copied and any(depth.holds(name) for depth in self._depths)
        self._copied.add(found[0])
        self._take(group, values, "grown" if again else "loaded")

    def _source_of(self, name: str) -> str | None:
        """By which of the model's names the checkpoint may have a tensor; ``None`` in a new block."""
        depth = next((depth for depth in self._depths if depth.holds(name)), None)
        return name if depth is None else depth.source_of(name)

    def _take(self, group: list[Slot], values: Array, outcome: Outcome) -> None:
        """Give a tensor what the checkpoint has under its name."""
        name, shape = group[0].name, group[0].shape
        rows = self._rows_for(group)
        dim = changed_dim(values.shape, shape)
        try:
            rows = self._changes.rows_for(values.shape, shape) if rows is None else rows
        except PlanError as error:
            self._problems.append(f"{name}: {error}")
            return
        if values.shape == shape and (rows is None or not shape or not reorders(rows, shape[0])):
            self._note(group, values, outcome)
            return
        if values.shape == shape:
            dim = 0
        if rows is None or dim is None:
            if self._allowed(name):
                self._missing.append(group)
                return
            self._problems.append(
                f"{name}: the model has {shape_text(shape)}, the checkpoint {shape_text(values.shape)}; grow= can add "
                f'rows, and allow="{name}" initializes it instead'
            )
            return
        try:
            if isinstance(rows.how, Split):
                are_inputs, maps = _are_inputs(group, dim), rows.how.maps
                grown = split_units(values, shape, dim=dim, are_inputs=are_inputs, maps=maps)
                if len(shape) > 1:
                    self._widths.note(name, values.shape[dim], shape[dim], are_inputs=are_inputs, maps=maps)
            else:
                padding = _padding_idx(group) if dim == 0 else None
                grown = grown_rows(rows, values, shape, dim=dim, seed=self._seed, name=name, padding=padding)
                self._makes_other_sums |= not isinstance(rows.how, Zeros) and _is_summed(group, dim)
        except (PlanError, SpecError) as error:
            self._problems.append(f"{name}: {error}")
            return
        self._grown[name] = grown
        self._note(group, grown.values, "grown", dim=grown.dim, spans=grown.given)

    def _note(self, group: list[Slot], values: Array, outcome: Outcome, **places: Any) -> None:
        slot = group[0]
        if slot.parametrization is not None:
            self._problems.append(f"{slot.name}: is parametrized; load it with load_state_dict before")
        elif not _converts(values.dtype, slot.tensor.dtype):
            self._problems.append(
                f"{slot.name}: the model has {dtypes.name_of(slot.tensor.dtype)}, and the checkpoint "
                f"{dtypes.name_of(values.dtype)}, which is another kind of number"
            )
        else:
            self._given[slot.name] = Given(values=values, outcome=outcome, **places)

    def _make_new_blocks_add_nothing(self) -> None:
        if any(None in depth.sources for depth in self._depths):
            roles = found_in(unwrap(self._model), self._slots)
            missing = [slot.name for group in self._missing for slot in group[:1]]
            for depth in self._depths:
                self._zero.update(depth.ends(roles, missing))

    def _unused(self) -> list[str]:
        """What is left of the checkpoint and allowed; a problem for each that is not."""
        ignored = ignored_by(self._model, self._slots, self._names)
        left = [name for name in self._names.rest() if not ignored(name)]
        refused = [name for name in left if not self._allowed(name)]
        if refused:
            known = [slot.name for group in self._missing for slot in group]
            saved = [slot.name for slot in self._slots if slot.persistent]
            hint = prefix_hint(saved, self._names.source.tensors) or 'allow="..." lets tensors of these names be'
            self._problems.append(hint)
            self._problems += [
                f"{line}: is in the checkpoint, and nothing in the model takes it"
                for line in with_suggestions(refused, known)
            ]
        return left

    def _raise_problems(self) -> None:
        idle = [glob for glob in self._rows if glob not in self._globs_used]
        self._problems += [f"grow: {glob!r} names no tensor of the model" for glob in idle]
        self._problems += self._widths.problems()
        if self._how is None:
            for group in self._missing:
                slot = group[0]
                if slot.persistent and slot.name not in self._zero:
                    self._problems.append(
                        f"{slot.name}: is not in the checkpoint; how= says what it gets, as rules, a recipe or a plan"
                    )
            self._problems += [
                f"{name}: the new rows need how=, or Rows(how=...)"
                for name, grown in self._grown.items()
                if grown.drawn is not None and grown.law is None
            ]
        if self._problems:
            raise PlanError(listed("checkpoint and model do not fit; nothing was changed:", self._problems))

    def _drawn(self) -> Mapping[str, Entry]:
        """What ``how`` says of the tensors that it has to cover, by name."""
        undecided = [name for name, grown in self._grown.items() if grown.drawn is not None and grown.law is None]
        wanted = [*undecided, *(group[0].name for group in self._missing if group[0].name not in self._zero)]
        if not wanted or self._how is None:
            return {}
        return {entry.name: entry for entry in self._planned(wanted)}

    def _planned(self, wanted: list[str]) -> Sequence[Entry]:
        how = self._how
        if isinstance(how, Plan):
            if absent := [name for name in wanted if name not in how.names]:
                raise PlanError(listed("the plan does not have what the checkpoint lacks:", absent))
            return fit(self._model, how, only=wanted).entries
        if callable(how) and not isinstance(how, Rules):
            return plan_recorded(self._model, how, fallback=self._fallback, only=wanted).entries
        if isinstance(how, Rules | str):
            return planned(self._model, how, self._options, only=wanted).entries
        check_no_options(self._options, "none")
        raise no_how(how)

    def _entry(self, group: list[Slot], drawn: Mapping[str, Entry]) -> Entry:
        name = group[0].name
        grown = self._grown.get(name)
        if name in self._zero:
            return _with_law(group, Zeros(), "the end of a branch of a new block")
        if grown is not None and grown.drawn is not None:
            if grown.law is not None:
                entry = _with_law(group, grown.law, "Rows")
            elif name in drawn:
                entry = drawn[name]
            else:
                raise PlanError(f"{name}: the new rows need how=, or Rows(how=...)")
            if entry.kept:
                raise PlanError(f"{name}: has new rows, and how= keeps it; Rows(how=...) says what they get")
            return replace(entry, section=grown.drawn)
        if name in self._given:
            return replace(unruled(group, restart=False), rule=FROM_CHECKPOINT)
        return drawn.get(name) or unruled(group)

    def _effect(self) -> dict[str, Any]:
        """Whether the function is preserved, by what was asked for and by the modules, and whether exactly."""
        against: list[str] = []
        for depth in self._depths:
            if depth.layers.how == "identity" and None in depth.sources:
                against += reasons(depth, unwrap(self._model), self._old(), self._names)
        deep = all(depth.layers.how == "identity" for depth in self._depths)
        fresh = all(not group[0].persistent or group[0].name in self._zero for group in self._outside())
        noisy = any(isinstance(given.values, Noisy) for given in self._given.values())
        moved = any(rows.keep is not None for rows in self._rows.values())
        preserving = deep and fresh and not noisy and not moved and not self._makes_other_sums and not against
        return {"preserving": preserving, "exact": not self._experts and not self._rows, "against": tuple(against)}

    def _outside(self) -> list[list[Slot]]:
        """The tensors that are initialized, other than those of new blocks and routers."""
        new = [depth for depth in self._depths if depth.layers.how == "identity"]
        return [
            group
            for group in self._missing
            if group[0].name not in self._experts and not any(depth.holds(group[0].name) for depth in new)
        ]


def _are_inputs(group: list[Slot], dim: int) -> bool:
    """Whether a dimension of a weight is summed over by its layer. ``PlanError`` where nobody knows."""
    if len(group[0].shape) < 2:
        return False
    inputs: set[bool] = set()
    for slot in group:
        axes = axes_if_any([slot])
        if axes is None or (dim in axes.fan_in) is (dim in axes.fan_out):
            raise PlanError(f"dimension {dim} is not known as one of inputs or outputs; register_fans says which it is")
        if any(along == dim and 1 < count < slot.shape[dim] for along, count in axes.blocks):
            raise PlanError(f"dimension {dim} has several maps or groups, whose units Split would mix")
        inputs.add(dim in axes.fan_in)
    if len(inputs) > 1:
        raise PlanError(
            f"dimension {dim} is that of inputs for one of its layers, and of outputs for another; untie it"
        )
    return inputs.pop()


def _is_summed(group: list[Slot], dim: int) -> bool:
    """Whether a layer sums over a dimension, as far as is known."""
    if len(group[0].shape) < 2:
        return False
    each = [axes for slot in group if (axes := axes_if_any([slot])) is not None]
    return any(dim in axes.fan_in and dim not in axes.fan_out for axes in each)


def _padding_idx(group: list[Slot]) -> int | None:
    """The row that an embedding keeps at zero."""
    return next((slot.padding_idx for slot in group if slot.padding_idx is not None), None)


def _allowed(allow: Only | None) -> Callable[[str], bool]:
    """Whether a tensor need not be in both."""
    if allow is None:
        return lambda name: False
    if callable(allow):
        return lambda name: bool(allow(name))
    globs = [allow] if isinstance(allow, str) else list(allow) if isinstance(allow, Collection) else [allow]
    tests = [glob_matcher(glob) for glob in globs]
    return lambda name: any(test(name) for test in tests)


def _converts(given: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether values of one dtype may be stored in another: floating-point in floating-point, others as they are."""
    return given == wanted or (given.is_floating_point and wanted.is_floating_point)


def _with_law(group: list[Slot], law: Initializer, rule: str) -> Entry:
    """The entry of a tensor that gets a law, solved for it."""
    try:
        found = solution(law, None, group)
    except SpecError as error:
        raise PlanError(f"{group[0].name}: {error}") from error
    entry = unruled(group, restart=False)
    return replace(entry, rule=rule, initializer=found.solved, axes=found.axes, padding_idx=_padding_idx(group))
