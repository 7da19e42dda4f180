"""The number of the layer that a parameter lies in, and how many layers there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from zeta.rules.match import RESIDUAL_ROLES, Role
from zeta.rules.role_names import EXPERTS


def layers_by(roles: Mapping[str, Role], names: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """By name: the number of the layer that it lies in, and how many layers there are; ``None`` without any.

    The layers are the members of a numbered list: of the innermost one of which a member holds both an attention's
    output and an MLP's down projection, or else of which several members hold one of the two, experts apart. Members
    that hold no other modules, such as an embedding before the layers, do not count. Where roles do not tell, see
    ``layers_of``.

    >>> down = {f"0.h.{number}.down": Role.MLP_DOWN for number in range(3)}
    >>> layers_by(down, [*down, "1.head"])
    {'0.h.0.down': (0, 3), '0.h.1.down': (1, 3), '0.h.2.down': (2, 3), '1.head': (1, 2)}
    """
    names = list(names)
    numbers: dict[str, set[int]] = {}
    blocks: dict[str, set[int]] = {}
    held: dict[str, dict[int, set[Role]]] = {}
    for name in names:
        role = roles.get(name)
        for outer, number in _numbered(name):
            numbers.setdefault(outer, set()).add(number)
            if name.count(".", len(outer)) > 2 or role in RESIDUAL_ROLES:
                blocks.setdefault(outer, set()).add(number)
            if role in RESIDUAL_ROLES:
                held.setdefault(outer, {}).setdefault(number, set()).add(role)
    whole = {outer for outer, members in held.items() if any(len(found) == 2 for found in members.values())}
    several = {outer for outer, members in held.items() if len(members) > 1 and not _of_experts(outer)} - whole
    found = layers_of(names)
    for name in names:
        inside = [each for each in _numbered(name) if each[1] in blocks.get(each[0], ())]
        for lists in (whole, several):
            if chosen := [each for each in inside if each[0] in lists]:
                outer, number = chosen[-1]
                found[name] = _place(number, sorted(blocks[outer]), numbers[outer])
                break
    return found


def _place(number: int, blocks: list[int], members: set[int]) -> tuple[int, int]:
    """The place among the blocks; a list that begins with a later number is a part of a model, and keeps it."""
    begin = blocks[0] if blocks[0] == min(members) else 0
    return begin + blocks.index(number), len(blocks)


def _numbered(name: str) -> Iterator[tuple[str, int]]:
    """The lists that a name goes through, outermost first, each with the number in it."""
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.isdecimal():
            yield ".".join(parts[:index]), int(part)


def _of_experts(outer: str) -> bool:
    return EXPERTS.search(outer.rpartition(".")[2]) is not None


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
