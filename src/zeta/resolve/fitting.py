"""Whether a plan and a model fit: names, shapes, dtypes, ties, and the part of the plan that was selected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from zeta.base.text import shape_text
from zeta.errors import LayerTypeError, PlanError, SpecError, listed
from zeta.initializers import Initializer, Keep, Program
from zeta.initializers.fitting import check_law
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot
from zeta.resolve.submodels import Naming, fitted
from zeta.rules.where import glob_matcher


def tie_problems(plan: Plan, slots: Mapping[str, Slot], concerns: Callable[[Entry], bool]) -> list[str]:
    """What the model ties otherwise than the plan, as far as an entry is concerned; names it lacks are not told here.

    A tie is lost, for one, by ``to_empty``, which makes a parameter of its own for each name.
    """
    problems: list[str] = []
    owners: dict[int, Entry] = {}
    for entry in plan:
        slot = slots.get(entry.name)
        if slot is None:
            continue
        problems += [
            f"{tie}: planned as the same tensor as {entry.name}, found another; tie them again, or plan this model"
            for tie in entry.ties
            if concerns(entry) and tie in slots and slots[tie].tensor is not slot.tensor
        ]
        owner = owners.setdefault(id(slot.tensor), entry)
        if owner is not entry and (concerns(owner) or concerns(entry)):
            problems.append(
                f"{entry.name}: planned on its own, found the same tensor as {owner.name}; untie them, or plan this "
                "model"
            )
    return problems


def check_dtype(initializer: Initializer, dtype: torch.dtype) -> None:
    """Raise ``SpecError`` if ``dtype`` cannot hold the values of a solved initializer."""
    if not isinstance(initializer, Keep | Program):  # a program says its own dtypes
        check_law(initializer, dtype)


Only = str | Collection[str] | Callable[[str], bool]


def chosen(
    model: nn.Module, plan: Plan, only: Only | None, naming: Naming | None
) -> tuple[list[Entry], dict[str, Slot]]:
    """The entries of the plan that ``only`` selects, and the model's tensors by the plan's names.

    Raises as ``prepare`` does, where plan and model do not fit.
    """
    if not isinstance(model, nn.Module):
        raise LayerTypeError(f"expected a torch.nn.Module, got {model!r}")
    if not isinstance(plan, Plan):
        raise SpecError(f"expected a Plan from zeta.plan(model, ...), got {plan!r}; zeta.init_ plans and writes in one")
    names = {entry.name for entry in selected(plan, only)}
    plan, slots = fitted(model, plan, naming)
    entries = [entry for entry in plan if entry.name in names]
    check_names(plan, entries, slots, whole=only is None)
    return entries, slots


def selected(plan: Plan, only: Only | None) -> list[Entry]:
    """The entries of a plan that ``only`` names; ``PlanError`` if it names nothing."""
    if only is None:
        return list(plan)
    if callable(only):
        chosen = [entry for entry in plan if any(only(name) for name in (entry.name, *entry.ties))]
    else:
        patterns = [only] if isinstance(only, str) else list(only)
        names = {name for entry in plan for name in (entry.name, *entry.ties)}
        hits = {
            pattern: {pattern} if pattern in names else set(filter(glob_matcher(pattern), names))
            for pattern in patterns
        }
        empty = [pattern for pattern, found in hits.items() if not found]
        if empty:
            raise PlanError(listed("only= names nothing in the plan:", empty))
        hit = set().union(*hits.values())
        chosen = [entry for entry in plan if not hit.isdisjoint((entry.name, *entry.ties))]
    if not chosen:
        raise PlanError("only= selects nothing of the plan")
    return chosen


def check_names(plan: Plan, selected: list[Entry], slots: dict[str, Slot], *, whole: bool) -> None:
    """Raise ``PlanError`` if names or shapes of plan and model differ."""
    planned = {name for entry in plan for name in (entry.name, *entry.ties)}
    missing = [name for entry in selected for name in (entry.name, *entry.ties) if name not in slots]
    extra = [name for name in slots if name not in planned] if whole else []
    shapes = [
        f"{entry.name}: planned {shape_text(entry.shape)}, found {shape_text(slots[entry.name].shape)}"
        for entry in selected
        if entry.name in slots
        and slots[entry.name].shape != entry.shape
        and not nn.parameter.is_lazy(slots[entry.name].tensor)
    ]
    written = {entry.name for entry in selected if not entry.kept}
    problems = [
        listed(heading, names)
        for heading, names in (
            ("the plan names what the model does not have:", missing),
            ("the model has what the plan does not name:", extra),
            ("shapes differ:", shapes),
            ("ties differ:", tie_problems(plan, slots, lambda entry: entry.name in written)),
        )
        if names
    ]
    if problems:
        raise PlanError("this plan is not for this model; nothing was changed\n" + "\n".join(problems))
