"""Where a scheme multiplies in the forward pass: inputs of weights, ends of residual branches, queries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from torch import nn

from zeta.base.reading import Size as Whole
from zeta.base.reading import Text, shown
from zeta.errors import PlanError, SpecError, listed
from zeta.fans import Fans
from zeta.recipes.residual import convolves, last_norm, residual_branches
from zeta.resolve.scaling.heads import positive
from zeta.resolve.scaling.queries import Attentions, bias_of, is_called, module_of, outer, whole_layer
from zeta.resolve.scaling.schemes import DEPTH_RULES, Class, DepthRule, Scheme, Size, leads_out
from zeta.resolve.scaling.sources import multiplied_by
from zeta.resolve.scaling.trials import Sizes
from zeta.resolve.slots import Slot
from zeta.rules import Kind, Role
from zeta.rules.match import RESIDUAL_ROLES
from zeta.rules.role_names import EXPERTS

#: norms at the end of a branch, where the one of the MLP says that there are such
_AFTER_MLP: Final = re.compile(r"(?i)post_?(feed_?forward|mlp|ffn?)_?(layer_?)?norm")
_AFTER_ATTENTION: Final = re.compile(r"(?i)post_?(self_?)?att(n|ention)_?(layer_?)?norm")


#: what lies in a block and adds nothing to the residual stream by itself
_BESIDE: Final = re.compile(
    r"(?i)modulat|ada_?(ln|norm)|gat(e|ing)|embed|pos(?![a-z])|rel|time|cond|film|scale|adapter"
    r"|sampl|merg|pool|short_?cut"
)


class Where(StrEnum):
    """What is multiplied."""

    READOUT = "readout"  # the input of a module that leads out
    WEIGHT = "weight"  # the input of another module
    BRANCH = "branch"  # the output of a module, which a residual stream gets
    QUERY = "query"  # the first input of an attention of torch
    ATTENTION = "attention"  # the queries, or the part of an output that has them


#: what multiplies the input of a module
INPUTS: Final = (Where.READOUT, Where.WEIGHT, Where.QUERY)


class Multiplier(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A factor in the forward pass: of what the module of this name gets, or returns.

    ``end``: only the first so many elements of the last dimension are multiplied. ``parameters``: those that could be
    multiplied instead.
    """

    module: Text
    where: Where
    factor: float
    end: Whole | None = None
    parameters: tuple[Text, ...] = ()

    def __str__(self) -> str:
        of = "input" if self.where in INPUTS else "output"
        part = "" if self.end is None else f"[..., :{self.end}]"
        return f"{of}{part} of {self.module or 'the model'} x {self.factor:.4g} ({self.where})"


def multipliers_of(
    sizes: Sizes,
    classes: Mapping[str, Size],
    scheme: Scheme,
    depth: DepthRule | None,
    *,
    attention: bool,
    head_dim: tuple[int, int] | None,
    absorb: bool,
) -> tuple[Multiplier, ...]:
    """Everything that the scheme multiplies, apart from factors of 1; ``absorb``: parameters will take it in.

    Raises ``PlanError`` where it does not follow what to multiply; all problems are listed.
    """
    search = _Search(sizes, classes, scheme, depth, absorb=absorb)
    found = [*search.inputs(), *search.branches()]
    if attention and scheme.attention:
        attentions = Attentions(sizes, classes, head_dim, absolute=scheme.unit is not None)
        for each in attentions.queries():
            where = Where.QUERY if each.of_input else Where.ATTENTION
            found.append(
                Multiplier(
                    module=each.module, where=where, factor=each.factor, end=each.end, parameters=each.parameters
                )
            )
        search.problems += attentions.problems
    if search.problems:
        raise PlanError(listed("it does not follow where to multiply in the forward pass:", search.problems))
    return tuple(each for each in found if each.factor != 1)


