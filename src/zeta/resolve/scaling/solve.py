"""From two sizes of a model to the table: which class, which law, which multipliers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from msgspec.structs import replace
from torch import nn

from zeta.base.reading import shown
from zeta.base.text import shape_text
from zeta.errors import PlanError, SpecError, listed
from zeta.initializers import Initializer
from zeta.resolve.entries import Entry
from zeta.resolve.how import check_function
from zeta.resolve.planning import plan as plan_of
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import Fallback, plan_recorded
from zeta.resolve.scaling.built import Built
from zeta.resolve.scaling.classes import Classes, classified
from zeta.resolve.scaling.laws import law_of, rescaled
from zeta.resolve.scaling.multipliers import Multiplier, check_head_dim, multipliers_of
from zeta.resolve.scaling.schemes import Scheme, depth_rule, scheme_of
from zeta.resolve.scaling.table import Argument, Scaled, ScalingTable
from zeta.resolve.scaling.trials import Sizes, sizes_of
from zeta.rules import Rules

Init = Rules | str | Plan | Callable[[Any], object]
Table = TypeVar("Table", bound=ScalingTable)


def solve(
    made: type[Table],
    build: Callable[..., nn.Module],
    base: Mapping[str, Any],
    target: Mapping[str, Any],
    how: str,
    *,
    init: Init | None,
    roles: Classes | None,
    depth: str | None,
    alpha: float,
    absorb: bool,
    attention: bool,
    head_dim: tuple[int, int] | None,
    fallback: Fallback | None,
) -> Table:
    """See :func:`zeta.scale`."""
    scheme, rule = scheme_of(how, alpha), depth_rule(depth, how)
    pair = check_head_dim(head_dim)
    sizes = sizes_of(build, base, target, fallback)
    classes = classified(sizes, roles)
    if scheme.unit is not None and (unknown := [name for name, size in classes.items() if not size.layers]):
        raise PlanError(listed(f"{how} needs the number of layers around these, which does not follow:", unknown))
    found = multipliers_of(sizes, classes, scheme, rule, attention=attention, head_dim=pair, absorb=absorb)
    absorbed = _absorbed(found) if absorb else {}
    at_base = scheme.at_base_depth or rule is not None
    laws, own = _laws(sizes, init, scheme, at_base=at_base)
    rows: list[Scaled] = []
    entries: list[Entry] = []
    problems: list[str] = []
    for entry in own:
        size = classes.get(entry.name)
        if size is None:  # a buffer
            entries.append(entry)
            continue
        source = laws[sizes.source[entry.name].name if at_base else entry.name]
        taken = absorbed.get(entry.name, 1.0)
        try:
            factor = scheme.std(size) * (1.0 if rule is None else rule.std(size)) * taken
            if scheme.unit is not None and scheme.unit(size):
                factor /= _std(source)
            law: Initializer = entry.initializer if scheme.own else rescaled(source, entry, factor)
        except SpecError as error:
            problems.append(f"{entry.name}: {error}")
            continue
        rows.append(Scaled(name=entry.name, size=size, base_law=law_of(source.initializer), absorbed=taken))
        entries.append(replace(entry, initializer=law, rule=f"{how}: {size.group}"))
    if problems:
        raise PlanError(listed("these laws cannot be rescaled:", problems))
    return made(
        how=how,
        alpha=float(alpha),
        depth=depth,
        arguments=tuple(
            Argument(name=name, base=shown(base[name]), target=shown(target[name]), effect=sizes.effects[name])
            for name in sizes.effects
        ),
        rows=tuple(rows),
        plan=Plan(tuple(entries)),
        multipliers=() if absorb else found,
    )


def _std(entry: Entry) -> float:
    """The std of a law, or 1 of a constant, which stays; ``SpecError`` if it is not known."""
    law = law_of(entry.initializer)
    if (moments := law.moments(entry.site)) is None:
        raise SpecError(f"the std of {law} is not known, and it is to be 1; give a law with init=")
    return moments.std or 1.0


def _absorbed(found: tuple[Multiplier, ...]) -> dict[str, float]:
    """By name of the parameter, what its law and rate take in; ``PlanError`` where no parameter can."""
    stuck = [str(each) for each in found if not each.parameters]
    if stuck:
        raise PlanError(
            listed(
                "multipliers=False: no parameter can take in these multipliers (of a tied table, a packed projection "
                "or a norm); leave multipliers=True:",
                stuck,
            )
        )
    taken: dict[str, float] = {}
    for each in found:
        for name in each.parameters:
            taken[name] = taken.get(name, 1.0) * each.factor
    return taken


def _laws(sizes: Sizes, init: Init | None, scheme: Scheme, *, at_base: bool) -> tuple[dict[str, Entry], Plan]:
    """By name, the entries whose laws are rescaled; and the plan of the target, for what stays as it is there."""
    where = sizes.base if at_base else sizes.reference
    if init is None:
        return {entry.name: entry for entry in where.plan}, sizes.target.plan
    if not isinstance(init, Plan):
        own = _planned(init, sizes.target) if scheme.own else sizes.target.plan
        return {entry.name: entry for entry in _planned(init, where)}, own
    planned = {entry.name: entry for entry in init}
    odd = [
        f"{name}: {shape_text(shape)} in the base, {_planned_shape(planned.get(name))} in the plan"
        for name, shape in where.shapes.items()
        if name not in planned or planned[name].shape != shape
    ]
    if odd:
        which = "the base" if at_base or where is sizes.base else "the base's widths and the target's depth"
        raise PlanError(listed(f"init is not a plan of {which}:", odd))
    return planned, sizes.target.plan


def _planned(init: Rules | str | Callable[[Any], object], built: Built) -> Plan:
    if callable(init):
        check_function(init, ())
        return plan_recorded(built.model, init)
    return plan_of(built.model, init)


def _planned_shape(entry: Entry | None) -> str:
    return "nothing" if entry is None else shape_text(entry.shape)
