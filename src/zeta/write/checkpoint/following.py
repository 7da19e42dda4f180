"""Kept buffers that look into the memory of parameters: in a model, they have what is written there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from zeta.base.tensors import extent, nbytes_of
from zeta.compute.values import values_of
from zeta.errors import TargetError
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot
from zeta.rules import Kind
from zeta.write.shards import held
from zeta.write.targets import meeting, memory_of, place_of

#: bytes of the largest element, of which every memory begins at a multiple
_ALIGNMENT: Final = 16

#: an entry that is written, and its tensor in the model
Leader = tuple[Entry, Tensor]


def leaders_of(plan: Plan, slots: Mapping[str, Slot]) -> dict[str, list[Leader]]:
    """For each saved buffer that follows parameters when these are written, those parameters."""
    entries = {entry.name: entry for entry in plan if entry.name in slots}
    followers = {e.name for e in entries.values() if e.kept and e.persistent and e.kind is Kind.BUFFER}
    if not followers:
        return {}
    written = {entry.name for entry in entries.values() if not entry.kept}
    memory = {name: memory_of(slots[name].tensor) for name in (*followers, *written)}
    found: dict[str, list[Leader]] = {}
    for pair in meeting(
        [(name, here) for name, here in memory.items() if here is not None],
        lambda name, owner: {name, owner} & followers != set() and {name, owner} & written != set(),
    ):
        name, leader = pair if pair[0] in followers else reversed(pair)
        found.setdefault(name, []).append((entries[leader], slots[leader].tensor))
    return found


def followed(name: str, tensor: Tensor, leaders: Sequence[Leader], seed: int) -> Tensor:
    """What a buffer has when the parameters whose memory it looks into have their values. The model does not change."""
    shards = [held(leader.detach()) for _, leader in leaders]
    tensors = [tensor.detach(), *(shard.local for shard in shards)]
    begins = [place_of(one)[1] for one in tensors]
    begin = min(begins) // _ALIGNMENT * _ALIGNMENT
    size = max(place + nbytes_of(one) for place, one in zip(begins, tensors, strict=True)) - begin
    if any((place - begin) % one.itemsize for place, one in zip(begins, tensors, strict=True)):
        raise TargetError(
            f"{name}: shares the memory of {leaders[0][0].name}, and one of them does not begin at a multiple of its "
            "elements' size; register a clone()"
        )
    memory = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
    views = [_view(memory, place - begin, one) for place, one in zip(begins, tensors, strict=True)]
    _flat(views[0]).copy_(_flat(tensors[0]))
    for (entry, _), shard, view in zip(leaders, shards, views[1:], strict=True):
        for part in shard.parts:
            for index, values in values_of(entry, seed, region=part.region):
                view[part.index][index].copy_(values)
    return views[0]


def _flat(tensor: Tensor) -> Tensor:
    """All that is between a tensor's first element in memory and its last, each once also where elements repeat."""
    tensor = tensor.conj() if tensor.is_conj() else tensor
    tensor = torch._neg_view(tensor) if tensor.is_neg() else tensor
    return tensor.as_strided((extent(tensor),), (1,))


def _view(memory: torch.UntypedStorage, begin: int, like: Tensor) -> Tensor:
    """A tensor of the same form that begins at a byte of a memory."""
    view = torch.empty(0, dtype=like.dtype, device="cpu")
    view.set_(memory, begin // like.itemsize, like.shape, like.stride())
    view = view.conj() if like.is_conj() else view
    return torch._neg_view(view) if like.is_neg() else view
