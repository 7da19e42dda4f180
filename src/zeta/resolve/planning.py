"""From a model and its rules to a plan: which parameter gets which initializer, with every number solved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from zeta import recipes
from zeta.base.modules import check_module
from zeta.base.process.garbage import uncollected
from zeta.resolve.fitting import Fit, Only, chosen_by, fit, fit_of_own
from zeta.resolve.how import Planner, check_no_options, no_how
from zeta.resolve.plans import Plan
from zeta.resolve.resolver import groups, resolve
from zeta.resolve.slots import Slot, unwrap, walk
from zeta.rules import Rules

How = Rules | str | Planner


def plan(model: nn.Module, how: How, options: Mapping[str, Any] | None = None) -> Plan:
    """Decide what every parameter and buffer of ``model`` gets. No value is read or written; the model may be on meta.

    Args:
        model: any module; wrappers and parametrizations do not change the names.
        how: :class:`~zeta.rules.Rules`, the name of a recipe (``zeta.recipes.names()``), or a scaling.
        options: of the recipe.

    Raises:
        LayerTypeError: ``model`` is not a module.
        PlanError: parameters that no rule matches, rules that never win, ties that different rules claim, initializers
            that do not fit their parameter. Everything wrong is listed at once.
    """
    return planned(model, how, options).plan


@uncollected
def planned(
    model: nn.Module,
    how: How,
    options: Mapping[str, Any] | None = None,
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
    rules, recipe = how, None
    if isinstance(how, str):
        rules, recipe = recipes.rules_for(how, inner, **(options or {})), how
    elif options:
        check_no_options(options, "none")
    if not isinstance(rules, Rules | Planner):
        raise no_how(how)
    slots = walk(inner)
    if check is not None:
        check(slots)
    if isinstance(rules, Planner):
        return fit(model, rules.plan_for(inner), only=only)
    everything = groups(slots)
    wanted = chosen_by(only, everything, lambda group: [slot.name for slot in group])
    made = Plan(tuple(resolve(rules, everything, wanted, inner, named=named, recipe=recipe)))
    return fit_of_own(model, made, slots, only=only)
