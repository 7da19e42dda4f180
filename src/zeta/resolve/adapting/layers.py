"""Lists of blocks that become longer: which old block each new one is, and which add nothing yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from zeta.errors import PlanError
from zeta.growing import Layers
from zeta.resolve.adapting.names import Names
from zeta.rules.globs import glob_matcher
from zeta.rules.match import RESIDUAL_ROLES, Role

_BLOCK: Final = re.compile(r"\.(\d+)\.")


class Depth:
    """Which block of the checkpoint a tensor of a longer list comes from."""

    def __init__(self, path: str, layers: Layers, model: Iterable[str], names: Names) -> None:
        own = [name for name in model if _in_list(path, name)]
        here, there = _count(path, own), _count(names(path), names.arrays)
        if not there:  # a function, or names of single blocks, as name_map
            there = _count(path, (name for name in own if names(name) in names.arrays))
        if here != layers.to:
            raise PlanError(f"{path}: the model has {here} blocks, and Layers(to={layers.to}) was asked for")
        if not there:
            raise PlanError(f"{path}: the checkpoint has no blocks of this name")
        self.path = path
        self.layers = layers
        self.sources = layers.sources(there)

    def source_of(self, name: str) -> str | None:
        """The name in the checkpoint's list of what has ``name`` in the model; ``None`` if its block is new."""
        inside = name[len(self.path) :]
        match = _BLOCK.match(inside)
        assert match is not None
        block = self.sources[int(match[1])]
        return None if block is None else f"{self.path}.{block}.{inside[match.end() :]}"

    def holds(self, name: str) -> bool:
        """Whether a tensor is in one of the blocks."""
        return _in_list(self.path, name)

    def ends(self, roles: Mapping[str, Role], names: Iterable[str]) -> list[str]:
        """The tensors of new blocks that are zero, so that the blocks add nothing.

        Raises ``PlanError`` if a new block has none: then it is not known how to make it add nothing.
        """
        tests = None if self.layers.ends is None else [glob_matcher(end) for end in self.layers.ends]
        found: dict[int, list[str]] = {place: [] for place, block in enumerate(self.sources) if block is None}
        for name in filter(self.holds, names):
            inside = name[len(self.path) :]
            match = _BLOCK.match(inside)
            assert match is not None
            if int(match[1]) not in found:
                continue
            local = inside[match.end() :]
            is_end = roles.get(name) in RESIDUAL_ROLES if tests is None else any(test(local) for test in tests)
            if is_end:
                found[int(match[1])].append(name)
        if without := [place for place, ends in found.items() if not ends]:
            raise PlanError(
                f"{self.path}.{without[0]}: nothing in this block is known as the last layer of a branch; name the "
                'last layers, as in Layers(to=..., ends=("attn.proj.*", "mlp.fc2.*")), or take how="stack"'
            )
        return [name for ends in found.values() for name in ends]


def _in_list(path: str, name: str) -> bool:
    return name.startswith(f"{path}.") and _BLOCK.match(name[len(path) :]) is not None


def _count(path: str, names: Iterable[str]) -> int:
    """The number of blocks in a list."""
    blocks = {int(match[1]) for name in names if name.startswith(path) and (match := _BLOCK.match(name[len(path) :]))}
    return max(blocks, default=-1) + 1


def lists_of(names: Iterable[str]) -> dict[str, int]:
    """The lists of blocks among names of tensors, with the number of blocks.

    >>> lists_of(["h.0.up.weight", "h.1.up.weight", "head.weight"])
    {'h': 2}
    """
    found: dict[str, int] = {}
    for name in names:
        for match in _BLOCK.finditer(name):
            path = name[: match.start()]
            found[path] = max(found.get(path, 0), int(match[1]) + 1)
    return found


def depths_of(grow: Mapping[str, Layers], model: Iterable[str], names: Names) -> list[Depth]:
    """The longer lists that globs name. ``PlanError`` for a glob that names no list of blocks of the model."""
    lists = {name[: match.start()] for name in model for match in _BLOCK.finditer(name)}
    found: list[Depth] = []
    for glob, layers in grow.items():
        matches = glob_matcher(glob)
        paths = sorted(path for path in lists if matches(path))
        if not paths:
            known = ", ".join(sorted(lists)[:5]) or "none"
            raise PlanError(f"grow: {glob!r} names no list of blocks of the model; it has {known}")
        found += [Depth(path, layers, model, names) for path in paths]
    return found
