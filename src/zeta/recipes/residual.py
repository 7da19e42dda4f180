"""Residual blocks: the layers on the main path of a block, without its shortcut and what is beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from torch import nn

from zeta.base.modules import modules_of, named_modules_of
from zeta.base.usage import called_in_order
from zeta.errors import SpecError
from zeta.initializers import Initializer
from zeta.recipes.parts import SHORTCUT, law
from zeta.rules import Match, Rule, Where
from zeta.rules.adapters import adapters_of
from zeta.rules.match import NORMS

#: what a block holds beside its main path, by name or class
_BESIDE: Final = re.compile(
    r"(?i)(^|_)(res(idual)?_?(conv|proj)|conv_?res|nin|match(_channels)?|adjust|se|eca|ca|cbam|ema)(_|\d|$)"
    r"|(^|_)nin|squeeze|excit|sample|att(n|ention)|qkv"
)
_BESIDE_CLASS: Final = re.compile(r"SE(Block|Layer|Module|_?Net)?$|Squeeze|Excit|Att(n|ention)|[CE]CA|CBAM")


#: the output of an attention whose queries are beside it
_PROJECTION: Final = re.compile(r"(?i)(attn_?|to_?)?(proj|out)(_?out|_?proj)?")
_PACKED: Final = re.compile(r"(?i)qkv|(^|_)(q|k|query)(_|$)")


#: the names of blocks
_BLOCK: Final = re.compile(r"\d+|(?i:\w*(block|unit|res\w*)_?\d+)")


class _Layer(NamedTuple):
    path: str
    module: nn.Module
    into: int
    out: int
    kernel: int
    stride: Any


def main_path(block: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[nn.Module] | None:
    """The layers of a block's branch, in order; ``None`` if it does not follow which of them is the shortcut.

    A shortcut is found by its name, or because it leads from the width where the block begins to where it ends.
    """
    found = [*_layers(block, wanted)]
    while len(found) > 1:
        said = _is_shortcut(found)
        if said is None:
            return None
        if not said:
            break
        found.pop()
    if len(found) > 2:
        first, second, last = found[0], found[1], found[-1]
        around = first.kernel == 1 and (first.into, first.out) == (second.into, last.out)
        if around and first.out != second.into:
            found = found[1:]
    return [each.module for each in found]


def _layers(block: nn.Module, wanted: Callable[[nn.Module], bool]) -> Iterator[_Layer]:
    modules = dict(named_modules_of(block))
    for path, part in modules.items():
        if not path or not wanted(part):
            continue
        parts = path.split(".")
        holders = [modules[".".join(parts[:end])] for end in range(1, len(parts) + 1)]
        named = any(SHORTCUT.fullmatch(each) or _BESIDE.search(each) for each in parts)
        beside = named or leads_out_of_attention(path, modules)
        if not beside and not any(_BESIDE_CLASS.search(type(each).__name__) for each in holders):
            yield _Layer(path, part, *_sizes(part))


def leads_out_of_attention(path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer is called as the output of an attention, and the queries are beside it."""
    parts = path.split(".")
    local, outer = (parts[-2], parts[:-2]) if parts[-1].isdecimal() and len(parts) > 1 else (parts[-1], parts[:-1])
    around = modules.get(".".join(outer))
    return _PROJECTION.fullmatch(local) is not None and around is not None and any(map(_PACKED.search, around._modules))


def _outer(path: str) -> str:
    return path.rpartition(".")[0]


def _sizes(part: nn.Module) -> tuple[int, int, int, Any]:
    weight: Any = part._parameters.get("weight")
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features, 1, 1
    if isinstance(part, nn.modules.conv._ConvNd):
        return part.in_channels, part.out_channels, math.prod(part.kernel_size), part.stride
    shape = (0, 0) if weight is None else tuple(weight.shape)
    return shape[1], shape[0], math.prod(shape[2:]), getattr(part, "stride", 1)


