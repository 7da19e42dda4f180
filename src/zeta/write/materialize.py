"""Allocate memory for a model on meta, and take it back if anything fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zeta.base.distributed import is_sharded, local
from zeta.base.modules import modules_of, named_buffers_of, named_parameters_of, parameters_of, tensors_of
from zeta.base.parametrizations import originals
from zeta.base.process.interrupts import insist
from zeta.base.tensors import Swaps, attributes, covered, extent, has_address, meets, with_memory
from zeta.errors import TargetError, listed
from zeta.resolve.casting import Casting
from zeta.resolve.fitting import Fit
from zeta.resolve.slots import Slot, without_value
from zeta.rules import Kind

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class _Twin:
    """A tensor on meta, and a real tensor to swap it with."""

    tensor: Tensor
    real: Tensor


def on_meta(fit: Fit) -> Fit:
    """The fit of the entries whose tensors have no memory yet; all others stay as they are.

    Raises ``TargetError`` for a parametrized weight of whose originals one has values, and a part has no memory.
    """
    left: set[str] = set()
    problems: list[str] = []
    for entry in fit.entries:
        slot = fit.slots[entry.name]
        first = [slot.tensor] if slot.parametrization is None else originals(slot.parametrization)
        if entry.kept or not any(map(_has_memory, first)):
            continue
        left.add(entry.name)
        stored = first if slot.parametrization is None else tensors_of(slot.parametrization)
        missing = sum(not _has_memory(tensor) for tensor in stored)
        if missing:
            problems.append(f"{entry.name}: {missing} of the tensors that make up this weight have no memory")
    if problems:
        advice = "load what is missing, or pass overwrite=True, which writes to all of it"
        raise TargetError(listed(f"only a part of these parametrized weights has values; {advice}:", problems))
    return fit.leaving(left)


def _has_memory(tensor: Tensor) -> bool:
    return not nn.parameter.is_lazy(tensor) and not tensor.is_meta and has_address(local(tensor))


def allocated(
    fit: Fit,
    write: Callable[[Fit], Result],
    *,
    device: torch.device | str,
    dtype: torch.dtype | None,
    cast_buffers: bool = False,
    given: Collection[str] = (),
) -> Result:
    """Allocate memory on ``device`` for every parameter and buffer on meta; if ``write`` fails, restore the model.

    With a selection, only for the tensors that are selected, and what shares memory with them. The tensors stay the
    same Python objects: names, ties, views of the same memory, ``requires_grad``, strides, class, attributes and hooks
    remain. ``write`` gets the fit of the plan after the cast to ``dtype``, and also gives values to what is ``given``.
    It is no context manager, as an interrupt
    in contextlib would leave the model restored at any later time.

    Raises ``TargetError`` for tensors that would get memory but no value: the plan keeps them, or does not have them.
    ``SpecError`` for a device or dtype that is not allowed.
    """
    place = with_memory(device)
    wanted: dict[int, torch.dtype] = {}
    found = fit
    if dtype is not None:
        found, casting = fit.cast(dtype, buffers=cast_buffers)
        wanted = dict.fromkeys(_cast(fit, casting), casting.dtype)
    everything = [*tensors_of(fit.model), *(tensor for _, tensor in attributes(fit.model))]
    if fit.selection is None:
        _check_values(fit, given)
    else:
        everything = _selected(fit, everything)
    twins = _twins(fit.model, everything, place, wanted)
    swaps = Swaps((twin.tensor, twin.real) for twin in twins)
    try:
        try:
            swaps.make()
            return write(found)
        except BaseException:
            insist(swaps.undo)
            raise
    except BaseException:
        insist(swaps.undo)
        raise


def _cast(fit: Fit, casting: Casting) -> Iterator[int]:
    """The ``id`` of each tensor whose dtype changes."""
    for entry in fit.plan:
        for slot in (fit.slots[name] for name in (entry.name, *entry.ties)):
            if casting.casts((entry.name, *entry.ties), entry.kind, slot.tensor.dtype):
                yield id(slot.tensor)
                if slot.parametrization is not None:
                    yield from (id(tensor) for tensor in parameters_of(slot.parametrization))


def _selected(fit: Fit, everything: list[Tensor]) -> list[Tensor]:
    """The tensors of the fit's entries, and those whose elements are all among theirs.

    Raises ``TargetError`` for an entry that the plan keeps, and for tensors of which a part is among theirs.
    """
    slots = [fit.slots[entry.name] for entry in fit.entries]
    unwritten = [e.name for e in fit.entries if (e.kept or e.section is not None) and fit.slots[e.name].tensor.is_meta]
    if unwritten:
        raise TargetError(listed("these are on meta, and the plan keeps some or all of their values:", unwritten))
    stored = [
        tensor
        for slot in slots
        for tensor in ([slot.tensor] if slot.parametrization is None else tensors_of(slot.parametrization))
    ]
    sharing: dict[object, list[Tensor]] = {}
    for tensor in stored:
        sharing.setdefault(_memory(tensor), []).append(tensor)
    found = [(tensor, sharing[_memory(tensor)]) for tensor in everything if _memory(tensor) in sharing]
    apart = [tensor for tensor, others in found if tensor.is_meta and not covered(tensor, others)]
    partly = {id(tensor) for tensor in apart if meets(tensor, sharing[_memory(tensor)])}
    problems = [
        f"{name} {tuple(tensor.shape)}"
        for name, tensor in (*named_parameters_of(fit.model), *named_buffers_of(fit.model), *attributes(fit.model))
        if id(tensor) in partly
    ]
    if problems:
        raise TargetError(
            listed(
                "only= selects a part of the memory of these, and the rest would have no value; select them:", problems
            )
        )
    left = {id(tensor) for tensor in apart}
    return [tensor for tensor, _ in found if id(tensor) not in left]


def _memory(tensor: Tensor) -> object:
    """What two tensors on meta have in common if they are to share memory."""
    plain = tensor.is_meta and not is_sharded(tensor) and not nn.parameter.is_lazy(tensor)
    return tensor.untyped_storage()._cdata if plain else ("alone", id(tensor))


def _check_values(fit: Fit, given: Collection[str]) -> None:
    """Raise ``TargetError`` for tensors on meta to which the plan gives no value."""
    known: dict[object, list[Tensor]] = {}
    left = (entry for entry in fit.plan if entry.kept and entry.name not in given)
    kept = {name for entry in left for name in (entry.name, *entry.ties)}
    problems = [
        f"{slot.name}: is on meta, and the plan keeps it, so it has no value; give it {_rule_for(slot)}, or take what "
        "the constructor computes: model, recorded = zeta.record(...), then recorded.override(rules, model)"
        for slot in without_value(fit.slots.values(), kept)
    ]
    for slot in fit.slots.values():
        stored = [] if slot.parametrization is None else parameters_of(slot.parametrization)
        for tensor in (slot.tensor, *stored):
            known.setdefault(_memory(tensor), []).append(tensor)

    def is_left(tensor: Tensor) -> bool:
        return tensor.is_meta and not covered(tensor, known.get(_memory(tensor), []))

    problems += [
        f"{entry.name}: is on meta, and the plan writes only its part {entry.section}; load the rest with zeta.adapt_"
        for entry in fit.plan
        if entry.section is not None and entry.name not in given and fit.slots[entry.name].tensor.is_meta
    ]
    problems += [
        f"{place} {tuple(tensor.shape)}: is a tensor on meta outside of parameters and buffers; "
        "register_buffer makes it one"
        for place, tensor in attributes(fit.model)
        if is_left(tensor)
    ]
    problems += [
        f"a tensor {tuple(tensor.shape)} of {type(module).__name__}: is on meta, and the plan does not reach it"
        for module in modules_of(fit.model)
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None and not nn.parameter.is_lazy(tensor) and is_left(tensor)
    ]
    if problems:
        raise TargetError(listed("these tensors would be left as raw memory; nothing was changed:", problems))


def _rule_for(slot: Slot) -> str:
    return f'Rule("{slot.name}", ..., buffers=True)' if slot.kind is Kind.BUFFER else "a rule"


def _twins(
    model: nn.Module, everything: list[Tensor], device: torch.device, wanted: dict[int, torch.dtype]
) -> list[_Twin]:
    """Allocate each storage once, and make every tensor's twin in it, with the dtype in ``wanted``."""
    tensors = {id(t): t for t in everything if not nn.parameter.is_lazy(t) and t.is_meta}
    originals = _originals(model)
    memories: dict[int, list[Tensor]] = {}
    twins: list[_Twin] = []
    for tensor in tensors.values():
        if is_sharded(tensor):
            twins.append(_sharded_twin(tensor, device, wanted.get(id(tensor), tensor.dtype)))
        else:
            memories.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
    problems: list[str] = []
    for sharing in memories.values():
        for group, dtype in _by_cast(sharing, wanted, problems):
            size = max((int(t.storage_offset()) + extent(t)) * (dtype or t.dtype).itemsize for t in group)
            # zeros, not empty: a parametrization reads its other tensors (singular vectors) before they are written
            allocate = torch.zeros if any(id(t) in originals for t in group) else torch.empty
            storage = allocate(size, dtype=torch.uint8, device=device).untyped_storage()
            for t in group:
                real = torch.empty(0, dtype=dtype or t.dtype, device=device)
                real.set_(storage, t.storage_offset(), t.shape, t.stride())
                twins.append(_Twin(tensor=t, real=real.requires_grad_(t.requires_grad)))
    if problems:
        raise TargetError(
            listed(
                "dtype= casts a part of the memory of these tensors, or changes what a view of another dtype is; pass "
                "cast_buffers=True, give them memory of their own, or cast the model afterwards:",
                problems,
            )
        )
    return twins


