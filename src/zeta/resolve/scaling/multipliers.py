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
from zeta.fans import Fans, axes_of
from zeta.recipes.residual import last_norm, residual_branches
from zeta.resolve.scaling.built import Built
from zeta.resolve.scaling.heads import HEAD_SIZE, HEADS, modules_around, positive
from zeta.resolve.scaling.schemes import Class, DepthRule, Scheme, Size, leads_out
from zeta.resolve.scaling.trials import Sizes
from zeta.resolve.slots import Slot
from zeta.rules import Kind, Role
from zeta.rules.match import RESIDUAL_ROLES
from zeta.rules.role_names import plain

_SCALES: Final = ("scaling", "scale", "softmax_scale")
_QUERY_NORM: Final = re.compile(r"(?i)(q|query)_?(layer_?)?_?norm|norm_?(q|query)|q_?ln|ln_?q")
#: norms at the end of a branch, where the one of the MLP says that there are such
_AFTER_MLP: Final = re.compile(r"(?i)post_?(feed_?forward|mlp|ffn?)_?(layer_?)?norm")
_AFTER_ATTENTION: Final = re.compile(r"(?i)post_?(self_?)?att(n|ention)_?(layer_?)?norm")


class Where(StrEnum):
    """What is multiplied."""

    READOUT = "readout"  # the input of a module that leads out
    WEIGHT = "weight"  # the input of another module
    BRANCH = "branch"  # the output of a module, which a residual stream gets
    ATTENTION = "attention"  # the queries, or the part of an output that has them


