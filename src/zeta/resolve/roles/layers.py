"""The number of the layer that a parameter lies in, and how many layers there are: the one place that counts them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from torch import nn

from zeta.rules.match import RESIDUAL_ROLES, Place, Role
from zeta.rules.role_names import EXPERTS, SIDE

#: what a model has once: a module that holds one of its own is a model, with its own layers
_ENDS: Final = (Role.EMBEDDING, Role.READOUT, Role.CLASS_TOKEN)
#: what stands in for the layers of another part of a model is none of its modules
_ABSENT: Final = re.compile("Identity|.*Missing.*")
#: ``layer_3`` counts as ``3`` does
_NUMBERED: Final = re.compile(r"(.*?)_?(\d+)")


def layers_by(roles: Mapping[str, Role], names: Iterable[str], modules: Iterable[str] = ()) -> dict[str, Place | None]:
    """By name: the layer that it lies in, of how many; ``None`` outside of all layers.

    The layers are the blocks: the smallest modules that hold an attention, or another mixer, and an MLP. In a list
    whose members hold one of the two, the neighbours that repeat are a block; two lists of the same length are paired.
    Blocks in lists that lie in each other, or follow each other in one stack, are counted together; an encoder, a
    decoder, or a module with its own embedding is a stack of its own. A part whose number or count does not follow is
    ``None``. ``modules``: the names of modules too, for a list whose first members have no parameters. In a model
    without blocks, see ``layers_of``.

    >>> kinds = {"attn": Role.ATTENTION_OUTPUT, "down": Role.MLP_DOWN}
    >>> found = {f"0.h.{number}.{name}": role for number in range(3) for name, role in kinds.items()}
    >>> places = layers_by(found, [*found, "1.head"])
    >>> places["0.h.2.down"], places["1.head"]
    (Place(layer=2, depth=3, branches=6, stack=''), None)
    """
    names = list(names)
    blocks = _Blocks(roles, names, modules)
    if not blocks.units:
        return {name: place and Place(*place) for name, place in layers_of(names).items()}
    return {name: blocks.place(name) for name in names}


def layers_in(
    modules: Mapping[str, nn.Module], names: Iterable[str], roles: Mapping[str, Role]
) -> dict[str, Place | None]:
    """``layers_by`` for a model with these modules."""
    present = [name for name, each in modules.items() if not _ABSENT.fullmatch(type(each).__name__)]
    return layers_by(roles, names, present)


class _Unit:
    """A block: where it lies, when it is registered, and its residual branches."""

    def __init__(self, path: str, order: tuple[int, int], branches: int, first: str = "") -> None:
        self.path, self.order, self.branches = path, order, branches
        #: of neighbours in a list, the name of the first, or else the path
        self.first = first or path
        self.known = not _several_sides(self.first)
        self.place: Place | None = None


class _Blocks:
    def __init__(self, roles: Mapping[str, Role], names: list[str], modules: Iterable[str]) -> None:
        self._roles, self._names, self._modules = roles, names, set(modules)
        self.units: list[_Unit] = []
        #: by path, the block of a module
        self._owner: dict[str, _Unit] = {}
        self._first: dict[str, int] = {}
        self._kinds: dict[str, str] = {}  # by name, "mixer" or "mlp" of what ends a residual branch
        for number, name in enumerate(names):
            self._first.setdefault(name, number)
            if (kind := _kind(name, roles.get(name))) is not None:
                self._kinds[name] = kind
        if self._kinds:
            self._find()

    def place(self, name: str) -> Place | None:
        unit = self._unit(name)
        return None if unit is None else unit.place

    def _unit(self, name: str) -> _Unit | None:
        """The block of the innermost module around a name that has one."""
        return next((unit for path in (name, *_around(name)) if (unit := self._owner.get(path)) is not None), None)

    def _find(self) -> None:
        held: dict[str, set[str]] = {}
        inside: dict[str, list[str]] = {}
        for name, kind in self._kinds.items():
            for outer in _around(name):
                if kind in held.setdefault(outer, set()):
                    break
                held[outer].add(kind)
        both = {outer for outer, kinds in held.items() if len(kinds) == 2}
        smallest = both - {outer.rpartition(".")[0] for outer in both if outer}
        for name in self._kinds:
            for outer in _around(name):
                if outer in smallest:
                    inside.setdefault(outer, []).append(name)
                    break
        if both:
            for outer in smallest:
                self._in(outer, inside[outer])
            self._beside()
        else:
            self._of_one_kind()
        self._own()
        self._stacks()

    # -- blocks

    def _in(self, outer: str, sites: list[str]) -> None:
        """The blocks in the smallest module that holds both kinds: itself, or neighbours, or pairs of two lists."""
        children: dict[str, str] = {}
        pairs: dict[str, set[int | None]] = {"mixer": set(), "mlp": set()}
        keys: dict[str, int] = {}
        for name in sites:
            rest = name[len(outer) + 1 if outer else 0 :].split(".")
            children[rest[0]] = self._kinds[name]
            found = _NUMBERED.fullmatch(rest[0])
            number, key = (int(found[2]), rest[0]) if found else (None, "")
            if found is None and len(rest) > 2 and rest[1].isdecimal() and not EXPERTS.search(rest[0]):
                number, key = int(rest[1]), f"{rest[0]}.{rest[1]}"
            pairs[self._kinds[name]].add(number)
            if number is not None:
                keys[key] = number
        order = self._first[sites[0]]
        if all(child.isdecimal() for child in children):
            ordered = sorted(children, key=int)
            period = _period([children[child] for child in ordered])
            for index in range(0, len(ordered), period or len(ordered)):
                group = ordered[index : index + (period or len(ordered))]
                unit = _Unit(outer, (order, index), len(group), _join(outer, group[0]))
                unit.known &= period is not None
                self._add(unit, [_join(outer, child) for child in group])
        elif None not in pairs["mixer"] and pairs["mixer"] == pairs["mlp"] and len(pairs["mlp"]) > 1:
            for number in sorted(filter(lambda each: each is not None, pairs["mlp"])):  # type: ignore[type-var]
                unit = _Unit(outer, (order, number or 0), 2)
                self._add(unit, [_join(outer, key) for key, each in keys.items() if each == number])
        else:
            self._add(_Unit(outer, (order, 0), 2), [outer])

    def _add(self, unit: _Unit, paths: list[str]) -> None:
        self.units.append(unit)
        self._owner.update(dict.fromkeys(paths, unit))

    def _beside(self) -> None:
        """The members of a list of blocks that hold one kind only, or modules whose roles are not known."""
        lists = {found[0] for unit in self.units if (found := _innermost(unit.path)) is not None}
        ends = {path for name, role in self._roles.items() if role in _ENDS for path in _around(name)}
        known = {found[1] for unit in self.units if (found := _innermost(unit.path)) is not None}
        for name in self._names:
            for listed, member in _lists(name):
                deep = name in self._kinds or (name.count(".", len(member)) > 2 and member not in ends)
                if listed in lists and member not in known and deep:
                    known.add(member)
                    self._add(_Unit(member, (self._first[name], 0), 1), [member])

    def _of_one_kind(self) -> None:
        """The members of the innermost list of which several hold what ends a branch; experts are no layers."""
        members: dict[str, set[str]] = {}
        for name in self._kinds:
            for listed, member in _lists(name):
                if not EXPERTS.search(listed.rpartition(".")[2]):
                    members.setdefault(listed, set()).add(member)
        for name in self._kinds:
            several = [member for listed, member in _lists(name) if len(members.get(listed, ())) > 1]
            if several and several[-1] not in self._owner:
                self._add(_Unit(several[-1], (self._first[name], 0), 1), several[-1:])

    def _own(self) -> None:
        """What lies in the member of a list beside its block belongs to that."""
        holders: dict[str, set[_Unit]] = {}
        for unit in self.units:
            for _, member in _lists(f"{unit.path}."):
                holders.setdefault(member, set()).add(unit)
        for member, units in holders.items():
            if member not in self._owner and len(units) == 1:
                self._owner[member] = next(iter(units))

    # -- stacks

    def _stacks(self) -> None:
        around = {path for unit in self.units for path in _around(f"{unit.path}.")}
        models = {
            next((path for path in _around(name) if path in around), "")
            for name, role in self._roles.items()
            if role in _ENDS and self._unit(name) is None
        }
        stacks: dict[str, list[_Unit]] = {}
        for unit in self.units:
            stacks.setdefault(_stack(unit.path, models), []).append(unit)
        # an attention without an MLP may be a block of which a part is not found
        alone = (name for name, kind in self._kinds.items() if kind == "mixer" and self._unit(name) is None)
        stray = {_stack(name.rpartition(".")[0], models) for name in alone}
        for stack, units in stacks.items():
            units.sort(key=lambda unit: unit.order)
            counted = all(unit.known for unit in units) and _follow(stack, [unit.first for unit in units])
            # blocks beside a model that has its own
            inner = [each for each in stacks if each in models and each.startswith(f"{stack}." if stack else "")]
            counted = counted and all(each == stack or SIDE.search(each.rpartition(".")[2]) for each in inner)
            counted = counted and stack not in stray
            begin = self._begin(units)
            branches = sum(unit.branches for unit in units)
            for number, unit in enumerate(units):
                known = counted and unit.known
                depth = len(units) if known and begin == 0 else None
                unit.place = Place(begin + number if known else None, depth, branches, stack)

    def _begin(self, units: list[_Unit]) -> int:
        """The number of the first block: a list that begins with a later one is a part of a model, and keeps it."""
        lists = {found[0] if (found := _innermost(unit.path)) else None for unit in units}
        members = [found[1] for unit in units if (found := _innermost(unit.path))]
        if len(lists) != 1 or not members or not all(each.rpartition(".")[2].isdecimal() for each in members):
            return 0
        listed, numbers = lists.pop(), [int(each.rpartition(".")[2]) for each in members]
        outer = (listed or "")[:-1]
        earlier = {_join(outer, str(number)) for number in range(min(numbers))}
        held = self._modules | {path for name in self._names for path in _around(name)} if min(numbers) else set()
        return 0 if earlier & held or len(set(members)) < len(units) else min(numbers)


def _kind(name: str, role: Role | None) -> str | None:
    """What a parameter says that its residual branch is: a state space counts as an attention does."""
    if role in RESIDUAL_ROLES:
        return "mlp" if role is Role.MLP_DOWN else "mixer"
    return "mixer" if name.rpartition(".")[2] == "A_log" else None


def _around(name: str) -> Iterator[str]:
    """The paths of the modules around a name, innermost first."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _join(outer: str, local: str) -> str:
    return f"{outer}.{local}" if outer else local


