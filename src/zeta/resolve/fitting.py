"""The fit of a plan and a model: which entry is for which tensor, found once and handed to every later stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import nn

from zeta.base.modules import check_module
from zeta.base.process.garbage import uncollected
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.base.text import shape_text
from zeta.errors import PlanError, SpecError, listed, notice
from zeta.resolve.entries import Section
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, walk
from zeta.resolve.submodels import Naming, check_used, prefixes, renamed
from zeta.rules.globs import glob_matcher
from zeta.rules.where import Where

if TYPE_CHECKING:
    from zeta.resolve.casting import Casting

#: names a part of a plan: a glob, several names or globs, these with the rows of each, or a predicate on the name
Only = str | Collection[str] | Mapping[str, slice] | Callable[[str], bool]
Item = TypeVar("Item")
_NOT_FOR_IT: Final = "this plan is not for this model"
#: prefixes that a message names
_MOST_PREFIXES: Final = 3
_ONLY: Final = "only must be a name or glob, a collection of them, or a function of the name, as in only='head.*'"
_ROWS: Final = "only gives rows as a slice with step 1, such as only={'embedding.weight': slice(1000, None)}"


class Fit(Struct, frozen=True, kw_only=True, eq=False):
    """A plan and a model that fit: the names, shapes and ties of what was selected agree.

    ``asked`` is the whole plan, and ``plan`` the part of it that is about this model, which may be one stage of a
    pipeline. ``slots`` are the model's tensors by the plan's names. ``entries`` are the selected ones of ``plan``;
    ``selection`` has the names of all that are selected in ``asked``, and is ``None`` for everything. ``left`` are
    those that would be selected, but whose tensors have values that stay.
    """

    model: nn.Module
    asked: Plan
    plan: Plan
    slots: Mapping[str, Slot]
    entries: Sequence[Entry]
    selection: tuple[str, ...] | None = None
    left: tuple[Entry, ...] = ()

    def leaving(self, left: Collection[str]) -> Fit:
        """The fit without the entries of these names, whose tensors stay as they are."""
        stay = tuple(entry for entry in self.entries if entry.name in left)
        rest = tuple(entry for entry in self.entries if entry.name not in left)
        return replace(self, entries=rest, left=stay) if stay else self

    def within(self, name: str) -> Fit:
        """A whole fit by the names of a larger model, of which this one is the part ``name``."""
        naming = Naming(prefix=name)
        names = {entry.name for entry in self.entries}
        moved = [replace(entry, name=naming(entry.name), ties=tuple(map(naming, entry.ties))) for entry in self.plan]
        plan = Plan(tuple(moved))
        return replace(
            self,
            asked=plan,
            plan=plan,
            slots={naming(each): replace(slot, name=naming(each)) for each, slot in self.slots.items()},
            entries=tuple(new for new, old in zip(moved, self.plan, strict=True) if old.name in names),
        )

    def cast(self, dtype: torch.dtype, *, buffers: bool) -> tuple[Fit, Casting]:
        """The fit with the plan of the model after ``dtype=``, and what that casts."""
        from zeta.resolve.casting import casting_of  # here, because few calls cast

        casting = casting_of(self.model, self.slots.values(), dtype, buffers=buffers)
        plan = casting.plan(self.plan)
        names = {entry.name for entry in self.entries}
        entries = tuple(entry for entry in plan if entry.name in names)
        asked = plan if self.asked is self.plan else casting.plan(self.asked)
        return replace(self, asked=asked, plan=plan, entries=entries), casting


@uncollected
def fit(model: nn.Module, plan: Plan, *, only: Only | None = None, naming: Naming | None = None) -> Fit:
    """Find what a plan says of a model. With ``naming`` the model is a part of the planned one.

    Raises:
        LayerTypeError: ``model`` is not a module.
        SpecError: ``plan`` is not a plan.
        PlanError: names, shapes or ties of plan and model differ, or ``only`` selects nothing.
    """
    check_module(model)
    if not isinstance(plan, Plan):
        raise SpecError(
            f"expected a Plan from zeta.plan(model, ...), got {shown(plan)}; zeta.plan(model, rules) makes one"
        )
    selected = _selected(plan, only)
    slots = {slot.name: slot for slot in walk(model)}
    here = plan
    if naming is not None:
        here, slots = _part(plan, slots, naming)
    entries, selection = here.entries, None
    if only is not None:
        names = {entry.name for entry in selected}
        names |= _following(here, slots, names)
        entries = _with_rows(only, [entry for entry in here if entry.name in names])
        selection = _selection(_with_rows(only, [entry for entry in plan if entry.name in names]))
    _check_names(here, entries, slots, whole=only is None, part=naming is not None)
    return Fit(model=model, asked=plan, plan=here, slots=slots, entries=entries, selection=selection)


def fit_of_own(model: nn.Module, plan: Plan, slots: Sequence[Slot], *, only: Only | None = None) -> Fit:
    """The fit of a model and the plan made of its ``slots``, or of those of them that ``only`` selects."""
    entries = plan.entries if only is None else _with_rows(only, plan.entries)
    selection = None if only is None else _selection(entries)
    by_name = {slot.name: slot for slot in slots}
    return Fit(model=model, asked=plan, plan=plan, slots=by_name, entries=entries, selection=selection)


def _selection(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The names, with the part that is written."""
    return tuple(entry.name if entry.section is None else f"{entry.name}{entry.section}" for entry in entries)