#: what multiplies the input of a module
INPUTS: Final = (Where.READOUT, Where.WEIGHT)


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
    search = _Search(sizes, classes, scheme, depth, head_dim, absorb=absorb)
    found = [*search.inputs(), *search.branches()]
    if attention and scheme.attention:
        found += search.queries()
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
        head_dim: tuple[int, int] | None,
        *,
        absorb: bool,
    ) -> None:
        self._sizes, self._classes = sizes, classes
        self._target = sizes.target
        self._scheme, self._depth, self._head_dim, self._absorb = scheme, depth, head_dim, absorb
        self.problems: list[str] = []

    # -- inputs of weights

    def inputs(self) -> Iterator[Multiplier]:
        """The input of what leads out, and of what else the scheme says, also if it is tied; biases are apart."""
        for name, size in self._classes.items():
            group = self._target.slots[name]
            tables = [slot for slot in group if slot.kind is Kind.EMBEDDING]
            tied = len(group) > 1 and bool(tables)
            if tied and size.group is not Class.OUTPUT:
                size = _as_readout(size)
            factor = self._scheme.inputs(size)
            slots = [slot for slot in group if slot not in tables] if tied else group[: 1 if self._absorb else None]
            for slot in {id(slot.module): slot for slot in slots}.values() if factor != 1 else ():
                if slot.kind is Kind.BIAS:
                    continue
                if not self._absorb and not self._is_map(slot):
                    self.problems.append(self._no_place(name, slot, size))
                    continue
                yield Multiplier(
                    module=_module_of(slot.name, slot.local_name),
                    where=Where.READOUT if leads_out(size) else Where.WEIGHT,
                    factor=factor,
                    parameters=() if tied else (name,),
                )

    def _is_map(self, slot: Slot) -> bool:
        """Whether a module multiplies its input by a weight, and may add a bias, and does nothing else."""
        own = {local for local, each in slot.module._parameters.items() if each is not None}
        outer = self._target.modules.get(_outer(_module_of(slot.name, slot.local_name)))
        # which computes with the weight of its output, and does not call that layer
        inside = isinstance(outer, nn.MultiheadAttention)
        return not (own - {slot.local_name, "bias"} or any(True for child in slot.module.children()) or inside)

    def _no_place(self, name: str, slot: Slot, size: Size) -> str:
        module = type(slot.module).__name__
        if leads_out(size):
            return (
                f"{name}: it leads out, and its module {module} does more than that; put it into an nn.Linear, or give "
                "it another class with roles="
            )
        return f"{name}: its module {module} does more than multiply by it; pass multipliers=False"

    # -- residual branches

    def branches(self) -> Iterator[Multiplier]:
        """The ends of residual branches: attention outputs and MLP down projections, or the norms after them."""
        rule = self._scheme.branch if self._depth is None else self._depth.branch
        factors = {name: factor for name, size in self._classes.items() if (factor := rule(size)) != 1}
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

    def _transformer(self, factors: Mapping[str, float]) -> Iterator[Multiplier]:
        seen: set[str] = set()
        for name, factor in factors.items():
            slot, place = self._target.slots[name][0], self._target.places.get(name)
            if self._target.role(name) not in RESIDUAL_ROLES or slot.kind is not Kind.WEIGHT:
                continue
            if place is None or place.branches is None:  # a plain network may have names as those of an MLP
                continue
            path = _module_of(name, slot.local_name)
            outer = self._target.modules.get(_outer(path))
            if isinstance(outer, nn.MultiheadAttention):  # computes with the weight, and does not call the layer
                path = _outer(path)
                parameters: tuple[str, ...] = (name, _bias_of(name))
            else:
                path, parameters = self._after(path, name)
            if path not in seen:
                seen.add(path)
                known = tuple(each for each in parameters if each in self._target.slots)
                yield Multiplier(module=path, where=Where.BRANCH, factor=factor, parameters=known)

    def _after(self, path: str, name: str) -> tuple[str, tuple[str, ...]]:
        """What ends the branch: the layer, or the norm between it and the residual stream."""
        wanted = _AFTER_MLP if self._target.role(name) is Role.MLP_DOWN else _AFTER_ATTENTION
        around = _outer(path)
        while around:
            children = self._target.modules[around]._modules if around in self._target.modules else {}
            if any(map(_AFTER_MLP.fullmatch, children)):
                norm = next(filter(wanted.fullmatch, children), None)
                if norm is not None:
                    inside = f"{around}.{norm}"
                    return inside, tuple(each for each in self._target.slots if _outer(each) == inside)
                break
            if around.rpartition(".")[2].isdecimal():
                break
            around = _outer(around)
        slot = self._target.slots[name][0]
        alone = {local for local, each in slot.module._parameters.items() if each is not None} <= {
            slot.local_name,
            "bias",
        }
        return path, (name, _bias_of(name)) if alone else (name,)

    def _convolutional(self, factors: Mapping[str, float]) -> Iterator[Multiplier]:
        names = {id(module): name for name, module in self._target.modules.items()}
        for block, layers in residual_branches(self._target.model)[0].items():
            end = last_norm(self._target.modules[block]) or layers[-1]
            path = names[id(end)]
            own = tuple(name for name in self._target.slots if _outer(name) == path)
            factor = next((factors[name] for name in own if name in factors), 1.0)
            yield Multiplier(module=path, where=Where.BRANCH, factor=factor, parameters=own)

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
                    path = _outer(path)
                    ends[key] += any(each.module == path for each in found)
        without = [f"layer {layer}{f' of {stack}' if stack else ''}" for (stack, layer), n in ends.items() if not n]
        if found and without:
            self.problems.append(f"residual branches: no end of a branch is found in {', '.join(without[:5])}")

    # -- attention

    def queries(self) -> Iterator[Multiplier]:
        """The queries of each attention whose heads grow, times what turns 1/sqrt(d) into sqrt(d_base)/d."""
        by_attention: dict[str, str] = {}
        for name, group in self._target.slots.items():
            kind = group[0].kind
            if self._target.role(name) in (Role.QUERY, Role.QUERY_KEY_VALUE) and kind is Kind.WEIGHT:
                by_attention[_outer(_module_of(name, group[0].local_name))] = name  # of several, the last
        for around, name in by_attention.items():
            if self._classes[name].group is Class.FIXED and self._scheme.unit is None:
                continue
            local = plain(_module_of(name, self._target.slots[name][0].local_name).rpartition(".")[2])
            packed = self._target.role(name) is Role.QUERY_KEY_VALUE
            if packed and re.search("kv|key_value", local) and "q" not in local:
                continue
            if (factor := self._of_heads(name)) not in (None, 1.0):
                assert factor is not None
                yield from self._at_query(around, name, factor)

    def _of_heads(self, name: str) -> float | None:
        """What to multiply queries by; ``None`` after noting that it does not follow."""
        sizes, absolute = self._head_dim, self._scheme.unit is not None
        source = self._sizes.source[name].name
        models = (self._sizes.base, source), (self._target, name)
        if sizes is None:
            found = [_head_size(model, each) for model, each in models]
            if None in found:
                if self._classes[name].width_out == 1 and not absolute:
                    return 1.0
                self.problems.append(
                    f"{name}: the size of its heads does not follow from an attribute of the attention "
                    f"({HEAD_SIZE[0]}, {HEADS[0]}, ...); give head_dim=(base, target), or attention=False if it does "
                    "not grow, or if the model divides by it"
                )
                return None
            sizes = found[0], found[1]  # type: ignore[assignment]
        assert sizes is not None
        base, target = sizes
        own = [_own_scale(model, each) for model, each in models]
        if absolute:
            return 1 / target / (own[1] or target**-0.5)
        if base == target:
            return 1.0
        divided = own[1] / own[0] if own[0] and own[1] else (base / target) ** 0.5
        factor = base / target / divided
        return 1.0 if abs(factor - 1) < 1e-9 else factor

    def _at_query(self, around: str, name: str, factor: float) -> Iterator[Multiplier]:
        slot = self._target.slots[name][0]
        if isinstance(slot.module, nn.MultiheadAttention):
            self.problems.append(
                f"{name}: its heads grow, and nn.MultiheadAttention divides by their square root inside of torch; let "
                "the number of heads grow instead, or pass attention=False"
            )
            return
        holder = self._target.modules[around]
        norm = next((child for child in holder._modules if _QUERY_NORM.fullmatch(child)), None)
        if norm is not None:
            path = f"{around}.{norm}" if around else norm
            yield Multiplier(module=path, where=Where.ATTENTION, factor=factor)
            return
        path, end = _module_of(name, slot.local_name), None
        parameters = tuple(each for each in (name, _bias_of(name)) if each in self._target.slots)
        if self._target.role(name) is Role.QUERY_KEY_VALUE:
            parameters = ()
            end = self._packed_queries(name)
            if end is None:
                return
        yield Multiplier(module=path, where=Where.ATTENTION, factor=factor, end=end, parameters=parameters)

    def _packed_queries(self, name: str) -> int | None:
        """How many outputs of a packed projection are queries; they come first."""
        slot, size = self._target.slots[name][0], self._classes[name]
        local = _module_of(name, slot.local_name).rpartition(".")[2]
        fans = size.target
        triple = () if fans is None else (3 * fans.fan_in, 3 * fans.fan_out)
        packed = [extent for extent in slot.shape if extent in triple]
        if "query_key_value" in local or not packed:
            self.problems.append(
                f"{name}: its queries are multiplied, and which of its outputs they are does not follow; use separate "
                "projections, or pass attention=False"
            )
            return None
        return packed[0] // 3


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


