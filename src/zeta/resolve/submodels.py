"""A module that is a part of the planned model, as a pipeline stage, under the whole model's names or its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from zeta.errors import PlanError, SpecError, listed
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, walk

#: from a name inside the part to the whole model's: a function, or names of parameters or modules and what they become
NameMap = Callable[[str], str] | Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the names of a part become those of the whole model: ``name_map`` first, then ``prefix`` before it.

    >>> Naming(prefix="model", name_map={"layers.0": "layers.6"})("layers.0.weight")
    'model.layers.6.weight'
    """

    prefix: str = ""
    name_map: NameMap | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str):
            raise SpecError(f"prefix must be a text, such as 'model.layers.3', got {self.prefix!r}")
        if not (self.name_map is None or callable(self.name_map) or isinstance(self.name_map, Mapping)):
            raise SpecError(f"name_map must be a function from name to name or a dictionary, got {self.name_map!r}")
        if isinstance(self.name_map, Mapping):
            for pair in self.name_map.items():
                if not all(isinstance(name, str) for name in pair):
                    raise SpecError(f"name_map must go from name to name, got {pair[0]!r}: {pair[1]!r}")

    def __call__(self, name: str) -> str:
        """The whole model's name."""
        if isinstance(self.name_map, Mapping):
            key = next(self.keys_of(name), None)
            name = name if key is None else self.name_map[key] + name[len(key) :]
        elif self.name_map is not None:
            mapped = self.name_map(name)
            if not isinstance(mapped, str):
                raise SpecError(f"name_map must return the whole model's name of {name!r}, got {mapped!r}")
            name = mapped
        return f"{self.prefix}{'' if not self.prefix or self.prefix.endswith('.') else '.'}{name}"

    def keys_of(self, name: str) -> Iterator[str]:
        """The names in the dictionary that ``name`` is or lies in, the longest first."""
        for length in self._lengths:
            if name[length : length + 1] in ("", ".") and (key := name[:length]) in self._keys:
                yield key

    @functools.cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(self.name_map) - {""} if isinstance(self.name_map, Mapping) else frozenset()

    @functools.cached_property
    def _lengths(self) -> tuple[int, ...]:
        """Of the keys, which are few: names may have thousands of parts."""
        return tuple(sorted({len(key) for key in self._keys}, reverse=True))


def naming(prefix: str | None, name_map: NameMap | None) -> Naming | None:
    """The naming that these arguments ask for; ``None`` if the model is the whole one."""
    if prefix is None and name_map is None:
        return None
    return Naming(prefix="" if prefix is None else prefix, name_map=name_map)


def _idle(naming: Naming, names: Collection[str]) -> list[str]:
    """What the dictionary names and the part does not have."""
    if not isinstance(naming.name_map, Mapping):
        return []
    used = {key for name in names for key in naming.keys_of(name)}
    return [key for key in naming.name_map if key not in used]


def fitted(model: nn.Module, plan: Plan, naming: Naming | None) -> tuple[Plan, dict[str, Slot]]:
    """Return what the plan says of a model, and the model's tensors by the plan's names.

    For a part of the model: only what it has, and a tensor that it has under a tied name goes by the canonical one.

    Raises ``PlanError`` if two of the part's tensors get the same name, ``name_map`` names what is not in the part, or
    it has nothing of the plan.
    """
    slots = {slot.name: slot for slot in walk(model)}
    if naming is None:
        return plan, slots
    if idle := _idle(naming, slots):
        raise PlanError(listed("name_map names what this part of the model does not have:", idle))
    renamed = {name: naming(name) for name in slots}
    origins: dict[str, list[str]] = {}
    for name, new in renamed.items():
        origins.setdefault(new, []).append(name)
    twice = [f"{new}: {' and '.join(names)}" for new, names in origins.items() if len(names) > 1]
    if twice:
        raise PlanError(listed("prefix and name_map give these the same name:", twice))
    slots = {renamed[name]: replace(slot, name=renamed[name]) for name, slot in slots.items()}
    entries = [_present(entry, slots) for entry in plan]
    present = tuple(entry for entry in entries if entry is not None)
    if slots and not present:
        raise PlanError(
            f"the plan names nothing of this part of the model, whose first tensor is {next(iter(slots))!r} after "
            f"prefix and name_map; the plan's first is {plan.entries[0].name if plan.entries else None!r}"
        )
    return Plan(present), slots


def part_of(plan: Plan, model: nn.Module, naming: Naming | None) -> Plan:
    """What the plan says of a model."""
    return plan if naming is None else fitted(model, plan, naming)[0]


def _present(entry: Entry, slots: dict[str, Slot]) -> Entry | None:
    """The entry with those of its names that are there; its first tensor is moved to the canonical name."""
    names = [name for name in (entry.name, *entry.ties) if name in slots]
    if not names:
        return None
    first = slots.pop(names[0])
    slots[entry.name] = replace(first, name=entry.name)
    return replace(entry, ties=tuple(names[1:]))