def _with_rows(only: Only, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The selected entries, limited to the rows that ``only`` gives them.

    Raises ``SpecError`` for what is no slice, and ``PlanError`` for rows that a tensor does not have.
    """
    if not isinstance(only, Mapping):
        return tuple(entries)
    return tuple(_limited(entry, only) for entry in entries)


def _limited(entry: Entry, only: Mapping[str, slice]) -> Entry:
    names = (entry.name, *entry.ties)
    key = next((key for key in only if any(map(glob_matcher(key), names))), None)
    if key is None or entry.kept:  # it follows a selected one
        return entry
    rows = only[key]
    if not isinstance(rows, slice):
        raise SpecError(f"{_ROWS}; got {shown(rows)} for {key!r}")
    try:
        begin, end, step = rows.indices(entry.shape[0] if entry.shape else 0)
    except TypeError:
        raise SpecError(f"{_ROWS}; got {shown(rows)} for {key!r}") from None
    if step != 1 or begin >= end or entry.section is not None:
        raise PlanError(
            f"{entry.name}: {shown(rows)} of shape {shape_text(entry.shape)} is no rows that can be written alone; "
            f"{_ROWS}"
        )
    whole = (begin, end) == (0, entry.shape[0])
    return entry if whole else replace(entry, section=Section(dim=0, spans=((begin, end),)))


def _part(plan: Plan, slots: dict[str, Slot], naming: Naming) -> tuple[Plan, dict[str, Slot]]:
    """What the plan says of a part of the model, and the part's tensors by the plan's names.

    A tensor that the part has under a tied name goes by the canonical one.

    Raises ``PlanError`` if two of the part's tensors get the same name, ``name_map`` names what is not in the part, or
    it has nothing of the plan.
    """
    check_used(naming, slots)
    new, without = renamed(naming, slots), Naming(name_map=naming.name_map)
    slots = {new[name]: replace(slot, name=new[name]) for name, slot in slots.items()}
    entries = [_present(entry, slots) for entry in plan]
    present = tuple(entry for entry in entries if entry is not None)
    if slots and not present:
        own = [without(name) for name in new]
        close = did_you_mean(naming.prefix, prefixes(own, plan.names))
        raise PlanError(
            f"the plan names nothing of this part of the model, whose first tensor is {next(iter(slots))!r} after "
            f"prefix and name_map; the plan's first is {plan.entries[0].name if plan.entries else None!r}{close}"
        )
    return Plan(present), slots


def _following(plan: Plan, slots: Mapping[str, Slot], names: Collection[str]) -> set[str]:
    """The names of planned buffers that change with selected weights, as the singular vectors of a spectral norm do."""
    buffers = {
        id(buffer)
        for name in names
        if name in slots and (parametrization := slots[name].parametrization) is not None
        for buffer in parametrization.buffers()
    }
    return {
        entry.name
        for entry in plan
        if not entry.kept and entry.name in slots and id(slots[entry.name].tensor) in buffers
    }


def _present(entry: Entry, slots: dict[str, Slot]) -> Entry | None:
    """The entry with those of its names that are there; its first tensor is moved to the canonical name."""
    names = [name for name in (entry.name, *entry.ties) if name in slots]
    if not names:
        return None
    first = slots.pop(names[0])
    slots[entry.name] = replace(first, name=entry.name)
    return replace(entry, ties=tuple(names[1:]))


def _selected(plan: Plan, only: Only | None) -> list[Entry]:
    return chosen_by(only, plan.entries, lambda entry: (entry.name, *entry.ties))


def chosen_by(only: Only | None, items: Sequence[Item], names_of: Callable[[Item], Sequence[str]]) -> list[Item]:
    """The items of which ``only`` names one of the names; none, with a notice, if it is an empty collection.

    Raises ``PlanError`` if a name or a function selects nothing, and ``SpecError`` for what is no name.
    """
    if only is None:
        return list(items)
    if isinstance(only, nn.Module | Where | type):
        raise SpecError(f"{_ONLY}, got {shown(only)}")
    if callable(only):
        chosen = [item for item in items if any(map(only, names_of(item)))]
    else:
        from zeta.rules.missing import missing  # here, because most calls are for all of a model

        patterns = [only] if isinstance(only, str) else list(only) if isinstance(only, Collection) else [only]
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise SpecError(f"{_ONLY}, got {shown(only)}")
        names = {name for item in items for name in names_of(item)}
        globs = [pattern for pattern in patterns if pattern not in names]
        if empty := [line for pattern in globs for line in missing(pattern, names)]:
            raise PlanError(listed("only= names nothing in the plan:", empty))
        hit = {*patterns} & names
        hit.update(*(filter(glob_matcher(pattern), names) for pattern in globs))
        chosen = [item for item in items if not hit.isdisjoint(names_of(item))]
        if not patterns:
            notice("only= is empty: nothing is selected, and nothing is done")
            return []
    if not chosen:
        raise PlanError("only= selects nothing of the plan")
    return chosen


def _check_names(plan: Plan, selected: Sequence[Entry], slots: Mapping[str, Slot], *, whole: bool, part: bool) -> None:
    """Raise ``PlanError`` if names or shapes of plan and model differ; ``whole`` if everything is selected."""
    absent, unplanned = plan.names - slots.keys(), slots.keys() - plan.names
    missing = [name for entry in selected for name in (entry.name, *entry.ties) if name in absent] if absent else []
    extra = [name for name in slots if name in unplanned] if whole else []
    shapes = [
        f"{entry.name}: planned {shape_text(entry.shape)}, found {shape_text(slot.shape)}"
        for entry in selected
        if (slot := slots.get(entry.name)) is not None
        and slot.shape != entry.shape
        and not nn.parameter.is_lazy(slot.tensor)
    ]
    places = _places(slots, plan) if missing and not part else []
    if places and "" not in places:
        raise PlanError(f"{_NOT_FOR_IT}: {_as_a_part(next(iter(slots)), places)}")
    wanted = {entry.name for entry in selected}
    problems = [
        listed(heading, names)
        for heading, names in (
            ("the plan names what the model does not have:", missing),
            ("the model has what the plan does not name:", extra),
            ("shapes differ:", shapes),
            ("ties differ:", tie_problems(plan, slots, lambda entry: entry.name in wanted and not entry.kept)),
        )
        if names
    ]
    if problems:
        hint = ["if it is a part of the planned one, with the same names: prefix=''"] if places else []
        raise PlanError("\n".join([_NOT_FOR_IT, *problems, *hint]))


def _places(slots: Mapping[str, Slot], plan: Plan) -> list[str]:
    """The prefixes with which the model has the names and shapes of a part of the planned one."""
    planned = {name: entry.shape for entry in plan for name in (entry.name, *entry.ties)}
    return [
        prefix
        for prefix in prefixes(slots, planned)
        if all(planned[Naming(prefix=prefix)(name)] == slot.shape for name, slot in slots.items())
    ]


def _as_a_part(first: str, places: Sequence[str]) -> str:
    known = [f"{Naming(prefix=prefix)(first)} with prefix={prefix!r}" for prefix in places[:_MOST_PREFIXES]]
    more = f", and so on for {len(places)} places" if len(places) > len(known) else ""
    return f"it has the names of a part of the planned one; its {first} is {', or '.join(known)}{more}"


def tie_problems(plan: Plan, slots: Mapping[str, Slot], concerns: Callable[[Entry], bool]) -> list[str]:
    """What the model ties otherwise than the plan, as far as an entry is concerned; names it lacks are not told here.

    A tie is lost, for one, by ``to_empty``, which makes a parameter of its own for each name.
    """
    problems: list[str] = []
    tied = len(plan.names) > len(plan.entries) or len({id(slot.tensor) for slot in slots.values()}) < len(slots)
    owners: dict[int, Entry] = {}
    for entry in plan if tied else ():
        slot = slots.get(entry.name)
        if slot is None:
            continue
        if entry.ties and concerns(entry):
            problems += [
                f"{tie}: planned as the same tensor as {entry.name}, found another; tie them again, or plan this model"
                for tie in entry.ties
                if tie in slots and slots[tie].tensor is not slot.tensor
            ]
        owner = owners.setdefault(id(slot.tensor), entry)
        if owner is not entry and (concerns(owner) or concerns(entry)):
            problems.append(
                f"{entry.name}: planned on its own, found the same tensor as {owner.name}; untie them, or plan this "
                "model"
            )
    return problems
