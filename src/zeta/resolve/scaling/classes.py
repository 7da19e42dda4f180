"""The class of each parameter, and by which factors its fans grow: from its axes, its shapes and its role."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from torch import nn

from zeta.base.reading import shown
from zeta.base.text import shape_text
from zeta.base.usage import uses
from zeta.errors import FanError, PlanError, SpecError, listed
from zeta.fans import Axes, Fans, known_axes
from zeta.resolve.scaling.alignment import Aligned
from zeta.resolve.scaling.built import Sized, sized
from zeta.resolve.scaling.schemes import Class, Size
from zeta.resolve.scaling.sources import multiplied_by
from zeta.resolve.slots import Slot
from zeta.rules import Kind, Role
from zeta.rules import role_names as names
from zeta.rules.globs import glob_matcher
from zeta.rules.missing import missing

Classes = Mapping[str, str]

#: what leads out of the network
_OUT: Final = (Role.READOUT, Role.ROUTER)
#: what lies inside of it, whatever its widths
_INSIDE: Final = (
    Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_KEY_VALUE, Role.ATTENTION_OUTPUT, Role.MLP_UP, Role.MLP_GATE,
    Role.MLP_GATE_UP, Role.MLP_DOWN, Role.ADAPTER_A, Role.ADAPTER_B,
)  # fmt: skip
#: what has a row for each position, offset or token
_TABLES: Final = (Role.POSITION, Role.RELATIVE_POSITION, Role.CLASS_TOKEN)
_SAY: Final = 'say it as roles={"glob": "hidden"}'


class Compared(Struct, frozen=True, kw_only=True, eq=False):
    """The models that are compared: the base, the target, and one of the base's widths and the target's depth.

    ``source`` has the base's name of each parameter of the target.
    """

    base: Sized
    reference: Sized
    target: Sized
    source: Mapping[str, Aligned]


class UnclearError(Exception):
    """The class of a parameter does not follow; the message has the candidates."""


def classified(sizes: Compared, roles: Classes | None) -> dict[str, Size]:
    """The class and the growth of each parameter of the target, by its name.

    Raises:
        SpecError: ``roles`` names no class, or no parameter.
        PlanError: the class of a parameter does not follow; all of them are listed, with the candidates.
    """
    given = _given(roles, sizes.target)
    branches = _branches(sizes.target)
    found: dict[str, Size] = {}
    problems: list[str] = []
    for name in sizes.target.slots:
        try:
            found[name] = _size(sizes, name, given.get(name), branches)
        except UnclearError as error:
            shape = shape_text(sizes.target.shapes[name])
            problems.append(f"{name} ({shape_text(sizes.reference.shapes[name])} becomes {shape}): {error}")
    if problems:
        raise PlanError(listed(f"the class of these parameters does not follow; {_SAY}:", problems))
    return found


def classes_over_width(small: nn.Module, large: nn.Module) -> dict[str, Class]:
    """The class of each parameter that two models of different widths have in common, where it follows."""
    base, target = sized(small), sized(large)
    before, after = base.shapes, target.shapes
    common = [name for name in after if name in before and len(before[name]) == len(after[name])]
    base, target = (replace(each, slots={name: each.slots[name] for name in common}) for each in (base, target))
    sizes = Compared(base=base, reference=base, target=target, source={name: Aligned(name) for name in common})
    branches = _branches(target)
    found: dict[str, Class] = {}
    for name in common:
        with contextlib.suppress(UnclearError):
            found[name] = _size(sizes, name, None, branches).group
    return found


def _given(roles: Classes | None, target: Sized) -> dict[str, Class]:
    """The classes that ``roles`` gives, by name of the parameter; the first glob that matches wins."""
    if roles is None:
        return {}
    if not isinstance(roles, Mapping):
        raise SpecError(f'roles must be a mapping of globs to classes, as {{"head.*": "output"}}, got {shown(roles)}')
    names = {slot.name for group in target.slots.values() for slot in group}
    tests: list[tuple[Callable[[str], bool], Class]] = []
    for glob, wanted in roles.items():
        if wanted not in [*Class]:
            raise SpecError(f"roles: the class of {shown(glob)} must be one of {', '.join(Class)}, got {shown(wanted)}")
        if not isinstance(glob, str):
            raise SpecError(f"roles: expected a glob of names, got {shown(glob)}")
        if absent := [*missing(glob, names)] or ([] if any(map(glob_matcher(glob), names)) else [glob]):
            raise SpecError(listed("roles names what the model does not have:", absent))
        tests.append((glob_matcher(glob), Class(wanted)))
    return {
        name: said
        for name, group in target.slots.items()
        if (said := next((said for test, said in tests if any(test(slot.name) for slot in group)), None)) is not None
    }


def _size(sizes: Compared, name: str, said: Class | None, branches: Mapping[str, int]) -> Size:
    before, after = sizes.reference.slots[name], sizes.target.slots[name]
    role = sizes.target.role(name)
    old, new = _axes(before[0]), _axes(after[0])
    fans: tuple[Fans | None, Fans | None] = (None, None)
    table = _is_table(sizes, name, role)
    if old is None or new is None or said in (Class.VECTOR, Class.FIXED) or table or _is_elementwise(sizes, name):
        group, into, out = _by_shape(sizes, name, role, said, table=table)
        if table and group not in (Class.VECTOR, said):
            fans = _row_fans(sizes, name)
    else:
        small, large = old.fans(before[0].shape), new.fans(after[0].shape)
        fans = small, large
        into, out = large.fan_in / max(small.fan_in, 1), large.fan_out / max(small.fan_out, 1)
        tied = len(after) > 1 and any(slot.kind is Kind.EMBEDDING for slot in after)
        if said is None and not tied and out > 1:
            _check_not_multiplied(sizes, after)
        group = said or (Class.INPUT if tied and out > 1 else _by_fans(sizes, name, role, into, out, new))
        if group is Class.VECTOR:  # of a depthwise convolution, the maps grow, and not their fans
            out = _most_growth(before[0].shape, after[0].shape)
        if group is Class.FIXED:
            into = out = 1.0
    return Size(
        group=group,
        width_in=float(into),
        width_out=float(out),
        depth=_depth(sizes, name),
        layers=_layers(sizes.target, name),
        role=role,
        base=fans[0],
        target=fans[1],
        branch=branches.get(after[0].name, 2),
    )


def _is_elementwise(sizes: Compared, name: str) -> bool:
    """Whether a tensor is no map: a bias, or one of which one dimension grows, as states do, or what is only added."""
    slot = sizes.target.slots[name][0]
    if slot.kind is Kind.BIAS:
        return True
    if slot.kind not in (Kind.OTHER, Kind.WEIGHT) or len(_grown(sizes, name)) != 1:
        return False
    return slot.kind is Kind.OTHER or _is_added(slot)


def _is_added(slot: Slot) -> bool:
    """Whether a tensor is a bias, by its name or as ``forward`` adds it, and no product has it as a matrix."""
    if slot.local_name == "weight":
        return False
    use = uses(slot.module, slot.local_name, len(slot.shape))
    return not use.products and ("bias" in slot.local_name or (use.adds and not use.lost))


def _is_table(sizes: Compared, name: str, role: Role | None) -> bool:
    """Whether a tensor has rows of positions or words, but not as a layer of torch, or of tokens that are learned."""
    slot = sizes.target.slots[name][0]
    if slot.kind not in (Kind.OTHER, Kind.WEIGHT) or role is not None or not names.LEARNED.fullmatch(slot.local_name):
        return slot.kind is not Kind.EMBEDDING and role in (*_TABLES, Role.EMBEDDING)
    grown = _grown(sizes, name)
    last = [dim for dim, extent in enumerate(slot.shape) if extent != 1 or dim in grown][-1:]
    return grown == last and not uses(slot.module, slot.local_name, len(slot.shape)).products


def _grown(sizes: Compared, name: str) -> list[int]:
    """The dimensions that grow."""
    pairs = zip(sizes.reference.shapes[name], sizes.target.shapes[name], strict=True)
    return [dim for dim, (old, new) in enumerate(pairs) if old != new]


def _axes(slot: Slot) -> Axes | None:
    try:
        return known_axes(slot.module, slot.local_name, slot.shape)
    except FanError:  # a registered function refuses
        return None


def _by_fans(sizes: Compared, name: str, role: Role | None, into: float, out: float, axes: Axes) -> Class:
    if role in _OUT and (out == 1 or role is Role.ROUTER or _leads_out(sizes, name, axes.fan_out)):
        return Class.OUTPUT if into > 1 else Class.FIXED
    if into > 1 and out > 1:
        return Class.HIDDEN
    if out > 1:
        return Class.INPUT
    if into > 1:
        place = sizes.target.places.get(name)
        if role in _INSIDE or (place is not None and place.branches is not None):
            return Class.HIDDEN
        raise UnclearError("it sums over a width, and leads to a fixed size: hidden, if that lies inside, or output")
    apart = {dim for dim, _ in axes.blocks}
    if role is None:  # a map for each head, and not for each expert
        apart |= {*axes.batch}
    return Class.VECTOR if apart.intersection(_grown(sizes, name)) else Class.FIXED


def _check_not_multiplied(sizes: Compared, table: Sequence[Slot]) -> None:
    """Raise ``UnclearError`` for a table that is used as a read-out too, without a module whose input is multiplied."""
    if any(slot.kind is Kind.EMBEDDING for slot in table):
        path = table[0].name.removesuffix(table[0].local_name).removesuffix(".")
        if path and (by := multiplied_by(sizes.target.modules, path)) is not None:
            raise UnclearError(
                f"{by} also multiplies with it, as with a read-out, and no module's input could be scaled there; "
                "tie an nn.Linear to it and call that, or give it the class input if this is no read-out"
            )


def _leads_out(sizes: Compared, name: str, dims: Iterable[int]) -> bool:
    """Whether the outputs of a read-out grow as no width does: as rows of a table, or as only read-outs do."""
    before, after = sizes.reference.shapes[name], sizes.target.shapes[name]
    grown = {(before[dim], after[dim]) for dim in dims if before[dim] != after[dim]}
    return bool(grown & _rows(sizes)) or not grown & _widths(sizes)


def _rows(sizes: Compared) -> set[tuple[int, int]]:
    """The sizes in base and target of the rows of embeddings."""
    return {
        (group[0].shape[0], sizes.target.slots[each][0].shape[0])
        for each, group in sizes.reference.slots.items()
        if group[0].kind is Kind.EMBEDDING and len(group[0].shape) == 2
    }


def _widths(sizes: Compared) -> set[tuple[int, int]]:
    """The sizes in base and target of dimensions that grow, of all but read-outs, positions and rows of embeddings."""
    found: set[tuple[int, int]] = set()
    for name, group in sizes.reference.slots.items():
        if sizes.target.role(name) in (*_OUT, Role.POSITION):
            continue
        pairs = [*zip(group[0].shape, sizes.target.shapes[name], strict=True)]
        found |= {(old, new) for old, new in pairs[group[0].kind is Kind.EMBEDDING :] if old != new}
    return found


def _by_shape(
    sizes: Compared, name: str, role: Role | None, said: Class | None, *, table: bool
) -> tuple[Class, float, float]:
    """The class, and how fan_in and fan_out grow, of a parameter without axes, such as a bias."""
    before, after = sizes.reference.shapes[name], sizes.target.shapes[name]
    grown = [(old, new) for old, new in zip(before, after, strict=True) if new != old and old]
    if role is Role.POSITION:  # more positions are no width
        widths = _widths(sizes)
        grown = [pair for pair in grown if pair in widths]
    ratios = [new / old for old, new in grown]
    most = max(ratios, default=1.0)
    if said not in (None, Class.FIXED) and len({*ratios}) > 1:
        raise UnclearError("its dimensions grow differently; zeta.register_fans says which of them are in and out")
    if said in (Class.INPUT, Class.VECTOR):
        return said, 1.0, most
    if said in (Class.HIDDEN, Class.OUTPUT):
        return said, most, most if said is Class.HIDDEN and len(ratios) > 1 else 1.0
    if not ratios or said is Class.FIXED or (role in _OUT and _leads_out(sizes, name, range(len(after)))):
        return Class.FIXED, 1.0, 1.0
    slot = sizes.target.slots[name][0]
    spread = sum(extent != 1 for extent in after)
    known = table or slot.kind is not Kind.WEIGHT or role is not None or _is_added(slot)
    if len(ratios) == 1 and (spread <= 1 or known):
        return Class.INPUT if table else Class.VECTOR, 1.0, most
    if slot.kind in (Kind.BIAS, Kind.NORM_SCALE):  # of stacked maps, or spread out
        return Class.VECTOR, 1.0, most
    raise UnclearError(
        f"it is not known which of its dimensions are in and out: {', '.join(Class)}; or zeta.register_fans says it"
    )


def _row_fans(sizes: Compared, name: str) -> tuple[Fans, Fans]:
    """Those of a table without axes, as a parameter of positions: of one row, whose elements grow or come last."""
    before, after = sizes.reference.shapes[name], sizes.target.shapes[name]
    dim = next((dim for dim, (old, new) in enumerate(zip(before, after, strict=True)) if new != old), -1)
    return Fans(fan_in=1, fan_out=before[dim]), Fans(fan_in=1, fan_out=after[dim])


def _most_growth(before: Sequence[int], after: Sequence[int]) -> float:
    return max((new / old for old, new in zip(before, after, strict=True) if old), default=1.0)


def _depth(sizes: Compared, name: str) -> float:
    """The ratio of the layers of the stack that a parameter lies in, as blocks count them, or as lists do."""
    source = sizes.source[name]
    here, there = sizes.target.places.get(name), sizes.base.places.get(source.name)
    if here is not None and there is not None and here.branches is not None and here.depth and there.depth:
        return here.depth / there.depth
    return source.depth


def _layers(target: Sized, name: str) -> int:
    """The number of layers of the stack of residual branches that a parameter lies in; 1 outside of any, 0 unknown."""
    place = target.places.get(name)
    return 1 if place is None or place.branches is None else place.depth or 0


def _branches(target: Sized) -> dict[str, int]:
    """By name of a weight in a block, the number of layers in its residual branch: those of the module around them."""
    around: dict[str, list[str]] = {}
    for name, group in target.slots.items():
        place = target.places.get(name)
        if group[0].kind is Kind.WEIGHT and place is not None and place.branches is not None:
            around.setdefault(name.rpartition(".")[0].rpartition(".")[0], []).append(name)
    return {name: len(names) for names in around.values() for name in names}