def _lists(name: str) -> Iterator[tuple[str, str]]:
    """The lists that a name goes through, outermost first: what their members have in common, and the member."""
    parts = name.split(".")
    for end, part in enumerate(parts[:-1], 1):
        if found := _NUMBERED.fullmatch(part):
            yield ".".join([*parts[: end - 1], found[1]]), ".".join(parts[:end])


def _innermost(path: str) -> tuple[str, str] | None:
    return next(iter([*_lists(f"{path}.")][::-1]), None)


def _period(kinds: list[str]) -> int | None:
    """After how many members a list repeats itself; ``None`` if it does not, or holds one kind only."""
    for period in range(2, len(kinds) + 1):
        if len(kinds) % period == 0 and kinds == kinds[:period] * (len(kinds) // period):
            # mixer, mlp, mlp, mixer: whether these are one block or two does not follow
            turns = sum(one != other for one, other in itertools.pairwise(kinds[:period]))
            return period if turns == 1 else None
    return None


def _stack(path: str, models: set[str]) -> str:
    """The stack that a block lies in: the innermost model, or side of a model, around it."""
    parts = path.split(".") if path else []
    for end in range(len(parts), 0, -1):
        outer = ".".join(parts[:end])
        if outer in models and end < len(parts):
            return outer
        if SIDE.search(parts[end - 1]):
            model = next((length for length in range(end - 1, 0, -1) if ".".join(parts[:length]) in models), 0)
            # the same side in each member of a list is one stack
            return ".".join([*parts[:model], *(re.sub(r"_?\d+$", "#", each) for each in parts[model:end])])
    return ""


def _several_sides(path: str) -> bool:
    """Whether a block is in one of several encoders or decoders: towers or stages, names do not say which."""
    parts = path.split(".")
    numbered = (each for each in parts[:-1] if SIDE.search(each) and _NUMBERED.fullmatch(each))
    return any(numbered) or any(
        SIDE.search(each) and each.endswith("s") and after.isdecimal() and len(parts) > number + 2
        for number, (each, after) in enumerate(itertools.pairwise(parts))
    )


def _follow(stack: str, paths: list[str]) -> bool:
    """Whether blocks follow each other: in one list, in lists inside of each other, or in lists side by side."""
    rest = [path.split(".")[stack.count(".") + 1 if stack else 0 :] for path in paths]
    while all(rest) and len({parts[0] for parts in rest}) == 1:
        rest = [parts[1:] for parts in rest]
    listed = [parts for parts in rest if parts and (_NUMBERED.fullmatch(parts[0]) or "".join(parts[1:2]).isdecimal())]
    return len(listed) == len(rest) or not any(rest)


def layers_of(names: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """By name: the number of the layer that it lies in, and how many layers are counted there; ``None`` without any.

    Parts of a name that are whole numbers count layers; the first that counts several wins, or else the first. In a
    model inside a Sequential, ``0.h.3.w``, it is the 3.

    >>> layers_of(["0.h.3.w", "0.h.4.w", "0.head.w", "wte"])
    {'0.h.3.w': (3, 2), '0.h.4.w': (4, 2), '0.head.w': (0, 1), 'wte': None}
    """
    names = list(names)
    inner: dict[str, str] = {}  # the name of what holds it, outermost first: no name is cut into its parts twice
    counted: dict[str, set[int]] = {}
    for name in names:
        climbed: list[tuple[str, str]] = []
        while name and name not in inner:
            outer, _, part = name.rpartition(".")
            climbed.append((name, outer))
            if part.isdecimal():
                counted.setdefault(outer, set()).add(int(part))
            name = outer
        inner.update(reversed(climbed))
    found: dict[str, tuple[int, int] | None] = {"": None}
    for name, outer in inner.items():
        part, best = name[len(outer) :].removeprefix("."), found[outer]
        if part.isdecimal() and (best is None or best[1] == 1):
            here = int(part), len(counted[outer])
            best = here if best is None or here[1] > 1 else best
        found[name] = best
    return {name: found[name] for name in names}
