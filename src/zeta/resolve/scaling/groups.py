"""Groups of an optimizer: each trainable parameter of a model in exactly one, with its rate, decay and eps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace
from torch import nn

from zeta.base.modules import check_module, named_parameters_of
from zeta.base.parametrizations import originals
from zeta.base.reading import shown
from zeta.base.text import number_text
from zeta.errors import PlanError, SpecError, listed
from zeta.resolve.scaling.heads import Division, UnknownBlocksError, division, is_packed
from zeta.resolve.scaling.schemes import Class
from zeta.resolve.scaling.table import ADJUSTMENTS, WITH_EPS, Rates, Scaled, ScalingTable, check_optimizer
from zeta.resolve.slots import Slot, named_modules, walk
from zeta.rules import Kind, Role

#: what weight decay may leave out
NO_DECAY: Final = ("norm", "bias", "embedding")
#: what becomes of a packed weight under Muon
PACKED: Final = ("whole", "blocks", "heads", "adamw")
_DIVIDING: Final = ("blocks", "heads")
#: torch's default of Adam and AdamW
_EPS: Final = 1e-8


def param_groups(
    scaling: ScalingTable,
    model: nn.Module,
    optimizer: str,
    *,
    lr: float,
    weight_decay: float,
    eps: float | None,
    no_decay: Iterable[str],
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    """The groups, in the order of their first parameter; see :meth:`zeta.scaling.Scaling.param_groups`."""
    optimizer = check_optimizer(optimizer)
    check_module(model)
    groups = _groups(scaling, _rows(scaling, model), optimizer, lr, weight_decay, eps, no_decay, options)
    _check_all(model, groups)
    return groups


def muon_groups(
    scaling: ScalingTable,
    model: nn.Module,
    *,
    lr: float,
    adamw_lr: float,
    weight_decay: float,
    adamw_weight_decay: float,
    eps: float | None,
    no_decay: Iterable[str],
    betas: tuple[float, float],
    packed: str,
    adjust: str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups for Muon and for AdamW; see :meth:`zeta.scaling.Scaling.muon_groups`."""
    check_module(model)
    _check_muon(packed, adjust)
    rows = _rows(scaling, model)
    matrices = [(slot, row) for slot, row in rows if scaling.is_matrix(row) and slot.parametrization is None]
    if packed == "adamw":
        matrices = [(slot, row) for slot, row in matrices if not is_packed(slot, row.size.role, _blocks(scaling, row))]
    divided = _divided(scaling, model, matrices, by_heads=packed == "heads") if packed in _DIVIDING else {}
    taken = {id(slot.tensor) for slot, _ in matrices}
    rest = [(slot, row) for slot, row in rows if id(slot.tensor) not in taken]
    decays = {"lr": _number("lr", lr), "weight_decay": _number("weight_decay", weight_decay)}

    def of_matrix(slot: Slot, row: Scaled) -> _Group:
        parts = divided.get(row.name)
        numbers = scaling.muon_rates(row, adjust)
        options = {} if parts is None else parts.options
        return _Group(numbers, numbers.of(decays), "" if parts is None else f", {parts}", options)

    muon = _grouped(scaling, matrices, of_matrix)
    adamw = _groups(scaling, rest, "adamw", adamw_lr, adamw_weight_decay, eps, no_decay, {"betas": betas})
    _check_all(model, [*muon, *adamw])
    return muon, adamw


def _check_muon(packed: object, adjust: object) -> None:
    for name, given, allowed in (("packed", packed, PACKED), ("adjust", adjust, tuple(ADJUSTMENTS))):
        if not isinstance(given, str) or given not in allowed:
            raise SpecError(f"{name} must be one of {', '.join(allowed)}, got {shown(given)}")
    if packed in _DIVIDING and adjust != "spectral_norm":
        raise SpecError(
            f"packed={packed!r} is for a Muon that divides weights, and adjusts the rate of each part by "
            f'adjust="spectral_norm", as that of dion; got {adjust!r}. torch.optim.Muon takes weights as a whole'
        )


