"""One size of a model, built on meta: its plan, its parameters, what each of them does and in which layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from torch import nn

from zeta.resolve.plans import Entry, Plan
from zeta.resolve.recording.record import Fallback, record
from zeta.resolve.resolver import groups
from zeta.resolve.roles import found_in
from zeta.resolve.roles.layers import layers_in
from zeta.resolve.slots import Slot, named_modules, walk
from zeta.rules import Kind, Role
from zeta.rules.match import Place


class Built(Struct, frozen=True, kw_only=True, eq=False):
    """A model on meta and its recorded plan. ``slots`` are the names of each parameter, by its canonical name."""

    model: nn.Module
    plan: Plan
    slots: Mapping[str, list[Slot]]
    modules: Mapping[str, nn.Module]
    roles: Mapping[str, Role]
    places: Mapping[str, Place | None]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """By name of the parameter."""
        return {name: group[0].shape for name, group in self.slots.items()}

    @property
    def signature(self) -> dict[str, tuple[Any, ...]]:
        """What parameters of the same name have in common: the shape and the number of tied names."""
        return {name: (group[0].shape, len(group)) for name, group in self.slots.items()}

    def entry(self, name: str) -> Entry:
        """What the recorded plan says of a parameter."""
        return self.plan[name]

    def role(self, name: str) -> Role | None:
        """The role of a parameter; of a tied one, that of its first name which has one."""
        return next((found for slot in self.slots[name] if (found := self.roles.get(slot.name)) is not None), None)


def built(build: Callable[..., Any], arguments: Mapping[str, Any], fallback: Fallback | None) -> Built:
    """Build a model on meta."""
    model, plan = record(build, fallback=fallback, **arguments)
    slots = walk(model)
    roles = found_in(model, slots)
    modules = named_modules(model)
    parameters = [group for group in groups(slots) if group[0].kind not in (Kind.BUFFER, Kind.PARAMETRIZATION)]
    return Built(
        model=model,
        plan=plan,
        slots={group[0].name: group for group in parameters},
        modules=modules,
        roles=roles,
        places=layers_in(modules, [slot.name for slot in slots], roles),
    )