def _by_cast(
    sharing: list[Tensor], wanted: dict[int, torch.dtype], problems: list[str]
) -> Iterator[tuple[list[Tensor], torch.dtype | None]]:
    """Tensors of one memory: those that are cast, with their dtype, and those that have no element of these."""
    chosen = [t for t in sharing if id(t) in wanted]
    dtype = wanted[id(chosen[0])] if chosen else None
    followers = [t for t in sharing if id(t) not in wanted and chosen and meets(t, chosen)]
    problems += [
        f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"
        for t in followers
        if t.dtype is not chosen[0].dtype or not covered(t, chosen)
    ]
    moving = {id(t) for t in (*chosen, *followers)}
    groups = [([t for t in sharing if id(t) in moving], dtype), ([t for t in sharing if id(t) not in moving], None)]
    yield from ((group, kind) for group, kind in groups if group)


def _sharded_twin(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> _Twin:
    """Memory for the local shard of the tensor."""
    with torch.no_grad():
        real = torch.empty_like(tensor, dtype=dtype, device=device)
    return _Twin(tensor=tensor, real=real.requires_grad_(tensor.requires_grad))


def _originals(model: nn.Module) -> set[int]:
    """The tensors that parametrizations keep."""
    return {
        id(tensor)
        for module in modules_of(model)
        if isinstance(module, parametrize.ParametrizationList)
        for tensor in tensors_of(module)
    }
