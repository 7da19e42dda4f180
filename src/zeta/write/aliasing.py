"""Which tensors have memory, and which of them share it."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from typing import Final

import torch
from torch import Tensor, nn

from zeta.resolve.slots import Slot
from zeta.rules import Kind
from zeta.write.shards import local


def shared(written: Collection[str], slots: Iterable[Slot]) -> list[str]:
    """Different parameters with an element in the same memory: to write one would change the other.

    Told of those of which at least one is to be ``written``.
    """
    parameters: dict[int, Slot] = {}
    for slot in slots:
        if slot.kind is not Kind.BUFFER or slot.name in written:
            parameters.setdefault(id(slot.tensor), slot)  # the first of tied names is the canonical one
    memories = [(local(slot.tensor), slot.name) for slot in parameters.values() if _has_memory(slot.tensor)]
    devices: dict[torch.device, int] = {}
    extents = sorted(
        (
            (devices.setdefault(tensor.device, len(devices)), tensor.data_ptr(), _bytes(tensor), tensor, name)
            for tensor, name in memories
            if tensor.numel() and has_address(tensor)
        ),
        key=operator.itemgetter(0, 1),
    )
    problems: list[str] = []
    open_extents: list[tuple[int, int, int, Tensor, str]] = []
    for extent in extents:
        device, begin, _, tensor, name = extent
        open_extents = [other for other in open_extents if other[0] == device and other[1] + other[2] > begin]
        problems += [
            f"{name}: shares the memory of {owner_name}, but is another Parameter; tie them by assigning the same "
            "Parameter, or give one its own memory"
            for _, _, _, owner, owner_name in open_extents
            if not {name, owner_name}.isdisjoint(written) and _meet(owner, tensor)
        ]
        open_extents.append(extent)
    return problems


_PLAIN: Final = (Tensor, nn.Parameter)


def has_address(tensor: Tensor) -> bool:
    """Whether there are bytes to write to: a subclass that wraps other tensors, or a fake tensor, has none."""
    if tensor.numel() == 0:
        return True
    try:
        if type(tensor) in _PLAIN and not tensor.is_meta:
            return tensor.untyped_storage().data_ptr() != 0
        storage = tensor.untyped_storage()
        return storage.device.type != "meta" and storage.data_ptr() != 0
    except RuntimeError:
        return False


def _meet(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors whose extents overlap, the first beginning no later, have an element in common."""
    size = first.element_size()
    shift = second.data_ptr() - first.data_ptr()
    if second.element_size() != size or shift % size:
        return True
    marks = torch.zeros(max(_reach(first), shift // size + _reach(second)), dtype=torch.bool, device="cpu")
    marks.as_strided(first.shape, first.stride()).fill_(True)
    return bool(marks.as_strided(second.shape, second.stride(), shift // size).any())


def _bytes(tensor: Tensor) -> int:
    """The number of bytes from the first element in memory to the last, both included."""
    return _reach(tensor) * tensor.element_size()


def _reach(tensor: Tensor) -> int:
    """The number of elements from the first in memory to the last, both included."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _has_memory(tensor: Tensor) -> bool:
    """Whether the tensor is strided and in memory."""
    return not (nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.layout is not torch.strided)


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