def _divided(
    scaling: ScalingTable, model: nn.Module, matrices: Sequence[tuple[Slot, Scaled]], *, by_heads: bool
) -> dict[str, Division]:
    """By name, how matrices are divided; ``PlanError`` where it does not follow, with all of them."""
    modules = named_modules(model)
    found: dict[str, Division] = {}
    problems: list[str] = []
    for slot, row in matrices:
        axes = scaling.plan[row.name].axes
        out = axes is not None and 0 in axes.fan_out
        blocks = _blocks(scaling, row)
        try:
            parts = division(modules, slot, row.size.role, blocks, by_heads=by_heads, rows_are_outputs=out)
        except UnknownBlocksError as error:
            problems.append(f"{slot.name} of shape {slot.shape}: {error}")
            continue
        if parts is not None:
            found[row.name] = parts
    if problems:
        raise PlanError(
            listed('it does not follow how Muon divides these; packed="adamw" leaves them to AdamW:', problems)
        )
    return found


def _blocks(scaling: ScalingTable, row: Scaled) -> tuple[tuple[int, int], ...]:
    axes = scaling.plan[row.name].axes
    return () if axes is None else axes.blocks


class _Group(NamedTuple):
    """What the group of a parameter has: factors, numbers, what its name ends with, and other options."""

    rates: Rates
    numbers: dict[str, float]
    called: str
    options: Mapping[str, Any]


