"""Whether values can be written to a tensor: it has memory, of a weight's dtype, that no other parameter shares."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.distributed import is_sharded, local
from zeta.base.modules import parameters_of
from zeta.base.tensors import extent, has_address
from zeta.errors import TargetError
from zeta.resolve.fitting import check_dtype
from zeta.resolve.plans import Entry
from zeta.resolve.slots import Slot
from zeta.rules import Kind
from zeta.write.placeholders import runtime_problem


def shared(written: Collection[str], slots: Iterable[Slot]) -> list[str]:
    """Different parameters with an element in the same memory: to write one would change the other.

    Told of those of which at least one is to be ``written``.
    """
    parameters: dict[int, Slot] = {}
    for slot in slots:
        if slot.kind is not Kind.BUFFER or slot.name in written:
            parameters.setdefault(id(slot.tensor), slot)  # the first of tied names is the canonical one
    devices: dict[torch.device, int] = {}
    extents: list[tuple[int, int, int, Tensor, str]] = []
    for slot in parameters.values():
        if nn.parameter.is_lazy(slot.tensor) or slot.tensor.is_meta or slot.tensor.layout is not torch.strided:
            continue
        tensor = local(slot.tensor)
        if tensor.numel() and has_address(tensor):
            device = devices.setdefault(tensor.device, len(devices))
            extents.append((device, tensor.data_ptr(), _bytes(tensor), tensor, slot.name))
    extents.sort(key=operator.itemgetter(0, 1))
    problems: list[str] = []
    open_extents: list[tuple[int, int, int, Tensor, str]] = []
    for found in extents:
        device, begin, _, tensor, name = found
        open_extents = [other for other in open_extents if other[0] == device and other[1] + other[2] > begin]
        problems += [
            f"{name}: shares the memory of {owner_name}, but is another Parameter; tie them by assigning the same "
            "Parameter, or give one its own memory"
            for _, _, _, owner, owner_name in open_extents
            if not {name, owner_name}.isdisjoint(written) and _meet(owner, tensor)
        ]
        open_extents.append(found)
    return problems


def _meet(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors whose extents overlap, the first beginning no later, have an element in common."""
    size = first.element_size()
    shift = second.data_ptr() - first.data_ptr()
    if second.element_size() != size or shift % size:
        return True
    marks = torch.zeros(max(extent(first), shift // size + extent(second)), dtype=torch.bool, device="cpu")
    marks.as_strided(first.shape, first.stride()).fill_(True)
    return bool(marks.as_strided(second.shape, second.stride(), shift // size).any())


def _bytes(tensor: Tensor) -> int:
    """The number of bytes from the first element in memory to the last, both included."""
    return extent(tensor) * tensor.element_size()


def overlaps(tensor: Tensor) -> bool:
    """Whether two elements may share memory."""
    if tensor.is_contiguous():
        return False
    reach = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def check_target(entry: Entry, slot: Slot) -> None:
    """Raise ``TargetError`` or ``SpecError`` if this tensor cannot hold the entry's values."""
    check_memory(slot)
    if not entry.kept:
        check_writable(slot)
        check_dtype(entry.initializer, slot.tensor.dtype)


def check_memory(slot: Slot) -> None:
    """Raise ``TargetError`` if the tensor has no memory yet, or stands for memory elsewhere."""
    tensor = slot.tensor
    if nn.parameter.is_lazy(tensor):
        raise TargetError("is lazy and has no shape yet; run one forward pass first")
    if slot.kind is not Kind.BUFFER and (elsewhere := runtime_problem(slot)) is not None:
        raise TargetError(elsewhere)
    if tensor.is_meta:
        raise TargetError(
            "is on the meta device and has no memory; build the model on a real device, or call "
            "to_empty(device=...) first"
        )


def check_writable(slot: Slot) -> None:
    """Raise ``TargetError`` if the tensor's memory is not that of a floating-point weight or of parts of one."""
    tensor = local(slot.tensor)
    if slot.parametrization is not None and any(map(is_sharded, parameters_of(slot.parametrization))):
        raise TargetError(
            "is parametrized, and its stored tensors are sharded, which no right_inverse can work on; initialize "
            "before sharding"
        )
    if tensor.layout is not torch.strided:
        raise TargetError(
            f"has layout {str(tensor.layout).removeprefix('torch.')}; initialize the dense model and make it sparse "
            "afterwards, or use Keep()"
        )
    if not tensor.is_meta and not has_address(tensor):
        raise TargetError(
            f"is a {type(tensor.data).__name__} without memory of its own; initialize the plain tensor and wrap it "
            "afterwards, or use Keep()"
        )
    if slot.kind is not Kind.BUFFER and not dtypes.is_drawable(tensor.dtype):
        raise TargetError(
            f"has dtype {dtypes.name_of(tensor.dtype)}; initialize the floating-point model and quantize it "
            "afterwards, or use Keep()"
        )
    if slot.parametrization is None and overlaps(tensor):
        raise TargetError(
            f"has overlapping memory (strides {tensor.stride()}); give it memory of its own with .contiguous() or "
            ".clone()"
        )
