"""Buffers whose memory something outside of the model has too, such as a cache of tables for all models of a class.

The model gets other tensors for them, on meta; those outside are given values, as every tensor is that is not its own.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from typing import Final

import torch
from torch import Tensor, nn

from zeta.base.modules import modules_of, parameters_of
from zeta.base.tensors import attributes
from zeta.errors import RecordingError
from zeta.resolve.recording.tracing import Recorder, concrete

#: bytes of the largest memory outside of parameters and buffers that is computed when the constructor has run
LARGEST_STRAY: Final = 2**26


def part_from_caches(model: nn.Module, recorder: Recorder) -> None:
    """Replace the buffers whose memory others have, if its values are known: nothing could give others random ones.

    Who else has a tensor follows from the number of references to it. So call this while nothing here holds a buffer.
    """
    tables = [module._buffers for module in modules_of(model) if module._buffers]
    places = [(table, local) for table in tables for local, tensor in table.items() if _is_recorded(tensor)]
    if not places:
        return
    counts = Counter(id(table[local]) for table, local in places)
    memories = {_memory(table[local]) for table, local in places}
    shared = {_memory(table[local]) for table, local in places if _references(table[local]) > counts[id(table[local])]}
    for reference, _ in (*recorder.made, *recorder.views):
        tensor = reference()
        if _is_recorded(tensor) and id(tensor) not in counts and _memory(tensor) in memories - shared:
            shared |= {_memory(tensor)} if _references(tensor) > 1 else set()  # 1: the name in this loop
    own = (*parameters_of(model), *(found for _, found in attributes(model)))
    shared -= {_memory(found) for found in own if _is_recorded(found)}
    known = {memory for memory in shared if _is_known(memory, recorder)}
    new: dict[int, torch.UntypedStorage] = {}
    twins: dict[int, Tensor] = {}
    for table, local in places:
        found = table[local]
        if _memory(found) in known:
            table[local] = twins.setdefault(id(found), _twin(found, new))


def _is_recorded(tensor: Tensor | None) -> bool:
    if tensor is None or nn.parameter.is_lazy(tensor):
        return False
    return tensor.is_meta and tensor.layout is torch.strided


def _memory(tensor: Tensor | None) -> int:
    assert tensor is not None
    return int(tensor.untyped_storage()._cdata)


def _references(tensor: Tensor | None) -> int:
    """How many names and containers have a tensor, besides this function and torch itself."""
    assert tensor is not None
    return sys.getrefcount(tensor) - _of_torch()[getattr(tensor, "_use_count", int)() > 1]


@functools.cache
def _of_torch() -> tuple[int, int]:
    """What the count of references has besides those: of a tensor alone, and of one of which there are views."""
    table = {"tensor": torch.empty(2, device="meta")}
    alone = _counted(table["tensor"]) - 1
    view = table["tensor"][1:]
    with_view = _counted(table["tensor"]) - 1
    del view
    return alone, with_view


def _counted(tensor: Tensor) -> int:
    return sys.getrefcount(tensor)


def _is_known(memory: int, recorder: Recorder) -> bool:
    """Whether the values in a memory are known, so that others can have them."""
    cell = recorder.graph.cells.get(memory)
    if cell is None or cell.storage.nbytes() > LARGEST_STRAY:
        return False
    try:
        concrete(cell.node, "it")
    except RecordingError:
        return False
    return True


def _twin(tensor: Tensor | None, new: dict[int, torch.UntypedStorage]) -> Tensor:
    """A tensor like this one, on meta, in another memory, which is one for all tensors of the same memory."""
    assert tensor is not None
    size = tensor.untyped_storage().nbytes()
    memory = new.setdefault(_memory(tensor), torch.empty(size, dtype=torch.uint8, device="meta").untyped_storage())
    twin = torch.empty(0, dtype=tensor.dtype, device="meta")
    twin.set_(memory, tensor.storage_offset(), tensor.shape, tensor.stride())
    vars(twin).update(vars(tensor))
    return twin.requires_grad_(tensor.requires_grad)
