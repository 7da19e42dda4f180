"""One size of a model: its parameters, what each of them does and in which layer; and its plan, if built on meta."""

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


class Sized(Struct, frozen=True, kw_only=True, eq=False):
    """A model, its parameters, their roles and layers. ``slots`` has the names of a parameter by its canonical name."""

    model: nn.Module
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

    def role(self, name: str) -> Role | None:
        """The role of a parameter; of a tied one, that of its first name which has one."""
        return next((found for slot in self.slots[name] if (found := self.roles.get(slot.name)) is not None), None)


class Built(Sized, frozen=True, kw_only=True, eq=False):
    """A model on meta and its recorded plan."""

    plan: Plan

    def entry(self, name: str) -> Entry:
        """What the recorded plan says of a parameter."""
        return self.plan[name]


def sized(model: nn.Module) -> Sized:
    """What there is to know of a model that is built already."""
    return Sized(**_parts(model))


def built(build: Callable[..., Any], arguments: Mapping[str, Any], fallback: Fallback | None) -> Built:
    """Build a model on meta."""
    model, plan = record(build, fallback=fallback, **arguments)
    return Built(**_parts(model), plan=plan)


def _parts(model: nn.Module) -> dict[str, Any]:
    slots = walk(model)
    roles = found_in(model, slots)
    modules = named_modules(model)
    parameters = [group for group in groups(slots) if group[0].kind not in (Kind.BUFFER, Kind.PARAMETRIZATION)]
    return {
        "model": model,
        "slots": {group[0].name: group for group in parameters},
        "modules": modules,
        "roles": roles,
        "places": layers_in(modules, [slot.name for slot in slots], roles),
    }
