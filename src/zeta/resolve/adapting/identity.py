"""Why blocks that add nothing change the outputs nevertheless, as far as the modules show it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.base.reading import shown
from zeta.base.usage import normalized_sum
from zeta.resolve.adapting.layers import Depth
from zeta.resolve.adapting.names import Names
from zeta.resolve.kinds import is_norm

#: settings that decide nothing in evaluation
_DROPPED: Final = re.compile("drop|stochastic", re.IGNORECASE)
#: settings by which the number of a block is a factor
_BY_NUMBER: Final = ("scale_attn_by_inverse_layer_idx",)


def reasons(depth: Depth, model: nn.Module, old: nn.Module | None, names: Names) -> Iterator[str]:
    """What is against it that a longer list with new blocks computes as the checkpoint's does.

    Old blocks are compared with those of the ``old`` model. Where that is not known, it is taken to begin with the
    same blocks as the new one, which they are compared with.
    """
    blocks = model.get_submodule(depth.path)
    before = _list_in(old, names(depth.path), depth.path)
    if before is not None and type(_block(before, 0)).__name__ != type(_block(blocks, 0)).__name__:
        before = None  # another architecture, as of a dense model that gets experts
    new = next((place for place, block in enumerate(depth.sources) if block is None), None)
    if new is None:
        return
    for name, module in named_modules_of(blocks.get_submodule(str(new))):
        if (norm := normalized_sum(module, is_norm)) is not None:
            where = ".".join(filter(None, (depth.path, str(new), name)))
            yield f"{where} ({type(module).__name__}) gives its sum with its input through {norm}"
            break
    for place, block in enumerate(depth.sources):
        if block is None:
            continue
        one, two = blocks.get_submodule(str(place)), _block(before, block) or _block(blocks, block)
        if two is not None and (difference := _difference(one, two, place, block)) is not None:
            yield f"{depth.path}.{place} has the values of the checkpoint's block {block}, and {difference}"
            break


def _list_in(old: nn.Module | None, *paths: str) -> nn.Module | None:
    for path in paths if old is not None else ():
        try:
            assert old is not None
            return old.get_submodule(path)
        except AttributeError:
            continue
    return None


def _block(blocks: nn.Module | None, number: int) -> nn.Module | None:
    return None if blocks is None else blocks._modules.get(str(number))


def _difference(one: nn.Module, two: nn.Module, place: int, block: int) -> str | None:
    """How a block computes otherwise than another, at other places; ``None`` if nothing shows that it does."""
    others = dict(named_modules_of(two))
    for name, module in named_modules_of(one):
        where, other = f"{name}." if name else "", others.get(name)
        if _DROPPED.search(f"{name} {type(module).__name__}"):
            continue
        if other is None or type(module).__name__ != type(other).__name__:
            kind = "nothing" if other is None else type(other).__name__
            return f"its {name or 'class'} is {type(module).__name__}, there {kind}"
        mine, theirs = vars(module), vars(other)
        for key, value in mine.items():
            if key == "training" or key.startswith("_") or not _is_setting(value) or _DROPPED.search(key):
                continue
            if place != block and key in _BY_NUMBER and value:
                return f"{where}{key} is {shown(value)}, so that its number is a factor"
            there = theirs.get(key)
            if not _is_setting(there) or value == there or _same(value, there, place, block):
                continue
            return f"its {where}{key} is {shown(value)}, there {shown(there)}"
    return None


def _is_setting(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, bool | int | float | str)


def _same(one: Any, two: Any, place: int, block: int) -> bool:
    """Whether two settings differ as the numbers of the blocks do, or are lists with one item for each block."""
    if type(one) is int and type(two) is int:
        return one - place == two - block
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) != len(two)
    if isinstance(one, str) and isinstance(two, str):
        return re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", two)
    return False