def _groups(
    scaling: ScalingTable,
    rows: Sequence[tuple[Slot, Scaled]],
    optimizer: str,
    lr: float,
    weight_decay: float,
    eps: float | None,
    no_decay: Iterable[str],
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    base = base_numbers(optimizer, lr=lr, weight_decay=weight_decay, eps=eps)
    without = _no_decay(no_decay)

    def of(slot: Slot, row: Scaled) -> _Group:
        rates = scaling.rates(row, optimizer)
        decays = not any(_is(what, scaling, row, slot) for what in without)
        numbers = rates.of(base)
        if not decays:
            numbers["weight_decay"] = 0.0
        return _Group(rates, numbers, "" if decays else ", no decay", options)

    return _grouped(scaling, rows, of)


def _grouped(
    scaling: ScalingTable, rows: Sequence[tuple[Slot, Scaled]], group_of: Callable[[Slot, Scaled], _Group]
) -> list[dict[str, Any]]:
    """Groups of the rows that have the same class, numbers and options, in the order of their first parameter."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for slot, row in rows:
        for part in _tensors(slot):
            each = _of_part(row, slot, part, scaling)
            its = group_of(slot, each)
            key = each.size.group, its.called, *its.numbers.values()
            group = found.get(key)
            if group is None:
                called = f"{each.size.group.value}, lr x {number_text(its.rates.lr)}{its.called}"
                group = {"params": [], "name": _unused(called, found.values()), **its.numbers, **its.options}
                found[key] = group
            group["params"].append(part)
    return [*found.values()]


def _of_part(row: Scaled, slot: Slot, part: Any, scaling: ScalingTable) -> Scaled:
    """The row of an original of a parametrized weight: weight_norm's magnitudes are a vector, as a norm's scale."""
    shape = tuple(part.shape)
    long = [dim for dim, extent in enumerate(shape) if extent != 1]
    magnitudes = shape != tuple(slot.shape) and len(shape) == len(slot.shape) and len(long) == 1
    axes = scaling.plan[row.name].axes
    if row.size.group is not Class.HIDDEN or not magnitudes or axes is None:
        return row
    width = row.size.width_out if long[0] in axes.fan_out else row.size.width_in
    return replace(row, size=replace(row.size, group=Class.VECTOR, width_in=1.0, width_out=width))


def base_numbers(optimizer: str, *, lr: float, weight_decay: float, eps: float | None = None) -> dict[str, float]:
    """The numbers of a group at the base, by their names in torch's groups.

    Raises ``SpecError`` for a number that is not allowed, or ``eps`` of an optimizer that gets no factor of it.
    """
    found = {"lr": _number("lr", lr), "weight_decay": _number("weight_decay", weight_decay)}
    if optimizer in WITH_EPS:
        return {**found, "eps": _EPS if eps is None else _number("eps", eps)}
    if eps is not None:
        raise SpecError(
            f"eps= is for {', '.join(WITH_EPS)}; {optimizer} gets its own options as keywords, and no factor"
        )
    return found


def _rows(scaling: ScalingTable, model: nn.Module) -> list[tuple[Slot, Scaled]]:
    """Each trainable parameter once, and its row; ``PlanError`` for one without a row, or of another shape."""
    rows = {row.name: row for row in scaling.rows}
    known = {name: entry for entry in scaling.plan for name in (entry.name, *entry.ties)}
    seen: set[int] = set()
    found: list[tuple[Slot, Scaled]] = []
    problems: list[str] = []
    for slot in walk(model):
        if (
            slot.kind is Kind.BUFFER
            or id(slot.tensor) in seen
            or not any(each.requires_grad for each in _tensors(slot))
        ):
            continue
        seen.add(id(slot.tensor))
        entry = known.get(slot.name)
        if entry is None or entry.name not in rows:
            problems.append(f"{slot.name} of shape {slot.shape} has no row; freeze it, or build the target as it is")
        elif entry.shape != slot.shape:
            problems.append(f"{slot.name} has the shape {slot.shape}, and the target's has {entry.shape}")
        else:
            found.append((slot, rows[entry.name]))
    if problems:
        raise PlanError(listed("this scaling is not for this model:", problems))
    if not found:
        raise PlanError("no parameter of the model is trainable, so that there are no groups")
    return found


def _tensors(slot: Slot) -> list[Any]:
    """The parameters that make a weight: itself, or the originals of a parametrized one; the trainable ones."""
    parts = [slot.tensor] if slot.parametrization is None else originals(slot.parametrization)
    return [part for part in parts if isinstance(part, nn.Parameter) and part.requires_grad]


def _is(what: str, scaling: ScalingTable, row: Scaled, slot: Slot) -> bool:
    entry = scaling.plan[row.name]
    match what:
        case "norm":
            return entry.kind is Kind.NORM_SCALE
        case "bias":
            return entry.kind is Kind.BIAS
    return entry.kind is Kind.EMBEDDING or row.size.role in (Role.EMBEDDING, Role.POSITION, Role.CLASS_TOKEN)


def _check_all(model: nn.Module, groups: Sequence[dict[str, Any]]) -> None:
    """Raise ``PlanError`` if a trainable parameter is in no group, or in several."""
    counts: dict[int, int] = {}
    for group in groups:
        for parameter in group["params"]:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    wrong = [
        f"{name}: in {counts.get(id(parameter), 0)} groups"
        for name, parameter in named_parameters_of(model)
        if parameter.requires_grad and counts.get(id(parameter), 0) != 1
    ]
    if wrong:
        raise PlanError(listed("each trainable parameter must be in exactly one group; these are not:", wrong))


def _no_decay(given: Iterable[str]) -> tuple[str, ...]:
    kinds = (given,) if isinstance(given, str) else tuple(given)
    if any(kind not in NO_DECAY for kind in kinds):
        raise SpecError(f"no_decay must be some of {', '.join(NO_DECAY)}, got {shown(given)}")
    return kinds


def _number(name: str, given: object) -> float:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not math.isfinite(given) or given < 0:  # type: ignore[arg-type,operator]
        raise SpecError(f"{name} must be a finite number of at least 0, got {shown(given)}")
    return float(given)  # type: ignore[arg-type]


def _unused(name: str, groups: Iterable[dict[str, Any]]) -> str:
    taken = {group["name"] for group in groups}
    numbers = (f"{name} ({number})" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbers if each not in taken)