class _Search:
    def __init__(
        self,
        sizes: Sizes,
        classes: Mapping[str, Size],
        scheme: Scheme,
        depth: DepthRule | None,
        *,
        absorb: bool,
    ) -> None:
        self._sizes, self._classes = sizes, classes
        self._target = sizes.target
        self._scheme, self._depth, self._absorb = scheme, depth, absorb
        self.problems: list[str] = []

    # -- inputs of weights

    def inputs(self) -> Iterator[Multiplier]:
        """The input of what leads out, and of what else the scheme says, also if it is tied; biases are apart."""
        for name, size in self._classes.items():
            group = self._target.slots[name]
            tables = [slot for slot in group if slot.kind is Kind.EMBEDDING]
            tied = len(group) > 1 and bool(tables)
            factor_of = self._scheme.inputs
            if tied and size.group is not Class.OUTPUT:
                size, factor_of = _as_readout(size), self._scheme.tied or factor_of
            factor = factor_of(size)
            slots = [slot for slot in group if slot not in tables] if tied else group[: 1 if self._absorb else None]
            for slot in {id(slot.module): slot for slot in slots}.values() if factor != 1 else ():
                if slot.kind is Kind.BIAS:
                    continue
                if not self._absorb and not self._is_map(slot):
                    self.problems.append(self._no_place(name, slot, size))
                    continue
                yield Multiplier(
                    module=module_of(slot.name, slot.local_name),
                    where=Where.READOUT if leads_out(size) else Where.WEIGHT,
                    factor=factor,
                    parameters=() if tied else (name,),
                )

    def _is_map(self, slot: Slot) -> bool:
        """Whether a module, when it is called, multiplies its input by a weight, may add a bias, and that is all."""
        path = module_of(slot.name, slot.local_name)
        own = {local for local, each in slot.module._parameters.items() if each is not None}
        alone = not own - {slot.local_name, "bias"} and not any(True for child in slot.module.children())
        if not alone or not is_called(slot.module) or multiplied_by(self._target.modules, path):
            return False
        # which computes with the weight of its output, and does not call that layer
        return not isinstance(self._target.modules.get(outer(path)), nn.MultiheadAttention)

    def _no_place(self, name: str, slot: Slot, size: Size) -> str:
        module = type(slot.module).__name__
        if leads_out(size):
            return (
                f"{name}: it leads out, and no module of its own multiplies with it when it is called, but {module}; "
                "put it into an nn.Linear, or give it another class with roles="
            )
        return f"{name}: its module {module} does more than multiply by it when it is called; pass multipliers=False"

    # -- residual branches

    def branches(self) -> Iterator[Multiplier]:
        """The ends of residual branches: attention outputs and MLP down projections, or the norms after them."""
        rule = self._scheme.branch if self._depth is None else self._depth.branch
        factors = {name: factor for name, size in self._classes.items() if (factor := rule(size)) != 1}
        self._check_stacks(factors)
        if not factors:
            return
        found = [*self._transformer(factors)] or [*self._convolutional(factors)]
        if not found:
            self.problems.append(
                "residual branches: no end of a branch to multiply is found (docs/roles.md: attention outputs "
                "and MLP down projections; residual blocks of convolutions)"
            )
        self._check_blocks(factors, found)
        yield from found

    def _check_stacks(self, factors: Mapping[str, float]) -> None:
        """DeepNorm has other exponents where a decoder attends to an encoder."""
        places = (self._target.places.get(name) for name in factors)
        stacks = {place.stack.rpartition(".")[2].lower() for place in places if place is not None}
        sides = [side for side in ("enc", "dec") if any(each.startswith(side) for each in stacks)]
        if self._depth is DEPTH_RULES["deepnorm"] and len(sides) > 1:
            self.problems.append(
                "residual branches: DeepNorm of an encoder with a decoder depends on the layers of both; use "
                'init="deepnorm" without depth='
            )

    def _transformer(self, factors: Mapping[str, float]) -> Iterator[Multiplier]:
        seen: set[str] = set()
        for name, factor in factors.items():
            slot, place = self._target.slots[name][0], self._target.places.get(name)
            if self._target.role(name) not in RESIDUAL_ROLES or slot.kind is not Kind.WEIGHT:
                continue
            if place is None or place.branches is None:  # a plain network may have names as those of an MLP
                continue
            path = module_of(name, slot.local_name)
            if isinstance(self._target.modules.get(outer(path)), nn.MultiheadAttention):  # does not call it
                path = outer(path)
                parameters: tuple[str, ...] = (name, bias_of(name))
            else:
                path, parameters = self._after(path, name)
            if multiplied_by(self._target.modules, path) or self._has_norm(path, name):
                self.problems.append(
                    f"residual branches: {name} ends one, and {type(slot.module).__name__} does not return the branch "
                    "alone; put it into an nn.Linear and call it"
                )
                continue
            if path not in seen:
                seen.add(path)
                known = tuple(each for each in parameters if each in self._target.slots)
                yield Multiplier(module=path, where=Where.BRANCH, factor=factor, parameters=known)

    def _has_norm(self, path: str, name: str) -> bool:
        """Whether the module that holds the end of a branch has norms too, as where it adds the residual stream."""
        inside = (each for each in self._target.slots if each.startswith(f"{path}.") and each != name)
        return any(self._target.slots[each][0].kind is Kind.NORM_SCALE and outer(each) != path for each in inside)

    def _after(self, path: str, name: str) -> tuple[str, tuple[str, ...]]:
        """What ends the branch: the layer, or the norm between it and the residual stream."""
        wanted = _AFTER_MLP if self._target.role(name) is Role.MLP_DOWN else _AFTER_ATTENTION
        around = outer(path)
        while around:
            children = self._target.modules[around]._modules if around in self._target.modules else {}
            if any(map(_AFTER_MLP.fullmatch, children)):
                norm = next(filter(wanted.fullmatch, children), None)
                if norm is not None:
                    inside = f"{around}.{norm}"
                    return inside, tuple(each for each in self._target.slots if outer(each) == inside)
                break
            if around.rpartition(".")[2].isdecimal():
                break
            around = outer(around)
        slot = self._target.slots[name][0]
        alone = {local for local, each in slot.module._parameters.items() if each is not None} <= {
            slot.local_name,
            "bias",
        }
        whole = whole_layer(path)
        return whole, () if whole != path else (name, bias_of(name)) if alone else (name,)

    def _convolutional(self, factors: Mapping[str, float]) -> Iterator[Multiplier]:
        names = {id(module): name for name, module in self._target.modules.items()}
        for block, layers in residual_branches(self._target.model)[0].items():
            norm = last_norm(self._target.modules[block]) if convolves(layers[-1]) else None
            end = norm or layers[-1]
            path = names[id(end)]
            own = tuple(name for name in self._target.slots if outer(name) == path)
            factor = next((factors[name] for name in own if name in factors), 1.0)
            yield Multiplier(module=path, where=Where.BRANCH, factor=factor, parameters=own)

    def _check_branches(self, factors: Mapping[str, float], found: list[Multiplier]) -> None:
        """No part of a block may have weights without a role, and no end, as a state space beside attentions."""
        parts: dict[str, list[str]] = {}
        for name in factors:
            place, slot = self._target.places.get(name), self._target.slots[name][0]
            if place is not None and place.branches is not None and slot.kind is Kind.WEIGHT and len(slot.shape) > 1:
                parts.setdefault(_part(name), []).append(name)
        odd = [
            part
            for part, names in parts.items()
            if not _BESIDE.search(part)
            and not any(f"{each.module}.".startswith(f"{part}.") for each in found)
            and not any(self._target.role(name) in RESIDUAL_ROLES for name in names)
            and any(self._target.role(name) is None for name in names)
        ]
        if odd:
            self.problems.append(
                f"residual branches: no end of one is found in {', '.join(odd[:3])}, by the names of its layers "
                "(docs/roles.md: attention outputs and MLP down projections)"
            )

    def _check_blocks(self, factors: Mapping[str, float], found: list[Multiplier]) -> None:
        """Each block that is counted must have an end that is multiplied."""
        ends: dict[tuple[str, int], int] = {}
        for name in factors:
            place = self._target.places.get(name)
            if place is not None and place.branches is not None and place.layer is not None:
                key = (place.stack, place.layer)
                ends.setdefault(key, 0)
                path = name
                while path:
                    path = outer(path)
                    ends[key] += any(each.module == path for each in found)
        self._check_branches(factors, found)
        without = [f"layer {layer}{f' of {stack}' if stack else ''}" for (stack, layer), n in ends.items() if not n]
        if found and without:
            self.problems.append(f"residual branches: no end of a branch is found in {', '.join(without[:5])}")


def _part(name: str) -> str:
    """The part of a block that a parameter lies in: the module below the last list around it that is no expert's."""
    parts = name.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal() and not EXPERTS.search(parts[place - 1])]
    return ".".join(parts[: numbers[0] + 2 if numbers else 1])


def _as_readout(table: Size) -> Size:
    """The size of a table as a read-out that is tied to it: from its width to its rows."""
    base, target = (
        None if fans is None else Fans(fan_in=fans.fan_out, fan_out=fans.fan_in) for fans in (table.base, table.target)
    )
    role = Role.READOUT
    return replace(table, group=Class.OUTPUT, role=role, width_in=table.width_out, base=base, target=target)


def check_head_dim(given: object) -> tuple[int, int] | None:
    """Two whole numbers above 0, or ``None``; ``SpecError`` otherwise."""
    if given is None:
        return None
    pair = given if isinstance(given, tuple | list) and len(given) == 2 else ()
    sizes = [number for number in map(positive, pair) if number is not None]
    if len(sizes) != 2:
        raise SpecError(f"head_dim must be the sizes of a head in base and target, as (64, 128), got {shown(given)}")
    return sizes[0], sizes[1]