def _is_shortcut(found: list[_Layer]) -> bool | None:
    """Whether the last layer leads around those before it; ``None`` if widths and strides fit both."""
    first, before, last = found[0], found[-2], found[-1]
    if last.kernel != 1 or all(each.kernel == 1 for each in found):
        # without kernels, a wider or narrower block says it: in -> out beside in -> h -> out
        around = len(found) > 2 and (last.into, last.out) == (first.into, before.out) and last.into != before.out
        return around and last.kernel == 1
    around = (last.into, last.out) == (first.into, before.out)
    follows = last.into == before.out
    if around is not follows:
        return around
    if not around:
        return False
    if last.stride != before.stride or first.stride != before.stride:
        return bool(last.stride == first.stride)
    # 1, 3, 1 is a bottleneck; 3, 3, 1 may have a shortcut
    return False if first.kernel == 1 and len(found) > 2 else None


def keeps_width(block: nn.Module, branch: list[nn.Module]) -> bool:
    """Whether layers end as they begin, or have a shortcut, which may have no parameters in a class of its own."""
    linear = all(isinstance(layer, nn.Linear) for layer in branch)
    if any(map(SHORTCUT.fullmatch, (*block._modules, *vars(block)))) or not (linear or type(block) is nn.Sequential):
        return True
    first, last = branch[0], branch[-1]
    if linear:
        return bool(first.in_features == last.out_features)
    strides = [max(getattr(layer, "stride", (1,))) for layer in branch]
    return getattr(first, "in_channels", 0) == getattr(last, "out_channels", 0) and max(strides) == 1


def undecided(blocks: Iterable[nn.Module], wanted: Callable[[nn.Module], bool]) -> Rule:
    """Refuses the layers of blocks of which it does not follow which is the shortcut."""
    inside = frozenset(
        part for block in blocks if main_path(block, wanted) is None for part in modules_of(block) if wanted(part)
    )

    def refuse(match: Match) -> Initializer:
        raise SpecError(
            "is in a residual block, and whether the last layer ends the branch or is a shortcut does not follow from "
            f'names, widths and strides: put rules for the block before the recipe, as Rule("{match.name}", ...)'
        )

    where = Where("blocks whose last layer may be a shortcut", lambda match: match.module in inside)
    return Rule(where, law("refused", refuse), optional=True)


def residual_branches(model: nn.Module) -> tuple[dict[str, list[nn.Module]], Rule]:
    """The layers of each residual branch, in order, by the name of its block; and a rule that refuses unclear blocks.

    A block whose shortcut is not known is unclear.
    """
    found: dict[str, list[nn.Module]] = {}
    adapters = adapters_of(model)
    adapted = frozenset(part for name, part in named_modules_of(model) if adapters.of(name) is not None)
    unclear: list[nn.Module] = []

    def wanted(part: nn.Module) -> bool:
        return isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and part not in adapted

    for name, block in named_modules_of(model):
        if _BLOCK.fullmatch(name.rpartition(".")[2]):
            inside = main_path(block, wanted)
            if inside is None:
                unclear.append(block)
            elif len(inside) > 1 and keeps_width(block, inside):
                found[name] = inside
    outer = {name for name in found if any(each.startswith(f"{name}.") for each in found)}
    return {name: branch for name, branch in found.items() if name not in outer}, undecided(unclear, wanted)


def last_norm(block: nn.Module) -> nn.Module | None:
    """The norm after the last convolution of a block's branch; ``None`` if there is none, as before an addition.

    The order is that of ``forward``, or else of the numbers of convolutions and norms, or of registration.
    """
    path = main_path(block, convolves) or []
    named = {part: name for name, part in named_modules_of(block)}
    if not path:
        return None
    last, order = path[-1], list(named)
    called = [block._modules.get(name) for name in called_in_order(block)]
    if last in called:
        order = [part for part in called if part is not None]
    else:
        number = re.search(r"\d+$", named[last])
        same = [
            part
            for part, name in named.items()
            if number and isinstance(part, NORMS) and re.sub(r"\D+$|^\D+", "", name) == number[0]
        ]
        if len(same) == 1 and _outer(named[same[0]]) == _outer(named[last]):
            return same[0] if order.index(same[0]) > order.index(last) else None
    for part in order[order.index(last) + 1 :]:
        if isinstance(part, NORMS):
            return part
        if convolves(part):
            return None
    return None


def convolves(part: nn.Module) -> bool:
    """Also a convolution that is not torch's, by its weight."""
    weight = part._parameters.get("weight")
    return isinstance(part, nn.modules.conv._ConvNd) or (weight is not None and weight.ndim in (3, 4, 5))
