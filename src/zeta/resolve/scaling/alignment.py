"""Which parameter of a deeper model is which of a shallower one: blocks of longer lists, by their contents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from zeta.rules.role_names import EXPERTS

_NUMBERED: Final = re.compile(r"(.*?)_?(\d+)")


class Aligned(Struct, frozen=True):
    """The name in the shallower model, and by which factor the lists around it are longer."""

    name: str
    depth: float = 1.0


def aligned(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Aligned] | None:
    """By name in ``other``, what is the same in ``base``; ``None`` if more than the length of lists differs.

    The values, such as shapes, of what is the same are equal. A block of a longer list is the base's block with the
    same contents that is nearest to it by its place in the list. Lists of experts do not count as depth.

    >>> found = aligned({"h.0.w": 4, "h.1.w": 4, "head": 2}, {f"h.{n}.w": 4 for n in range(4)} | {"head": 2})
    >>> [found[name].name for name in ("h.0.w", "h.1.w", "h.2.w", "h.3.w")], found["h.3.w"].depth, found["head"].depth
    (['h.0.w', 'h.0.w', 'h.1.w', 'h.1.w'], 2.0, 1.0)
    """
    return _Trees()(_tree(base), _tree(other), "")


def _tree(values: Mapping[str, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return root


class _Trees:
    """Pairs the nodes of two trees of names; what two nodes have in common is found once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], dict[str, Aligned] | None] = {}

    def __call__(self, base: Any, other: Any, called: str) -> dict[str, Aligned] | None:
        if not isinstance(base, dict) or not isinstance(other, dict):
            return {"": Aligned("")} if type(base) is type(other) and base == other else None
        key = (id(base), id(other))
        if key not in self._known:
            self._known[key] = self._nodes(base, other, called)
        return self._known[key]

    def _nodes(self, base: dict[str, Any], other: dict[str, Any], called: str) -> dict[str, Aligned] | None:
        found: dict[str, Aligned] = {}
        if base.keys() == other.keys():
            for key in other:
                below = self(base[key], other[key], key)
                if below is None:
                    return None
                found |= _under(key, key, 1.0, below)
            return found
        stems, others = _stems(base), _stems(other)
        if stems.keys() != others.keys():
            return None
        for stem, members in others.items():
            mine = stems[stem]
            if len(members) < len(mine) or (None in mine) != (None in members):
                return None
            experts = EXPERTS.search(stem.removesuffix("#") or called) is not None
            ratio = 1.0 if experts else len(members) / len(mine)
            for place, key in enumerate(members.values()):
                for candidate in _nearest([*mine.values()], place, len(members)):
                    below = self(base[candidate], other[key], key)
                    if below is not None:
                        found |= _under(key, candidate, ratio, below)
                        break
                else:
                    return None
        return found


def _stems(node: dict[str, Any]) -> dict[str, dict[int | None, str]]:
    """By what numbered children have in common, their keys in order; a child without number is alone."""
    found: dict[str, dict[int | None, str]] = {}
    for key in node:
        match = _NUMBERED.fullmatch(key)
        found.setdefault(key if match is None else f"{match[1]}#", {})[None if match is None else int(match[2])] = key
    return {stem: dict(sorted(keys.items(), key=lambda item: item[0] or 0)) for stem, keys in found.items()}


def _nearest(candidates: list[str], place: int, count: int) -> Iterator[str]:
    """The candidates, the one at the same relative place first."""
    wanted = place * (len(candidates) - 1) / (count - 1) if count > 1 else 0.0
    order = sorted(range(len(candidates)), key=lambda number: (abs(number - wanted), number))
    return (candidates[number] for number in order)


def _under(key: str, candidate: str, ratio: float, below: dict[str, Aligned]) -> dict[str, Aligned]:
    return {
        f"{key}.{name}" if name else key: Aligned(
            f"{candidate}.{found.name}" if found.name else candidate, found.depth * ratio
        )
        for name, found in below.items()
    }