def _head_size(model: Built, name: str) -> int | None:
    slot = model.slots[name][0]
    for module in modules_around(model.modules, _module_of(name, model.slots[name][0].local_name)):
        for attribute in HEAD_SIZE:
            if (size := positive(getattr(module, attribute, None))) is not None:
                return size
        for attribute in HEADS:
            heads = positive(getattr(module, attribute, None))
            if heads is not None:
                width = positive(getattr(module, "embed_dim", None)) or min(slot.shape)
                rows = width if model.role(name) is Role.QUERY_KEY_VALUE else _outputs(model, name)
                return rows // heads if rows % heads == 0 else None
    return None


def _outputs(model: Built, name: str) -> int:
    slot = model.slots[name][0]
    return int(axes_of(slot.module, slot.local_name, slot.shape).fans(slot.shape).fan_out)


def _own_scale(model: Built, name: str) -> float | None:
    """The number that an attention of transformers multiplies scores by, if it has one."""
    for module in modules_around(model.modules, _module_of(name, model.slots[name][0].local_name)):
        for attribute in _SCALES:
            found = getattr(module, attribute, None)
            if isinstance(found, float) and found > 0:
                return found
    return None


def _module_of(name: str, local: str) -> str:
    return name.removesuffix(local).removesuffix(".")


def _outer(path: str) -> str:
    return path.rpartition(".")[0]


def _bias_of(name: str) -> str:
    return re.sub("weight$", "bias", name)
